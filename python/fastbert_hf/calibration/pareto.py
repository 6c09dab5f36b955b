"""One Speed per layer: the rules that no other beats in both quality and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fastbert_hf.calibration.curve import Doubles, candidate_speeds, exit_flops, running_minimum, sweep
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.search import SEARCHED_SPEEDS, FoundRule
from fastbert_hf.calibration.simulation import Floats, below, first_exits, measure, uncertainties
from fastbert_hf.exits.criteria import CRITERIA
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.flops import exit_head_flops, layer_flops

Booleans = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Quality: TypeAlias = Literal["accuracy", "kept"]

# Known rules, spread over the FLOPs, by which the search judges what is still to come.
_POLICIES = 24
# Ranges of FLOPs in each of which states are kept.
_RANGES = 160
# The second round judges by the rules that the first one found.
_ROUNDS = 2
# A Speed below which there is nothing, for a head that is not asked.
_NOT_ASKED = -1.0


@dataclass(frozen=True)
class ParetoFront:
    """Rules of which none is at least as good as another in both quality and FLOPs.

    Attributes:
        rules: from the slowest, which is the best in quality, to the fastest.
        exact: whether it is the true front over all Speeds per layer and all subsets of heads.
    """

    rules: tuple[FoundRule, ...]
    exact: bool


def pareto_front(
    records: ExitRecords,
    criterion: str = "entropy",
    parameter: int = 0,
    *,
    quality: Quality = "accuracy",
    speeds_per_layer: int = 32,
    beam_width: int = 480,
) -> ParetoFront:
    """Search over one Speed per student classifier, or not asking it, for each of them.

    A beam search from the shallowest head to the deepest. A state is the set of samples that are still there, with the
    right answers and the FLOPs so far; each head multiplies the states by its Speeds, without those that let the same
    samples leave as another. While the states fit the beam nothing is lost, and the front is exact.

    When they do not fit, each state is judged by what it comes to when a known rule goes on with the samples that are
    left: single Speeds spread over the FLOPs in the first round, rules of the first front in the second. Of the
    outcomes within each of 160 ranges of FLOPs, the states behind the best are kept. The front is then an
    approximation: rules that look bad until a late head may be missed, and at each head only Speeds at
    `speeds_per_layer` even steps through the samples and those of the known rules are tried.

    By a criterion that compares heads ("stability"), each head is compared with the student classifier right before it,
    which is then asked too, with the Speed 0 where it lets nobody leave. Rules that skip one are not among these.

    A round takes of the order of beam width x Speeds x policies (24) x n x E multiply-adds.

    Args:
        records: the samples.
        criterion: one that compares with Speed.
        parameter: the number that belongs to it.
        quality: "accuracy", or "kept": the part of the samples not spoilt, that is, right at full depth and wrong at
            the exit.
        speeds_per_layer: at least 2.
        beam_width: at least 1.
    """
    uncertainty = uncertainties(records, criterion, parameter)[:, :-1]  # [n, E - 1]
    good = (records.right if quality == "accuracy" else ~spoilt(records)).astype(np.float64)
    costs, largest = _Costs(records), CRITERIA[criterion].largest_speed
    policies = _single_speeds(records, uncertainty, costs, largest)  # [policies, heads]
    every = [candidate_speeds(column, len(column) + 2, largest) for column in uncertainty.T]
    few = [candidate_speeds(column, speeds_per_layer, largest) for column in uncertainty.T]
    speeds = [
        some if len(some) <= speeds_per_layer else np.union1d(fewer, known)
        for some, fewer, known in zip(every, few, policies.T, strict=True)
    ]
    tried = []
    for _ in range(_ROUNDS):
        beam = _Beam(uncertainty, good, speeds, costs, policies, beam_width, CRITERIA[criterion].compares_heads)
        thresholds, right, flops = beam.run()
        tried.append((thresholds, right, flops))
        if not beam.was_cut:
            break
        policies = thresholds[_spread(flops)]
    exact = not beam.was_cut and all(len(some) <= speeds_per_layer for some in every)
    thresholds, right, flops = (np.concatenate(parts) for parts in zip(*tried, strict=True))
    rules = [_found(records, uncertainty, row, criterion, parameter) for row in thresholds[undominated(right, flops)]]
    return ParetoFront(tuple(rules), exact)


def spoilt(records: ExitRecords) -> Booleans:
    """Return whether leaving at a head turns a sample that full depth predicts right into a wrong one, bool [n, E]."""
    return records.right[:, -1:] & ~records.right


def undominated(quality: Doubles, flops: Doubles) -> Integers:
    """Return the indices of the points that no other equals or beats in both, from the most FLOPs to the fewest.

    Of equal points one is taken.
    """
    order = np.lexsort((-quality, flops))  # fewest FLOPs first, of those the best first
    best_before = np.maximum.accumulate(np.append(-np.inf, quality[order]))[:-1]
    return order[quality[order] > best_before][::-1]


def _found(records: ExitRecords, uncertainty: Floats, thresholds: Doubles, criterion: str, parameter: int) -> FoundRule:
    lets_out = thresholds != _NOT_ASKED
    compared = CRITERIA[criterion].compares_heads & np.append(lets_out[1:], False)
    asked = np.flatnonzero(lets_out | compared).tolist()
    layers = tuple(records.exit_layers[head] for head in asked)
    speeds = np.where(lets_out, thresholds, 0.0)[asked]
    rule = ExitRule(layers, tuple(speeds.tolist()), criterion, parameter)
    leaves = below(uncertainty[:, asked], speeds)
    return FoundRule.of(rule, measure(records, layers, first_exits(leaves, asked, len(records.exit_layers))))


class _Costs:
    """FLOPs of each sample: of the layers before each head since the one before it, and of each head, both [E, n]."""

    def __init__(self, records: ExitRecords) -> None:
        shape, lengths = records.shape, records.lengths.numpy()
        layers = np.diff(np.asarray([0, *records.exit_layers]))
        self.layers = (layers[:, None] * layer_flops(shape, lengths)).astype(np.float64)
        self.heads = np.stack([exit_head_flops(shape, layer, lengths) for layer in records.exit_layers]).astype(float)
        self.least = float(self.layers[0].sum())
        self.most = float(self.layers.sum() + self.heads.sum())


def _single_speeds(records: ExitRecords, uncertainty: Floats, costs: _Costs, largest: float) -> Doubles:
    """Return single Speeds for all heads, spread over the FLOPs, [policies, heads]."""
    heads = uncertainty.shape[1]
    speeds = candidate_speeds(running_minimum(uncertainty), SEARCHED_SPEEDS, largest)
    (flops,) = sweep(uncertainty, speeds, [exit_flops(records, list(range(heads)))])
    return np.repeat(speeds[_spread(flops)][:, None], heads, axis=1)


def _spread(flops: Doubles) -> Integers:
    """Return the indices of values near even steps from the lowest to the highest."""
    steps = np.linspace(flops.min(), flops.max(), _POLICIES)
    return np.unique(np.abs(flops[:, None] - steps).argmin(axis=0))


class _Beam:
    """States of the search: survivors bool [S, n], right answers [S], FLOPs [S], Speeds [S, heads so far]."""

    def __init__(
        self,
        uncertainty: Floats,
        good: Doubles,
        speeds: list[Doubles],
        costs: _Costs,
        policies: Doubles,
        width: int,
        compares_heads: bool,
    ) -> None:
        self.uncertainty, self.good, self.speeds, self.costs, self.width = uncertainty, good, speeds, costs, width
        self.compares_heads = compares_heads
        self.prospects = self._prospects(policies)
        self.survivors = np.ones((1, len(good)), dtype=bool)
        self.right = np.zeros(1)
        self.flops = np.zeros(1)
        self.thresholds = np.zeros((1, 0))
        self.was_cut = False

    def run(self) -> tuple[Doubles, Doubles, Doubles]:
        """Return Speeds [rules, heads], right answers [rules] and FLOPs [rules] of the undominated rules."""
        for head in range(self.uncertainty.shape[1]):
            self._pass_head(head)
        left = self.survivors.astype(np.float64)
        right = self.right + left @ self.good[:, -1]
        flops = self.flops + left @ (self.costs.layers[-1] + self.costs.heads[-1])
        front = undominated(right, flops)
        return self.thresholds[front], right[front], flops[front]

    def _pass_head(self, head: int) -> None:
        left = self.survivors.astype(np.float64)  # [S, n]
        leaves = below(self.uncertainty[:, head, None], self.speeds[head])  # [n, K]
        leavers = left @ leaves.astype(np.float64)  # [S, K]
        gained = left @ (leaves * self.good[:, head, None])
        flops = self.flops + left @ self.costs.layers[head]
        # A Speed that lets as many leave as the one below it lets the same ones leave.
        state, speed = np.nonzero(np.diff(leavers, axis=1, prepend=0.0) > 0)
        parent = np.concatenate([np.arange(len(left)), state])  # first all states with the head not asked
        choice = np.concatenate([np.full(len(left), -1), speed])
        right = np.concatenate([self.right, self.right[state] + gained[state, speed]])
        cost = left @ self.costs.heads[head]  # [S]
        if self.compares_heads and head > 0:  # the one before is asked, too
            cost += (self.thresholds[:, -1] == _NOT_ASKED) * (left @ self.costs.heads[head - 1])
        flops = np.concatenate([flops, flops[state] + cost[state]])
        kept = np.arange(len(parent))
        if len(parent) > self.width:
            coming_right, coming_flops = (self._coming(left, leaves, part) for part in self.prospects[head])
            kept = self._best(
                right[:, None] + coming_right[parent, choice], flops[:, None] + coming_flops[parent, choice]
            )
            self.was_cut = True
        parent, choice = parent[kept], choice[kept]
        self.survivors = self.survivors[parent] & ~_with_nobody(leaves)[:, choice].T
        self.right, self.flops = right[kept], flops[kept]
        chosen = np.append(self.speeds[head], _NOT_ASKED)[choice]
        self.thresholds = np.concatenate([self.thresholds[parent], chosen[:, None]], axis=1)

    def _coming(self, left: Doubles, leaves: Booleans, prospects: Doubles) -> Doubles:
        """Return what those that stay bring, [S, K + 1, policies]: for each Speed, and last for a head not asked."""
        stays = ~_with_nobody(leaves)
        each = stays[:, :, None] * prospects[:, None, :]  # [n, K + 1, policies]
        return (left @ each.reshape(len(each), -1)).reshape(len(left), *each.shape[1:])

    def _best(self, right: Doubles, flops: Doubles) -> Integers:
        """Return the states behind those outcomes [states, policies] that are the best in their range of FLOPs."""
        width = (self.costs.most - self.costs.least) / _RANGES
        ranges = np.floor((flops - self.costs.least) / width).astype(np.int64).ravel()
        order = np.lexsort((flops.ravel(), -right.ravel(), ranges))
        begins = np.searchsorted(ranges[order], ranges[order])
        rank = np.arange(len(order)) - begins
        share = -(-self.width // _RANGES)
        return np.unique(order[rank < share] // right.shape[1])

    def _prospects(self, policies: Doubles) -> list[tuple[Doubles, Doubles]]:
        """Return right answers and FLOPs that a sample adds that stays behind each head, by policy, [n, policies]."""
        right = np.repeat(self.good[:, -1:], len(policies), axis=1)
        flops = np.repeat((self.costs.layers[-1] + self.costs.heads[-1])[:, None], len(policies), axis=1)
        behind = [(right, flops)]
        for head in range(self.uncertainty.shape[1] - 1, 0, -1):
            threshold = policies[:, head]
            leaves = below(self.uncertainty[:, head, None], threshold)
            right = np.where(leaves, self.good[:, head, None], right)
            asking = self.costs.heads[head][:, None] * (threshold != _NOT_ASKED)
            flops = self.costs.layers[head][:, None] + asking + np.where(leaves, 0.0, flops)
            behind.append((right, flops))
        return behind[::-1]


def _with_nobody(leaves: Booleans) -> Booleans:
    """Return `leaves` [n, K] with a column for a head that is not asked, so that index -1 means that nobody leaves."""
    return np.concatenate([leaves, np.zeros((len(leaves), 1), dtype=bool)], axis=1)
