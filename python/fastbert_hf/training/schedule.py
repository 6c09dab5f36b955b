"""How long step 1 trains and how fast, where nobody says so: a rule of texts, classes and the width of the backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Optimiser steps that a classifier takes to learn its classes, at least.
FEWEST_STEPS, STEPS_PER_CLASS = 400, 10
FEWEST_EPOCHS, MOST_EPOCHS = 3, 15
# Highest learning rate of AdamW, below this width of the backbone and from it on.
WIDE = 512
NARROW_RATE, WIDE_RATE = 1e-4, 3e-5


@dataclass(frozen=True)
class Schedule:
    """What the rule says.

    Attributes:
        epochs: passes over the texts, a whole number.
        learning_rate: the highest one.
    """

    epochs: int
    learning_rate: float


def schedule_for(texts: int, classes: int, hidden_size: int, batch_size: int = 32) -> Schedule:
    """Return epochs and learning rate of step 1, or of joint training, for a data set and a backbone.

    - Steps: 10 for each class, 400 at least; in whole epochs, from 3 (more texts need no fewer passes) to 15 (beyond
      which few texts are learnt by heart). The course of the learning rate ends with the last step, so that a
      run that is too short ends before it has learnt.
    - Learning rate: 1e-4 for backbones narrower than 512, else 3e-5.

    `benchmarks/training_rules.py` compares the rule with a grid of both numbers, which docs/training.md is to have.

    Args:
        texts: to train on, 1 or more.
        classes: of the labels.
        hidden_size: width of the backbone.
        batch_size: texts of an optimiser step.

    Raises:
        ValueError: a number below 1.
    """
    if min(texts, classes, hidden_size, batch_size) < 1:
        raise ValueError(
            f"texts, classes, hidden_size and batch_size must be 1 or more, got {texts}, {classes}, {hidden_size} and "
            f"{batch_size}"
        )
    steps = max(FEWEST_STEPS, STEPS_PER_CLASS * classes)
    epochs = math.ceil(steps / math.ceil(texts / batch_size))
    return Schedule(
        epochs=min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS),
        learning_rate=NARROW_RATE if hidden_size < WIDE else WIDE_RATE,
    )
