"""Records for the tests of analyses, what leaves where in plain Python, and a reader of pages."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import torch

from fastbert_hf.calibration import ExitRecords
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.flops import ModelShape

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Notes tags, attributes and text, and fails where an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text.append(data)


def read_page(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def make_records(
    size: int = 200, layers: tuple[int, ...] = (1, 2, 3, 4), labels: int = 3, seed: int = 0
) -> ExitRecords:
    """Samples of which some are hard; deeper heads are right more often, and all are surer when they are right."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(labels, (size,), generator=generator)
    logits = torch.randn(size, len(layers), labels, generator=generator) * 1.5
    logits[torch.arange(size), :, classes] += torch.linspace(2, 5, len(layers)) - 4 * torch.rand(
        size, 1, generator=generator
    )
    shape = ModelShape(32, 64, layers[-1], 16, labels, exit_layers=layers)
    return ExitRecords(logits, classes, torch.randint(3, 60, (size,), generator=generator), shape)


def plain_rows(records: ExitRecords, speed: float) -> list[tuple[int, int, float, int, int]]:
    """Return for every sample in turn exit head, exit layer, uncertainty there, prediction there and label."""
    threshold = float(np.float32(speed))
    rows = []
    for every, logits, label in zip(
        uncertainties(records, "entropy").tolist(), records.logits.tolist(), records.labels.tolist(), strict=True
    ):
        head = 0
        while head < len(every) - 1 and not every[head] < threshold:
            head += 1
        answer = logits[head].index(max(logits[head]))
        rows.append((head, records.exit_layers[head], every[head], answer, label))
    return rows
