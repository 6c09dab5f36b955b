"""Texts that the training saw promise nothing: they are left out, or the guarantee is refused."""

from __future__ import annotations

import sys

import numpy as np

from fastbert_cli.errors import CommandError
from fastbert_hf.data.samples import Data, select_texts
from fastbert_hf.modeling import FastBertForSequenceClassification

TRACE = 0.01  # part of the texts that is left out with a note; more of them is a file of the training


def unseen_texts(
    model: FastBertForSequenceClassification, data: Data, source: str, *, guaranteed: bool, leave_out: bool
) -> Data:
    """Return the texts of `data` that a calibration may rest on.

    Args:
        model: with the texts that its training saw.
        data: texts to calibrate on.
        source: their name, for messages.
        guaranteed: the target comes with a guarantee, which holds for texts that the training did not see.
        leave_out: leave seen texts out, however many they are.

    Raises:
        CommandError: a guarantee is asked for, and more than `TRACE` of the texts were seen, or all of them.
    """
    seen = model.seen_texts.among(data)
    number, rest = int(seen.any.sum()), int((~seen.any).sum())
    if number == 0:
        return data
    told = f"{source}: {seen.in_words()}"
    if rest == 0 and (guaranteed or leave_out):
        raise CommandError(f"{told}, so nothing can be guaranteed by them; calibrate on texts of a file of their own")
    if leave_out or (guaranteed and number <= TRACE * len(data)):
        print(f"note: {told}; they are left out, and {rest:,} stay", file=sys.stderr)
        return select_texts(data, np.flatnonzero(~seen.any).tolist())
    if guaranteed:
        raise CommandError(
            f"{told}, so nothing can be guaranteed by them; calibrate on texts of a file of their own, or leave "
            f"these out with --leave-out-seen ({rest:,} stay)"
        )
    print(f"note: {told}, so the figures below flatter; a file of its own tells more", file=sys.stderr)
    return data
