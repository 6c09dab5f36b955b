"""Times on the clock: calls that take turns, and how long a text takes a model as an exit rule says."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.machine import describe_machine, name_machine
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.progress import Progress, no_progress

Name = TypeVar("Name", bound=Hashable)
Call: TypeAlias = Callable[[], Any]
Batch: TypeAlias = dict[str, Tensor]
Depth: TypeAlias = float | ExitRule | None  # one Speed for all layers, a rule, or full depth

_FLUSH_BYTES = 256 << 20  # several times the largest L2 cache
_FEWEST_TIMED = 16  # texts


@dataclass(frozen=True)
class Seconds:
    """Times of one contestant, one for each round."""

    rounds: list[float]

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """Return p20, p50 and p80."""
        if len(self.rounds) == 1:
            return (self.rounds[0],) * 3
        tenths = statistics.quantiles(self.rounds, n=10, method="inclusive")
        return tenths[1], tenths[4], tenths[7]

    @property
    def median(self) -> float:
        """Return p50."""
        return statistics.median(self.rounds)


def ratio(slow: Seconds, fast: Seconds) -> float:
    """Return the median of the ratios within a round: what disturbs a round disturbs both."""
    return statistics.median(a / b for a, b in zip(slow.rounds, fast.rounds, strict=True))


@torch.inference_mode()
def time_interleaved(
    contestants: Mapping[Name, Call | Sequence[Call]],
    device: torch.device,
    rounds: int,
    *,
    warmups: int = 3,
    shuffle: bool = False,
    settle: float = 0.0,
    progress: Progress = no_progress,
) -> dict[Name, Seconds]:
    """Time every contestant once a round; within a round they take turns, call by call.

    On CUDA the L2 cache is flushed before each call and events take the time.

    Args:
        contestants: what to call, by name: one call, or one for each of several parts of the work, as many for all.
        device: what they run on.
        rounds: timed runs of each.
        warmups: untimed first calls of each, in front of all others.
        shuffle: another order in each round, so that nobody always runs behind the same neighbour.
        settle: seconds of rest before each call: the worker threads of the one before may still spin.
        progress: is told of the step "times" after each timed call.
    """
    parts = {name: [calls] if callable(calls) else list(calls) for name, calls in contestants.items()}
    for calls in parts.values():
        for _ in range(warmups):
            calls[0]()
    seconds: dict[Name, list[float]] = {name: [] for name in parts}
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device) if device.type == "cuda" else None
    order, draw = list(parts), random.Random(0)
    done, total = 0, rounds * sum(map(len, parts.values()))
    for _ in range(rounds):
        if shuffle:
            draw.shuffle(order)
        for name in order:
            seconds[name].append(0.0)
        for turn in zip(*(parts[name] for name in order), strict=True):
            for name, call in zip(order, turn, strict=True):
                if settle:
                    time.sleep(settle)
                seconds[name][-1] += _time_cpu(call) if flush is None else _time_cuda(call, flush)
                done += 1
                progress("times", done, total)
    return {name: Seconds(times) for name, times in seconds.items()}


def _time_cpu(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _time_cuda(call: Call, flush: Tensor) -> float:
    flush.zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def batch_calls(model: FastBertForSequenceClassification, batches: Sequence[Batch], depth: Depth) -> list[Call]:
    """Return a call for every batch: `model` runs at `depth`, and its exit layers are waited for.

    Args:
        model: patched or not.
        batches: inputs on the device of the model.
        depth: when samples leave; `None`: at the last layer, for a calibrated model too.
    """
    speed = 0.0 if depth is None else depth
    return [partial(_answer, model, batch, speed) for batch in batches]


def _answer(model: FastBertForSequenceClassification, batch: Batch, speed: float | ExitRule) -> None:
    model(**batch, speed=speed).exit_layer.cpu()


def inputs_of(batch: Batch, device: torch.device) -> Batch:
    """Return a batch without its labels, on `device`."""
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}


@dataclass(frozen=True)
class Clock:
    """How long a text takes; `Clock.of` makes one of a model and texts.

    Attributes:
        measure: mean milliseconds per text of every rule, measured in turns.
        batch_size: texts per call.
        texts: how many texts are timed.
        machine: what it runs on, in words.
        precision: of the encoder, in words.
    """

    measure: Callable[[Sequence[ExitRule]], Sequence[float]]
    batch_size: int
    texts: int
    machine: str
    precision: str

    @classmethod
    def of(
        cls,
        model: FastBertForSequenceClassification,
        dataset: TokenisedDataset,
        batch_size: int = 1,
        *,
        rounds: int = 3,
        seconds: float = 3.0,
        seed: int = 0,
        precision: str | None = None,
        progress: Progress = no_progress,
    ) -> Clock:
        """Return a clock that runs `model` over texts of all lengths in proportion, on the device it is on.

        Args:
            model: in eval mode; `patch` it first if it will run patched.
            dataset: tokenised texts like those that the model will get.
            batch_size: texts per call.
            rounds: of which the median counts; in each, the rules take turns batch by batch.
            seconds: that a rule takes in a round, about, at full depth; they decide how many texts are timed.
            seed: of the order of the texts.
            precision: of the encoder, in words; `None`: the dtype of the weights.
            progress: is told of the step "times" after every timed call.

        Raises:
            ValueError: there are no texts, or some have several passages.
        """
        if len(dataset) == 0:
            raise ValueError("nothing to time: the data set is empty")
        if dataset.has_passages:
            raise ValueError("some texts were divided into passages; time texts that are not: leave stride out")
        batches = _timed_batches(model, dataset, batch_size, seconds, seed)
        texts = sum(len(batch["input_ids"]) for batch in batches)

        def measure(rules: Sequence[ExitRule]) -> list[float]:
            calls = {rule: batch_calls(model, batches, rule) for rule in rules}  # one that is there twice runs once
            times = time_interleaved(calls, model.device, rounds, warmups=1, progress=progress)
            return [1e3 * times[rule].median / texts for rule in rules]

        return cls(
            measure,
            batch_size=batch_size,
            texts=texts,
            machine=name_machine(describe_machine()),
            precision=str(model.dtype).removeprefix("torch.") if precision is None else precision,
        )


@torch.inference_mode()
def _timed_batches(
    model: FastBertForSequenceClassification, dataset: TokenisedDataset, batch_size: int, seconds: float, seed: int
) -> list[Batch]:
    """Return shuffled batches of texts of all lengths in proportion, for which full depth takes about `seconds`."""
    by_length = torch.tensor(dataset.lengths).argsort(stable=True)

    def batches_of(count: int) -> list[Batch]:
        chosen = by_length[torch.linspace(0, len(by_length) - 1, count).round().long().unique()]
        chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
        padded = [dataset.collate([dataset[row] for row in rows.tolist()]) for rows in chosen.split(batch_size)]
        whole = [batch for batch in padded if len(batch["input_ids"]) == batch_size] or padded
        return [inputs_of(batch, model.device) for batch in whole]

    probe = batches_of(min(len(dataset), max(_FEWEST_TIMED, batch_size)))
    calls = batch_calls(model, probe, None)
    calls[0]()
    taken = sum(map(_time_cpu, calls)) / sum(len(batch["input_ids"]) for batch in probe)
    return batches_of(min(len(dataset), max(int(seconds / taken), len(probe) * batch_size)))
