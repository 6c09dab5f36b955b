"""Recorded exits of populations whose truth is known, for tests that draw calibrations from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fastbert_hf.calibration import (
    ExitRecords,
    ExitRule,
    simulate,
)
from fastbert_hf.flops import ModelShape

DISTANCE = 0.3  # by which the scores of `make_score_population` may differ from the last one


def make_population(size: int, heads: int = 3, seed: int = 0) -> ExitRecords:
    """Samples of two classes, some of them hard; the deeper the head, the more of them it gets right."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (size,), generator=generator)
    logits = torch.randn(size, heads, 2, generator=generator)
    ease = torch.linspace(2, 6, heads) - 3 * torch.rand(size, 1, generator=generator)
    logits[torch.arange(size), :, classes] += ease
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, classes, lengths, ModelShape(256, 1024, heads, 16, 2), "0" * 64)


def make_multi_label_population(size: int, heads: int = 3) -> ExitRecords:
    """The same with three classes that a sample has or has not, each on its own."""
    generator = torch.Generator().manual_seed(0)
    has = torch.randint(2, (size, 1, 3), generator=generator) * 2.0 - 1
    ease = torch.linspace(2, 6, heads)[:, None] - 3 * torch.rand(size, 1, 1, generator=generator)
    logits = torch.randn(size, heads, 3, generator=generator) + has * ease
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, None, lengths, ModelShape(256, 1024, heads, 16, 3), multi_label=True)


def make_score_population(size: int, heads: int = 4, seed: int = 0) -> ExitRecords:
    """Scores that come nearer to the last one from head to head, at once for easy samples and late for hard ones."""
    generator = torch.Generator().manual_seed(seed)
    last = 3 * torch.randn(size, 1, generator=generator)
    hardness = torch.rand(size, 1, generator=generator) ** 2
    spread = 2 * hardness * torch.linspace(1, 0, heads)
    logits = (last + spread * torch.randn(size, heads, generator=generator))[..., None]
    lengths = torch.randint(3, 60, (size,), generator=generator)
    return ExitRecords(logits, None, lengths, ModelShape(256, 1024, heads, 16, 1)).with_max_score_change(DISTANCE)


def with_layer_zero(records: ExitRecords, *, helps: bool) -> ExitRecords:
    """Put a head before the first layer that is sure of some samples, and not at all of the others.

    Args:
        records: of a model without exit zero.
        helps: whether it answers what the last head does, on half of the samples; else it answers another class, on a
            fifth. A score, which leaves by its change, is that of the last head, or that of the head behind, which so
            lets all samples go.
    """
    last, classes = records.logits[:, -1], records.shape.num_labels
    sure = torch.rand(len(records), generator=torch.Generator().manual_seed(2)) < (0.5 if helps else 0.2)
    if records.gives_scores:
        first = last if helps else records.logits[:, 0]
    elif records.multi_label:
        first = 40 * (1 if helps else -1) * last.sign() * sure[:, None]
    else:
        answers = (last.argmax(dim=-1) + (not helps)) % classes
        first = 40 * torch.nn.functional.one_hot(answers, classes).float() * sure[:, None]
    shape = replace(records.shape, exit_layers=(0, *records.exit_layers))
    return replace(records, logits=torch.cat([first[:, None], records.logits], dim=1), shape=shape)


def make_population_with_errors(size: int) -> ExitRecords:
    """A population of which full depth gets one in ten wrong."""
    records = make_population(size)
    wrong = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.1
    return replace(records, labels=records.labels ^ wrong.long())


POPULATIONS = {
    "labels": make_population_with_errors,
    "no labels": lambda size: make_population(size).without_labels(),
    "multi-label": make_multi_label_population,
}


def losses_of(population: ExitRecords, rule: ExitRule) -> np.ndarray:
    """Tell which samples are right at full depth and wrong at the rule's exit; without labels, other at it."""
    if population.labels is None:
        answers, full_depth = simulate(population, rule).predictions, population.logits[:, -1]
        if population.multi_label:
            return (answers != (full_depth > 0).numpy()).any(axis=1)
        return answers != full_depth.argmax(dim=-1).numpy()
    wrong = simulate(population, rule).predictions != population.labels.numpy()
    full_depth = population.logits[:, -1].argmax(dim=-1) == population.labels
    return full_depth.numpy() & wrong
