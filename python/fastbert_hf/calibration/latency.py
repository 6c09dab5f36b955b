"""A target for the time per text: which FLOPs speed-up it takes on this machine, found with a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastbert_hf.calibration.calibrating import (
    Calibration,
    Search,
    calibrate_and_compare,
    candidate_rules,
    check_samples,
    make_setting,
)
from fastbert_hf.calibration.records import ExitRecords
from fastbert_hf.calibration.search import CriterionChoice, FoundRule
from fastbert_hf.exits.calibrated_setting import CalibratedSetting, Latency, Objective
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.timing import Clock

# Rules, beside full depth, that are measured before one is chosen.
_MEASURED_FIRST = 5
# Rules that are chosen and measured, each after the one before was too slow.
_TRIES = 3


def calibrate_to_latency(
    records: ExitRecords,
    max_latency_ms: float,
    clock: Clock,
    *,
    confidence: float = 0.95,
    search: Search = "searched",
    criterion: CriterionChoice = "auto",
) -> Calibration:
    """Return the most accurate rule that takes at most `max_latency_ms` per text by `clock`, on average.

    Full depth and a few rules along the front of the search are measured; between them the time is taken to be linear
    in the FLOPs. The rule with the FLOPs speed-up that this asks for is measured too, and chosen again with a larger
    one, at most twice, if it is too slow. If all were, the most accurate of the rules measured first that are fast
    enough is taken. No accuracy is guaranteed.

    Args:
        records: samples that the model was not trained on; of a model with one output `with_max_score_change`.
        max_latency_ms: above 0.
        clock: measures times; `Clock.of` makes one.
        confidence: of the intervals, in (0, 1).
        search: as in `calibrate`.
        criterion: as in `calibrate`.

    Raises:
        ValueError: even the fastest rule is slower, or as `calibrate`.
    """
    records.check_comparable()
    same = {"max_score_change": records.max_score_change}
    objective = Objective(max_latency_ms=max_latency_ms, **same)
    check_samples(len(records), records.labels, objective, confidence, search)
    ladder = _ladder(candidate_rules(records, search, criterion))
    times = list(clock.measure([found.rule for found in ladder]))
    if min(times) > max_latency_ms:
        fastest = int(np.argmin(times))
        raise ValueError(
            f"no exit rule takes {max_latency_ms:g} ms per text or less: full depth takes {times[0]:.3g} ms and the "
            f"fastest rule, with a FLOPs speed-up of {ladder[fastest].flops_speedup:.3g}, {times[fastest]:.3g} ms "
            f"(batch size {clock.batch_size}, {clock.machine}); allow more, or use a smaller or less precise model"
        )

    def finished(setting: CalibratedSetting, milliseconds: float, full_depth: float) -> CalibratedSetting:
        latency = Latency(
            ms_per_text=milliseconds,
            full_depth_ms_per_text=full_depth,
            batch_size=clock.batch_size,
            texts=clock.texts,
            machine=clock.machine,
            precision=clock.precision,
        )
        return replace(setting, objective=objective, latency=latency)

    points = list(zip((found.flops_speedup for found in ladder), times, strict=True))
    goal = max_latency_ms
    for _ in range(_TRIES):
        needed = speedup_needed(points, goal) * (1 - 1e-9)  # rounding must not put the fastest rule out of reach
        calibration = calibrate_and_compare(
            records, Objective(min_speedup=needed, **same), confidence=confidence, search=search, criterion=criterion
        )
        setting = calibration.setting
        full_depth, milliseconds = clock.measure([ExitRule.full_depth(), setting.rule])
        if milliseconds <= max_latency_ms:
            return replace(calibration, setting=finished(setting, milliseconds, full_depth))
        points.append((setting.figures.flops_speedup, milliseconds))
        goal *= max_latency_ms / milliseconds
    fast_enough = [place for place, time in enumerate(times) if time <= max_latency_ms]
    best = max(fast_enough, key=lambda place: ladder[place].accuracy)
    setting = make_setting(records, ladder[best].rule, objective, confidence)
    return replace(calibration, setting=finished(setting, times[best], times[0]))


def speedup_needed(points: Sequence[tuple[float, float]], milliseconds: float) -> float:
    """Return the FLOPs speed-up at which a text takes `milliseconds`, and the largest known where that is not enough.

    Args:
        points: FLOPs speed-ups and milliseconds, measured. Between them time is linear in the FLOPs; where more FLOPs
            took less time, it was the clock.
        milliseconds: wanted.
    """
    flops, times = np.asarray(sorted((1 / speedup, time) for speedup, time in points)).T
    # From the right: noise must not make a rule look faster than one with fewer FLOPs.
    times = np.maximum.accumulate(times)
    return float(1 / np.interp(milliseconds, times, flops))


def _ladder(found: Sequence[FoundRule]) -> list[FoundRule]:
    """Return full depth, and rules at even steps of their FLOPs down to the fastest."""
    full_depth, rules = found[0], [one for one in found[1:] if one.flops_speedup > 1]
    if not rules:
        return [full_depth]
    flops = np.asarray([1 / one.flops_speedup for one in rules])
    steps = np.linspace(1, flops.min(), _MEASURED_FIRST + 1)[1:]
    chosen = np.unique(np.abs(flops[:, None] - steps).argmin(axis=0))
    return [full_depth, *(rules[place] for place in chosen)]
