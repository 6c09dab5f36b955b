"""Does early exit pay on these texts? One rule that weighs it against what is simpler.

All contenders are compared at equal accuracy: that of full depth less one point. What counts is the greatest FLOPs
speed-up at which a contender still reaches it: early exits with any one Speed for all layers or with the calibrated
setting, and the first layers alone with the head behind them. Of a model with exit zero any one Speed is tried with
layer 0 and without it, and the verdict says which it was. Intervals (95 %) are those of 2,000 resamples of the texts
(percentile bootstrap), in each of which target, accuracies and speed-ups are found anew, on the same texts.

1. A bag of words costs next to nothing. It is as good unless its interval lies below the target.
2. Early exit pays if the interval of its speed-up over that of the first layers alone lies above 1. Full depth counts
   among the first layers, so that whoever is no faster than it does not pay.
3. Else the fewest layers that reach the target are as good.

What is simpler thus wins where the texts cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastbert_hf.calibration import ExitRecords, ExitRule
from fastbert_hf.calibration.curve import candidate_speeds, exit_flops, running_minimum
from fastbert_hf.calibration.one_speed import asked_layers
from fastbert_hf.calibration.simulation import below, exit_heads, indices_of, uncertainties
from fastbert_hf.flops import exit_flops as flops_of_exits
from fastbert_hf.flops import first_layers_flops

ALLOWED_DROP = 0.01
CONFIDENCE = 0.95
_RESAMPLES, _AT_ONCE = 2000, 20_000_000  # and numbers that are drawn at once
_SPEEDS = 64  # of the curve
_ROUNDING = 1e-9  # of an accuracy

Doubles = npt.NDArray[np.float64]
_Contender = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # right and FLOPs of every text
Winner = Literal["early exit", "first layers", "bag of words", "full depth"]


@dataclass(frozen=True)
class Verdict:
    """What serves these texts best.

    Attributes:
        winner: by the rule of this module.
        samples: texts that it was decided on.
        full_depth: accuracy of all layers.
        exit_speedup: greatest FLOPs speed-up of early exits within one point of it.
        layers: the fewest layers that are within one point of it alone.
        layers_speedup: their FLOPs speed-up.
        gain: exit_speedup / layers_speedup.
        gain_interval: its interval.
        bag: accuracy of the bag of words; `None` where there was none.
        bag_interval: of its accuracy less that of full depth.
        layer_zero: whether these early exits ask exit zero; `None` for a model without it.
    """

    winner: Winner
    samples: int
    full_depth: float
    exit_speedup: float
    layers: int
    layers_speedup: float
    gain: float
    gain_interval: tuple[float, float]
    bag: float | None = None
    bag_interval: tuple[float, float] | None = None
    layer_zero: bool | None = None

    @property
    def sentence(self) -> str:
        """The verdict and its grounds, in one sentence."""
        alone = _layers(self.layers) if self.layers_speedup > 1 else "full depth"
        zero = {None: "", False: " (layer 0 not asked)", True: " (layer 0 asked)"}[self.layer_zero]
        low, high = self.gain_interval
        grounds = (
            f"within one point of full depth the FLOPs speed-up is {self.exit_speedup:.2f} with early exits{zero} and "
            f"{self.layers_speedup:.2f} with {alone} alone (ratio {self.gain:.2f}, 95 % interval {low:.2f} to "
            f"{high:.2f}, on {self.samples:,} texts)"
        )
        if self.winner == "early exit":
            return f"Early exit pays here: {grounds}."
        if self.winner == "first layers":
            verb = "is" if self.layers <= 1 else "are"
            return f"{_layers(self.layers).capitalize()} alone {verb} as good here: {grounds}."
        if self.winner == "full depth":
            return f"Early exit does not pay here, nor do fewer layers: {grounds}."
        assert self.bag is not None and self.bag_interval is not None
        low, high = (100 * bound for bound in self.bag_interval)
        return (
            f"A bag of words is as good here: it is right on {self.bag:.1%}, full depth on {self.full_depth:.1%} "
            f"(95 % interval of the difference {low:+.1f} to {high:+.1f} points, on {self.samples:,} texts), at next "
            "to no cost."
        )


def verdict(
    records: ExitRecords,
    *,
    rule: ExitRule | None = None,
    bag: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Verdict:
    """Weigh early exit against the first layers alone and a bag of words; see the top of this module.

    Args:
        records: labelled texts that neither the model nor the bag of words was trained on.
        rule: that of the model's calibrated setting, if it has one.
        bag: what the bag of words predicts for the same texts, class ids [n]; `None`: there is none.
        seed: of the resamples.
    """
    ways = [
        (0 in layers, way) for layers in asked_layers(records.student_layers) for way in _one_speed(records, layers)
    ]
    if rule is not None:
        ways.append((0 in rule.layers, _by_rule(records, rule)))
    exits = [way for _, way in ways]
    contenders = [*exits, *(_first_layers(records, head) for head in range(len(records.exit_layers)))]
    right = np.stack([right for right, _ in contenders], axis=1).astype(np.float64)  # [n, contenders]
    flops = np.stack([flops for _, flops in contenders], axis=1).astype(np.float64)
    bag_right = None if bag is None else (bag == records.known_labels.numpy()).astype(np.float64)

    def weigh(counts: Doubles) -> Doubles:
        return _weigh(counts, right, flops, len(exits), bag_right)

    resamples = np.concatenate([*map(weigh, _resamples(len(records), seed))])
    gain_interval, bag_interval = (_interval(column) for column in resamples.T)
    ((gain, _),) = weigh(np.ones((1, len(records))))
    reaches = right.mean(axis=0) >= records.full_depth_accuracy - ALLOWED_DROP - _ROUNDING
    fewest = int(reaches[len(exits) :].argmax())  # the first of equal maxima
    total = flops.sum(axis=0)
    fastest = int(np.where(reaches, total, np.inf)[: len(exits)].argmin())
    layers_speedup = float(total[-1] / total[len(exits) + fewest])
    winner: Winner
    if bag is not None and bag_interval[1] >= -ALLOWED_DROP:
        winner = "bag of words"
    elif gain_interval[0] > 1:
        winner = "early exit"
    else:
        winner = "first layers" if layers_speedup > 1 else "full depth"
    return Verdict(
        winner=winner,
        samples=len(records),
        full_depth=records.full_depth_accuracy,
        exit_speedup=float(gain) * layers_speedup,
        layers=records.exit_layers[fewest],
        layers_speedup=layers_speedup,
        gain=float(gain),
        gain_interval=gain_interval,
        bag=None if bag_right is None else float(bag_right.mean()),
        bag_interval=None if bag_right is None else bag_interval,
        layer_zero=ways[fastest][0] if 0 in records.student_layers else None,
    )


def _weigh(counts: Doubles, right: Doubles, flops: Doubles, exits: int, bag_right: Doubles | None) -> Doubles:
    """Compare the contenders on resamples of the texts.

    Args:
        counts: [R, n], how often each text is in a resample, n in all.
        right: [n, contenders], 1 where the contender is right. The first `exits` are early exits, the others the first
            layers alone, of which the last is full depth.
        flops: [n, contenders].
        exits: how many are early exits. One of them answers as full depth does, so that they reach the target, too.
        bag_right: [n], or `None`.

    Returns:
        [R, 2]: the speed-up of early exits over that of the first layers alone, both the greatest within the allowed
        drop; the accuracy of the bag of words less that of full depth, NaN where there is none.
    """
    accuracy, cost = counts @ right / len(right), counts @ flops
    cost[accuracy < accuracy[:, -1:] - ALLOWED_DROP - _ROUNDING] = np.inf
    gain = cost[:, exits:].min(axis=1) / cost[:, :exits].min(axis=1)
    bag = np.full(len(counts), np.nan) if bag_right is None else counts @ bag_right / len(right) - accuracy[:, -1]
    return np.stack([gain, bag], axis=1)


def _resamples(samples: int, seed: int) -> Iterator[Doubles]:
    """Yield how often each text is in each resample, [R, n], for some of them at a time."""
    draw, left = np.random.default_rng(seed), _RESAMPLES
    while left > 0:
        size = min(left, max(1, _AT_ONCE // samples))
        rows = draw.integers(0, samples, (size, samples)) + samples * np.arange(size)[:, None]
        yield np.bincount(rows.ravel(), minlength=size * samples).reshape(size, samples).astype(np.float64)
        left -= size


def _interval(values: Doubles) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _one_speed(records: ExitRecords, layers: tuple[int, ...]) -> list[_Contender]:
    """Early exits with one Speed for the heads at `layers`: full depth, and up to `_SPEEDS` Speeds."""
    heads = indices_of(records, layers)
    lowest = running_minimum(uncertainties(records, "entropy")[:, heads])
    right, flops, rows = records.right[:, [*heads, -1]], exit_flops(records, heads), np.arange(len(records))
    found = []
    for speed in candidate_speeds(lowest, _SPEEDS):
        exits = (~below(lowest, speed)).sum(axis=1)  # heads before the first below Speed
        found.append((right[rows, exits], flops[rows, exits]))
    return found


def _by_rule(records: ExitRecords, rule: ExitRule) -> _Contender:
    exits, lengths = exit_heads(records, rule), records.lengths.numpy()
    layers = np.asarray(records.exit_layers)[exits]
    flops = flops_of_exits(records.shape.asking(rule.layers), layers, lengths)
    return records.right[np.arange(len(records)), exits], flops


def _first_layers(records: ExitRecords, head: int) -> _Contender:
    flops = first_layers_flops(records.shape, records.exit_layers[head], records.lengths.numpy())
    return records.right[:, head], flops


def _layers(number: int) -> str:
    return {0: "the hashed bag before the first layer", 1: "1 layer"}.get(number, f"{number} layers")
