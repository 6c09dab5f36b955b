"""Data sets that the tests of benchmarks share."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def two_class_data(tmp_path):
    """Texts of two classes, all different: words of one class are rare in the other."""
    draw, folder = random.Random(0), tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    seen = set()
    for part, count in (("train", 160), ("dev", 60), ("test", 80)):
        lines = ["label\ttext"]
        while len(lines) <= count:
            label = draw.randrange(2)
            text = " ".join(draw.choice(["very", "film", ("bad", "good")[label]]) for _ in range(12))
            if text not in seen:
                seen.add(text)
                lines.append(f"{label}\t{text}")
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"
