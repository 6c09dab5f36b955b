"""Data sets that the tests of benchmarks share."""

from __future__ import annotations

import random

import pytest
from transformers import BertConfig, BertModel

from helpers.training import make_tokenizer


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


@pytest.fixture
def quick_run(two_class_data, tmp_path, monkeypatch):
    """Arguments of a benchmark of adopted classifiers that runs quickly, from a backbone of 3 layers; the working
    directory, where it puts its models, is a new one."""
    backbone, tokenizer = tmp_path / "backbone", make_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    monkeypatch.chdir(tmp_path)
    return ["--data", str(two_class_data), "--tasks", "sst2", "--backbone", str(backbone), "--quick"]
