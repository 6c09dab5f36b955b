"""Step 1 in rounds: it trains on while the score on dev data still rises, up to a limit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from fastbert_hf.data import ClassificationData
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.fine_tuning import fine_tune
from fastbert_hf.training.running import RunOptions, TrainingResult
from fastbert_hf.training.settings import LabelSettings

RISE = 0.005  # by which the last epoch is better than all before it, so that another round is worth its time


@dataclass(frozen=True)
class StillRising:
    """A round whose last epoch is better than all before it.

    Attributes:
        best_before: the score of the best of these.
        last: the score of the last epoch.
        epochs: of all rounds so far.
        goes_on: whether another round follows; else it would exceed the limit.
    """

    best_before: float
    last: float
    epochs: float
    goes_on: bool


def fine_tune_in_rounds(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    settings: LabelSettings,
    dev: ClassificationData | None,
    max_epochs: float,
    options_of: Callable[[str], RunOptions] = lambda name: {},
    tell: Callable[[StillRising], None] = lambda state: None,
) -> dict[str, TrainingResult]:
    """Fine-tune once, and again from there with a fresh course of the learning rate as long as that is worth it.

    A round is a run of `fine_tune`, which `options_of` may give a folder of its own, so that each is resumed as any
    other; the model keeps the weights of the best epoch of all of them.

    Args:
        model: changed in place.
        tokenizer: the backbone's.
        data: labelled texts.
        settings: of each round, but for the seed, which counts up.
        dev: texts to score on; without them there is one round.
        max_epochs: of all rounds together; a limit below those of `settings` shortens the first one.
        options_of: from the name of a round ("fine_tune", "fine_tune_2", ...) to what `fine_tune` takes beside `dev`.
        tell: called after a round with which the score still rises, before the next one.

    Returns:
        The result of every round, by name.

    Raises:
        ValueError, RuntimeError, KeyboardInterrupt: as `fine_tune`; also for a limit that is not above 0.
    """
    settings = replace(settings, epochs=min(settings.epochs, max_epochs))
    results: dict[str, TrainingResult] = {}
    scores: list[float] = []  # of all epochs
    while True:
        name = f"fine_tune_{len(results) + 1}" if results else "fine_tune"
        best = copy.deepcopy(model.state_dict()) if results else None
        seeded = replace(settings, seed=settings.seed + len(results))
        run: RunOptions = {**options_of(name), "dev": dev}
        if scores:
            run["score_to_beat"] = max(scores)
        result = results[name] = fine_tune(model, tokenizer, data, seeded, **run)
        if dev is None:
            return results
        found = [epoch[f"dev_{settings.best_by}"] for epoch in result.epochs]
        if best is not None and max(found) < max(scores):
            model.load_state_dict(best)
        before = [*scores, *found[:-1]]
        scores += found
        if not before or found[-1] < max(before) + RISE:
            return results
        goes_on = (len(results) + 1) * settings.epochs <= max_epochs
        tell(StillRising(max(before), found[-1], len(results) * settings.epochs, goes_on))
        if not goes_on:
            return results
