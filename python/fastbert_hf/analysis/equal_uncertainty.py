"""Is a shallow head more accurate than the teacher where both are equally unsure, and is the teacher's temperature why?

Liu et al. (2020, section 4.4) see it in their figure 3. A head that is too sure of itself has a low uncertainty on
samples that it gets wrong, so that its accuracy at a given uncertainty is low. If that is all, it goes away when every
head gets the temperature that makes its probabilities right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbert_hf.analysis.uncertainty import ENOUGH_TEXTS, INTERVALS, interval_places
from fastbert_hf.calibration import ExitRecords
from fastbert_hf.calibration.guarantee import split_rows
from fastbert_hf.calibration.simulation import uncertainties
from fastbert_hf.calibration.temperature import divide, fit_temperatures

_RESAMPLES = 300
_MEASURED_SHARE = 0.5  # the others fit
_TAILS = (0.025, 0.975)

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Accuracy of a student less that of the teacher at equal uncertainty.

    Attributes:
        value: mean over the tenths of [0, 1] in which both heads have 10 samples, each with the weight of the smaller
            number; `None` where there is no such tenth.
        interval: 95 %, percentiles of 300 resamples of the samples; `None` with `value`.
    """

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class AtEqualUncertainty:
    """A student against the teacher, as they are and with temperatures.

    Attributes:
        layer: of the student.
        as_is: the difference on the samples that the temperatures were not fitted to.
        scaled: on the same samples, with every head's logits divided by its temperature.
        temperatures: of the student and of the teacher; above 1, the head was too sure.
    """

    layer: int
    as_is: Difference
    scaled: Difference
    temperatures: tuple[float, float]


def at_equal_uncertainty(records: ExitRecords, *, seed: int = 0) -> tuple[AtEqualUncertainty, ...]:
    """Return the comparison of every student with the teacher.

    Args:
        records: labelled samples; half of them, drawn at random, fit the temperatures, the others measure.
        seed: of the parts and of the resamples.
    """
    fits, measures = split_rows(len(records), _MEASURED_SHARE, seed)
    temperatures = fit_temperatures(records.rows(fits))
    rest = records.rows(measures)
    as_is, scaled = (_differences(found, seed) for found in (rest, divide(rest, temperatures)))
    return tuple(
        AtEqualUncertainty(layer, before, after, (temperature, temperatures[-1]))
        for layer, before, after, temperature in zip(
            records.student_layers, as_is, scaled, temperatures[:-1], strict=True
        )
    )


def _differences(records: ExitRecords, seed: int) -> list[Difference]:
    uncertainty = uncertainties(records, "entropy")
    known = np.isfinite(uncertainty)
    places = interval_places(np.where(known, uncertainty, 0), INTERVALS)  # [n, E]
    right, samples = records.right & known, len(records)
    draw = np.random.default_rng(seed)
    whole = _at_weights(places, right, known, np.ones(samples))
    drawn = np.array(
        [
            _at_weights(places, right, known, np.bincount(draw.integers(samples, size=samples), minlength=samples))
            for _ in range(_RESAMPLES if samples else 0)
        ]
    )
    found = []
    for student, value in enumerate(whole):
        if np.isnan(value):
            found.append(Difference(None, None))
        else:
            low, high = np.nanquantile(drawn[:, student], _TAILS).tolist()
            found.append(Difference(float(value), (low, high)))
    return found


def _at_weights(
    places: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], weights: npt.ArrayLike
) -> Doubles:
    """Return the difference for every student, NaN where no interval has enough, with each sample so many times."""
    times = np.asarray(weights, dtype=np.float64)[:, None]
    rows = places + INTERVALS * np.arange(places.shape[1])
    shape = (places.shape[1], INTERVALS)
    count, hits = (
        np.bincount(rows.ravel(), weights=(times * part).ravel(), minlength=INTERVALS * places.shape[1]).reshape(shape)
        for part in (known, right)
    )
    accuracy = np.divide(hits, count, out=np.zeros(shape), where=count > 0)
    shared = np.minimum(count[:-1], count[-1])  # [students, intervals]
    shared[shared < ENOUGH_TEXTS] = 0
    total = shared.sum(axis=1)
    sums = (shared * (accuracy[:-1] - accuracy[-1])).sum(axis=1)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
