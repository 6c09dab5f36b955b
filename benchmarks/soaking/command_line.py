"""What the benchmarks of a running server have in common as commands."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from harness import RESULTS
from serving.subjects import planned, synthetic_texts

_TEXTS = 120


class Asked(NamedTuple):
    """What clients ask.

    Attributes:
        name: of the model.
        model: its folder.
        folder: for what a benchmark writes, which goes away with it.
        texts: all different.
    """

    name: str
    model: Path
    folder: Path
    texts: list[str]


def parser_of(description: str, shape: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all have; `shape` is the default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--clients", type=int, default=16, help="that ask at the same time")
    parser.add_argument("--shape", default=shape, choices=["tiny", "MiniLM-L6"], help="of the model")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result files")
    return parser


@contextmanager
def asked(shape: str) -> Iterator[Asked]:
    """Make a model of random weights whose texts leave at all layers, and the texts, for the time of the block.

    SIGTERM leaves the block by SystemExit, so that whoever has started a server there can end it.
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with TemporaryDirectory() as name:
            folder, texts = Path(name), sorted(set(synthetic_texts(_TEXTS)))
            subject = planned(folder, shape, texts, torch.float32)
            yield Asked(subject.name, subject.fastbert, folder, texts)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)
