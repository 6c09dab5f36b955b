"""What commands measure: answers of every exit once, and times of models, Speeds and rules, interleaved."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastbert_kernels
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.flops import ModelShape, flops_speedup
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import evaluate

Batch = dict[str, Tensor]
Depth = float | ExitRule | None  # when samples leave; None: full depth
Track = Callable[[Iterable[Any]], Iterable[Any]]  # shows progress over what it iterates

# Of the times of rules.
_ROUNDS = 3
_SECONDS_PER_RULE = 3.0  # of a round, at full depth
_FEWEST_TIMED = 16
# Samples whose uncertainty lies closer to their Speed than this may leave at another layer in another precision.
TIE = {"patched": 1e-4, "patched bfloat16": 2e-2, "patched int8": 5e-2}


@dataclass(frozen=True)
class AllExits:
    """Every exit head's answer on a data set of n samples.

    Attributes:
        predictions: int64 [n, L], class ids.
        uncertainty: float32 [n, L].
        lengths: int64 [n], tokens of each sample.
    """

    predictions: Tensor
    uncertainty: Tensor
    lengths: Tensor

    def exit_layers(self, speed: float | None) -> Tensor:
        """int64 [n] in 1..L: the first layer whose uncertainty is below `speed`, else the last."""
        exits = torch.zeros_like(self.uncertainty, dtype=torch.bool)
        if speed is not None:
            exits = self.uncertainty < speed
        exits[:, -1] = True
        return exits.int().argmax(dim=1) + 1


@torch.inference_mode()
def run_all_exits(
    model: FastBertForSequenceClassification, dataset: TokenisedDataset, batch_size: int, track: Track
) -> AllExits:
    """One pass of the unpatched model over `dataset` with every exit head evaluated."""
    predictions, uncertainty = [], []
    for batch in track(list(dataset.batches(batch_size))):
        output = model(**_without_labels(batch), speed=0.0, output_all_exits=True)
        predictions.append(output.all_logits.argmax(dim=-1))
        uncertainty.append(output.all_uncertainty)
    return AllExits(torch.cat(predictions), torch.cat(uncertainty), torch.tensor(dataset.lengths))


def make_variants(
    model: FastBertForSequenceClassification, bfloat16: bool
) -> dict[str, FastBertForSequenceClassification]:
    """The models to compare: unpatched, patched, and patched in bfloat16 where the processor computes in it and in int8
    where the kernels do."""
    variants = {"unpatched": model, "patched": fastbert_kernels.patch(copy.deepcopy(model))}
    if bfloat16:
        variants["patched bfloat16"] = fastbert_kernels.patch(copy.deepcopy(model), dtype=torch.bfloat16)
    with contextlib.suppress(ValueError):  # no compiled CPU kernels
        variants["patched int8"] = fastbert_kernels.patch(copy.deepcopy(model), dtype=torch.int8)
    return variants


@torch.inference_mode()
def check_agreement(
    variants: dict[str, FastBertForSequenceClassification], batches: list[Batch], speeds: Iterable[float], track: Track
) -> dict[str, dict[str, float]]:
    """How far the patched models' answers are those of the unpatched one, over `batches` and `speeds`.

    Returns:
        For each patched variant: `labels`, share of equal predicted labels; `exit_layers`, share of equal exit layers
        among the samples that no uncertainty puts within `TIE` of the Speed; `logits`, largest difference where the
        exit layers agree.
    """
    counts = {
        name: {"samples": 0, "labels": 0, "decided": 0, "exit_layers": 0, "logits": 0.0}
        for name in TIE
        if name in variants
    }
    for batch in track(batches):
        inputs = _without_labels(batch)
        every = variants["unpatched"](**inputs, speed=0.0, output_all_exits=True).all_uncertainty[:, :-1]
        for speed in speeds:
            want = variants["unpatched"](**inputs, speed=speed)
            for name, count in counts.items():
                got = variants[name](**inputs, speed=speed)
                same = got.exit_layer == want.exit_layer
                decided = ((every - speed).abs() > TIE[name]).all(dim=1)
                count["samples"] += len(same)
                count["labels"] += int((got.logits.argmax(-1) == want.logits.argmax(-1)).sum())
                count["decided"] += int(decided.sum())
                count["exit_layers"] += int((same & decided).sum())
                if same.any():
                    difference = (got.logits - want.logits)[same].abs().max().item()
                    count["logits"] = max(count["logits"], difference)
    return {
        name: {
            "labels": count["labels"] / count["samples"],
            "exit_layers": count["exit_layers"] / count["decided"] if count["decided"] else 1.0,
            "logits": count["logits"],
        }
        for name, count in counts.items()
    }


def run_accuracy(
    variants: dict[str, FastBertForSequenceClassification],
    dataset: TokenisedDataset,
    speeds: Iterable[float | None],
    batch_size: int,
    track: Track,
) -> dict[tuple[str, float | None], float]:
    """Accuracy of every variant at every Speed (None: full depth) over the whole of `dataset`."""
    runs = [(name, speed) for name in variants for speed in speeds]
    return {(name, speed): evaluate(variants[name], dataset, speed, batch_size).accuracy for name, speed in track(runs)}


@dataclass(frozen=True)
class Timing:
    """Seconds for the timed samples, one figure per round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@torch.inference_mode()
def time_variants(
    variants: dict[str, FastBertForSequenceClassification],
    batches: list[Batch],
    speeds: Iterable[Depth],
    rounds: int,
    track: Track,
) -> dict[tuple[str, Depth], Timing]:
    """Times every variant at every Speed or exit rule (None: full depth).

    Within a round all of them take turns batch by batch, so that what disturbs the machine disturbs them alike.
    """
    runs = list(dict.fromkeys((name, speed) for speed in speeds for name in variants))  # what is there twice runs once
    inputs = [_without_labels(batch) for batch in batches]
    for name, speed in runs:  # caches, allocators, folded weights
        variants[name](**inputs[0], speed=speed or 0.0)
    seconds: dict[tuple[str, Depth], list[float]] = {run: [0.0] * rounds for run in runs}
    for step in track([(number, batch) for number in range(rounds) for batch in inputs]):
        number, batch = step
        for name, speed in runs:
            begin = time.perf_counter()
            variants[name](**batch, speed=speed or 0.0).exit_layer.cpu()  # waits for a GPU
            seconds[name, speed][number] += time.perf_counter() - begin
    return {run: Timing(values) for run, values in seconds.items()}


@torch.inference_mode()
def timed_batches(
    model: FastBertForSequenceClassification, dataset: TokenisedDataset, batch_size: int, seed: int
) -> list[Batch]:
    """Batches for `milliseconds_per_text`, on the model's device: texts of all lengths in proportion, shuffled, as many
    as full depth takes about `_SECONDS_PER_RULE` for."""
    by_length = torch.tensor(dataset.lengths).argsort(stable=True)

    def batches_of(count: int) -> list[Batch]:
        chosen = by_length[torch.linspace(0, len(by_length) - 1, count).round().long().unique()]
        chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
        padded = [dataset.collate([dataset[row] for row in rows.tolist()]) for rows in chosen.split(batch_size)]
        whole = [batch for batch in padded if len(batch["input_ids"]) == batch_size] or padded
        return [{name: tensor.to(model.device) for name, tensor in _without_labels(batch).items()} for batch in whole]

    probe = batches_of(min(len(dataset), max(_FEWEST_TIMED, batch_size)))
    model(**probe[0], speed=0.0)
    begin = time.perf_counter()
    for batch in probe:
        model(**batch, speed=0.0).exit_layer.cpu()
    seconds = (time.perf_counter() - begin) / sum(len(batch["input_ids"]) for batch in probe)
    count = int(_SECONDS_PER_RULE / seconds)
    return batches_of(min(len(dataset), max(count, len(probe) * batch_size)))


def milliseconds_per_text(
    model: FastBertForSequenceClassification, batches: list[Batch], rules: Sequence[ExitRule], track: Track
) -> list[float]:
    """Mean wall-clock time per text of every rule over `batches`: the median of three rounds, in which they take turns
    batch by batch."""
    texts = sum(len(batch["input_ids"]) for batch in batches)
    times = time_variants({"model": model}, batches, rules, _ROUNDS, track)
    return [1e3 * times["model", rule].median / texts for rule in rules]


def ratio(numerator: Timing, denominator: Timing) -> float:
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(numerator.rounds, denominator.rounds, strict=True))


def measured_flops_speedup(model: FastBertForSequenceClassification, exit_layers: Tensor, lengths: Tensor) -> float:
    """FLOPs speed-up in the paper's convention, at the samples' own lengths."""
    return flops_speedup(ModelShape.from_config(model.config), exit_layers.numpy(), lengths.numpy())


def _without_labels(batch: Batch) -> Batch:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}
