"""The exit decision of one sample, from its logits: device functions for the Triton kernels of exit heads.

`reference.decide` is the specification.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.triton import configs

ENTROPY = tl.constexpr(Criterion.ENTROPY.value)
TOP_K_ENTROPY = tl.constexpr(Criterion.TOP_K_ENTROPY.value)
CONFIDENCE = tl.constexpr(Criterion.CONFIDENCE.value)
MARGIN = tl.constexpr(Criterion.MARGIN.value)
BINARY_ENTROPY = tl.constexpr(Criterion.BINARY_ENTROPY.value)
PATIENCE = tl.constexpr(Criterion.PATIENCE.value)
STABILITY = tl.constexpr(Criterion.STABILITY.value)
LABELS_AT_ONCE = tl.constexpr(128)


def rule_and_largest_entropy(criterion: str, parameter: int, labels: int) -> tuple[Criterion, float]:
    """Return what a kernel decides by, and the largest of the entropies that it may measure: of one choice among all
    classes or the most likely, or the sum of those of all classes; 1 where it measures none.

    The entropy of the k most likely of k classes is that of all.
    """
    rule = Criterion(criterion)
    if rule in (Criterion.ENTROPY, Criterion.PATIENCE):
        return rule, math.log(labels)
    if rule is Criterion.BINARY_ENTROPY:
        return rule, labels * math.log(2)
    if rule is Criterion.TOP_K_ENTROPY:
        return (rule, math.log(parameter)) if parameter < labels else (Criterion.ENTROPY, math.log(labels))
    if rule in (Criterion.CONFIDENCE, Criterion.MARGIN, Criterion.STABILITY):
        return rule, 1.0
    raise NotImplementedError(f"fastbert_kernels/triton/decision.py has no formula for {rule.value!r}")


def unsupported_rule(rule: Criterion, labels: int) -> str | None:
    """Return why `decide` cannot run, or None."""
    if rule == Criterion.TOP_K_ENTROPY and labels > configs.MAX_TOP_K_LABELS:
        return f"the Triton kernel finds the most likely of at most {configs.MAX_TOP_K_LABELS} classes, not of {labels}"
    return None


@triton.jit
def _add_labels(logits, start, top, prediction, total, weighted):
    """Take the next block of logits l, whose first label is `start`, into the running sums over the labels so far::

        top = max l,  prediction = the first label that has it,  total = sum exp(l - top),
        weighted = sum exp(l - top) (l - top)

    They begin as -inf, -1, 0 and 0; labels that do not exist are -inf. Any NaN or +inf makes a NaN of `total`.
    """
    best = tl.max(logits, axis=0)
    place = tl.arange(0, logits.shape[0])
    place = tl.min(tl.where(logits == best, place, logits.shape[0]), axis=0)
    now = tl.maximum(top, best)
    shift = tl.where(now == -float("inf"), 0.0, now)  # -inf - -inf would be NaN
    shrink = tl.exp(top - shift)
    p = tl.exp(logits - shift)
    moved = tl.where(shrink == 0, 0.0, shrink * (weighted + total * (top - shift)))
    weighted = moved + tl.sum(tl.where(p == 0, 0.0, p * (logits - shift)), axis=0)  # 0 log 0 = 0
    return now, tl.where(best > top, start + place, prediction), total * shrink + tl.sum(p, axis=0), weighted


@triton.jit
def _entropy_of_largest(logits_ptr, num_labels, count, top, ALL_LABELS: tl.constexpr):
    """Return the entropy of the softmax over the `count` largest of the logits [num_labels], whose maximum is `top`.

    The smallest of them is found bit by bit: as integers in the order of the floats, it is the largest number that at
    least `count` of them reach. Equal logits have equal terms, so that it does not matter which of them are taken.
    """
    label = tl.arange(0, ALL_LABELS)
    inside = label < num_labels
    logits = tl.load(logits_ptr + label, mask=inside, other=-float("inf"))
    bits = logits.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + (1 << 31)  # 0 <= order < 2^32
    order = tl.where(inside, order, -1)
    smallest = tl.full([], 0, tl.int64)
    for i in range(32):
        candidate = smallest + (tl.full([], 1, tl.int64) << (31 - i))
        reach = tl.sum((order >= candidate).to(tl.int32), axis=0)
        smallest = tl.where(reach >= count, candidate, smallest)
    shifted = logits - top
    last = tl.max(tl.where(order == smallest, shifted, -float("inf")), axis=0)
    p = tl.where(order > smallest, tl.exp(shifted), 0.0)
    equal = (count - tl.sum((order > smallest).to(tl.int32), axis=0)).to(tl.float32)
    last_p = tl.exp(last)
    total = tl.sum(p, axis=0) + equal * last_p
    weighted = tl.sum(tl.where(p == 0, 0.0, p * shifted), axis=0) + tl.where(last_p == 0, 0.0, equal * last_p * last)
    return tl.log(total) - weighted / total


@triton.jit
def _largest_other(logits_ptr, num_labels, prediction):
    """Return the largest of the logits [num_labels] but that of `prediction`."""
    largest = -float("inf")
    for start in range(0, num_labels, LABELS_AT_ONCE):
        label = start + tl.arange(0, LABELS_AT_ONCE)
        other = (label < num_labels) & (label != prediction)
        logits = tl.load(logits_ptr + label, mask=other, other=-float("inf"))
        largest = tl.maximum(largest, tl.max(logits, axis=0))
    return largest


@triton.jit
def _binary_entropies(logits_ptr, num_labels):
    """Return the sum of the entropies of sigmoid(logit) over the logits [num_labels]; NaN where one is infinite."""
    entropies = 0.0
    for start in range(0, num_labels, LABELS_AT_ONCE):
        label = start + tl.arange(0, LABELS_AT_ONCE)
        distance = tl.abs(tl.load(logits_ptr + label, mask=label < num_labels, other=0.0))
        p = tl.exp(-distance)
        entropy = tl.log(1.0 + p) + distance * p / (1.0 + p)
        entropies += tl.sum(tl.where(label < num_labels, entropy, 0.0), axis=0)
    return entropies


@triton.jit
def _change_of_score(score, history_ptr, sample, HAS_HISTORY: tl.constexpr):
    """Return how far the score is from that of the head before, infinity without one; NaN where it is not finite."""
    change = float("inf")
    if HAS_HISTORY:
        previous = tl.load(history_ptr + 2 * sample).to(tl.float32, bitcast=True)
        change = tl.where(tl.load(history_ptr + 2 * sample + 1) > 0, tl.abs(score - previous), change)
    return tl.where(tl.abs(score) < float("inf"), change, float("nan"))


@triton.jit
def decide(
    logits_ptr,
    num_labels,
    largest_entropy,
    parameter,
    sample,
    samples,
    CRITERION: tl.constexpr,
    HAS_HISTORY: tl.constexpr,
    ALL_LABELS: tl.constexpr,
):
    """Write uncertainty, history and keep of `sample`, from its logits at `logits_ptr`.

    This program has written the logits. `samples` are the pointers to the speed, history, uncertainty, new history and
    keep of all; `largest_entropy` is that of `rule_and_largest_entropy`, ALL_LABELS the power of 2 from `num_labels`
    on.
    """
    speed_ptr, history_ptr, uncertainty_ptr, new_history_ptr, keep_ptr = samples
    tl.debug_barrier()  # a thread reads logits of others
    top = -float("inf")
    prediction = -1
    total = 0.0
    weighted = 0.0
    for start in range(0, num_labels, LABELS_AT_ONCE):
        label = start + tl.arange(0, LABELS_AT_ONCE)
        logits = tl.load(logits_ptr + label, mask=label < num_labels, other=-float("inf"))
        top, prediction, total, weighted = _add_labels(logits, start, top, prediction, total, weighted)

    if CRITERION == ENTROPY or CRITERION == PATIENCE:  # noqa: SIM109, since Triton has no `in`
        uncertainty = (tl.log(total) - weighted / total) / largest_entropy
    elif CRITERION == TOP_K_ENTROPY:
        uncertainty = _entropy_of_largest(logits_ptr, num_labels, parameter, top, ALL_LABELS) / largest_entropy
    elif CRITERION == CONFIDENCE:
        uncertainty = 1.0 - 1.0 / total
    elif CRITERION == MARGIN:
        second = _largest_other(logits_ptr, num_labels, prediction)
        uncertainty = 1.0 - (1.0 - tl.exp(second - top)) / total
    elif CRITERION == BINARY_ENTROPY:
        uncertainty = _binary_entropies(logits_ptr, num_labels) / largest_entropy
    elif CRITERION == STABILITY:
        score = tl.load(logits_ptr)
        uncertainty = _change_of_score(score, history_ptr, sample, HAS_HISTORY)
        prediction = score.to(tl.int32, bitcast=True)
    else:
        tl.static_assert(False, "a criterion without a formula in fastbert_kernels/triton/decision.py")
    known = (total > 0) & (uncertainty == uncertainty)  # `total` is NaN, or 0 where all logits are -inf
    if CRITERION != STABILITY:
        # Comparisons, since the hardware's minimum and maximum drop a NaN.
        uncertainty = tl.where(uncertainty < 0, 0.0, tl.where(uncertainty > 1, 1.0, uncertainty))
    uncertainty = tl.where(known, uncertainty, float("nan"))
    prediction = tl.where(known, prediction, -1)
    streak = tl.where(known, 1, 0)
    if HAS_HISTORY and CRITERION != STABILITY:
        again = known & (tl.load(history_ptr + 2 * sample) == prediction)
        streak = tl.where(again, tl.load(history_ptr + 2 * sample + 1) + 1, streak)
    if CRITERION == PATIENCE:
        leaves = known & (streak >= parameter)
    elif (
        (CRITERION == ENTROPY or CRITERION == TOP_K_ENTROPY or CRITERION == CONFIDENCE)  # noqa: SIM109
        or (CRITERION == MARGIN or CRITERION == BINARY_ENTROPY or CRITERION == STABILITY)  # noqa: SIM109
    ):
        leaves = uncertainty < tl.load(speed_ptr + sample)
    else:
        tl.static_assert(False, "fastbert_kernels/triton/decision.py does not say whom a criterion lets out")
    tl.store(uncertainty_ptr + sample, uncertainty)
    tl.store(new_history_ptr + 2 * sample, prediction)
    tl.store(new_history_ptr + 2 * sample + 1, streak)
    tl.store(keep_ptr + sample, tl.where(leaves, 0, 1).to(tl.uint8))
