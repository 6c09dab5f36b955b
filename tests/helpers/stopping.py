"""Trainings that are stopped in their middle, and how much of them is done again."""

from __future__ import annotations

import pytest
from transformers import Trainer


class Stopped(Exception):
    """The machine went down."""


class CountedBatches:
    """Counts the batches that trainers of a class learn from, and stops before number `stops_at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, trainer: type[Trainer]) -> None:
        self.taken, self.stops_at = 0, -1
        compute = trainer.compute_loss

        def counted(own: Trainer, *arguments: object, **options: object) -> object:
            if self.taken == self.stops_at:
                raise Stopped
            self.taken += 1
            return compute(own, *arguments, **options)

        monkeypatch.setattr(trainer, "compute_loss", counted)
