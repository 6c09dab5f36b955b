"""The rule for epochs and learning rate: enough steps, within its limits, and what is out of range."""

from __future__ import annotations

import itertools
import math

import pytest

from fastbert_hf.training import schedule_for
from fastbert_hf.training.schedule import FEWEST_EPOCHS, FEWEST_STEPS, MOST_EPOCHS, STEPS_PER_CLASS

TEXTS = (1, 31, 500, 3_000, 20_000, 1_000_000)
CLASSES = (2, 4, 77, 1_000)


def test_the_steps_are_enough_and_not_an_epoch_more() -> None:
    for texts, classes, batch in itertools.product(TEXTS, CLASSES, (8, 32)):
        epochs = schedule_for(texts, classes, 384, batch).epochs
        an_epoch = math.ceil(texts / batch)
        wanted = max(FEWEST_STEPS, STEPS_PER_CLASS * classes)
        assert FEWEST_EPOCHS <= epochs <= MOST_EPOCHS
        assert epochs == MOST_EPOCHS or epochs * an_epoch >= wanted
        assert epochs == FEWEST_EPOCHS or (epochs - 1) * an_epoch < wanted


def test_more_classes_train_longer_and_wider_backbones_more_carefully() -> None:
    assert [schedule_for(3_000, classes, 384).epochs for classes in CLASSES] == [5, 5, 9, 15]
    rates = [schedule_for(3_000, 2, hidden).learning_rate for hidden in (128, 384, 768, 1024)]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1 or more, got 0, 2, 384 and 32"):
        schedule_for(0, 2, 384)
