"""Step 1 in rounds: it trains on while the score on dev data still rises, up to a limit."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from fastbert_cli.output_folder import OutputFolder
from fastbert_cli.train.command import TrainConfig
from fastbert_hf.data import ClassificationData
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import TrainingResult, fine_tune

RISE = 0.005  # by which the last epoch is better than all before it, so that another round is worth its time


def fine_tune_in_rounds(
    output: OutputFolder[TrainConfig],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: ClassificationData,
    dev: ClassificationData | None,
) -> dict[str, TrainingResult]:
    """Fine-tune once, and again from there with a fresh course of the learning rate as long as that is worth it.

    A round is a run of `fine_tune` in a folder of its own, so that each is resumed as any other; the model keeps the
    weights of the best epoch of all of them.

    Args:
        output: folder of the run, whose configuration says how long a round is and how many epochs there may be.
        model: changed in place.
        tokenizer: the backbone's.
        train: labelled texts.
        dev: texts to score on; without them there is one round.

    Returns:
        The result of every round, by the name of its folder.
    """
    settings, limit = output.config.fine_tuning(), output.config.fine_tune.max_epochs
    assert limit is not None  # once the texts are read
    results: dict[str, TrainingResult] = {}
    scores: list[float] = []  # of all epochs
    while True:
        name = f"fine_tune_{len(results) + 1}" if results else "fine_tune"
        best = copy.deepcopy(model.state_dict()) if results else None
        seeded = replace(settings, seed=settings.seed + len(results))
        result = results[name] = fine_tune(model, tokenizer, train, seeded, dev=dev, **output.of_step(name))
        if dev is None:
            return results
        found = [epoch[f"dev_{settings.best_by}"] for epoch in result.epochs]
        if best is not None and max(found) < max(scores):
            model.load_state_dict(best)
        before = [*scores, *found[:-1]]
        scores += found
        if not before or found[-1] < max(before) + RISE:
            return results
        told = f"the score on --dev still rises ({max(before):.2%} before, {found[-1]:.2%} in the last epoch)"
        if (len(results) + 1) * settings.epochs > limit:
            further = f"--max-epochs {2 * settings.epochs * (len(results) + 1):g} trains on"
            print(f"note: {told}; {further}", file=sys.stderr)
            return results
        output.console.print(f"{told}: another {settings.epochs:g} epochs", soft_wrap=True)
