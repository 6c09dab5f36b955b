"""One way to classify the texts of one data set: how often it is right, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from families import unit_in_words
from fastbert_hf.calibration.intervals import share_interval

CONFIDENCE = 0.95


class Kind(Enum):
    """What a point is, in the words of the legend."""

    BAG = "bag of words"
    PEER = "others' engines, full depth"
    EARLY_PEER = "others' early exits"
    STATIC = "first layers alone"
    FULL = "FastBERT, full depth"
    EARLY = "FastBERT, early exit"


@dataclass(frozen=True)
class Point:
    """One row of the page.

    Attributes:
        data: name of the data set, as in `SETS` or in the result file.
        kind: what it is.
        series: the model, and what runs it; points of one series are joined by a line.
        setting: of the series, `Speed 0.1`, say; empty where it has one only.
        source: name of the result file.
        accuracy: share of the texts; None where it was not measured.
        texts: that accuracy was counted on.
        labels: labelled texts that training saw; None where the file does not say.
        flops_speedup: over the same model at full depth, in the paper's convention.
        seconds: per 1,000 texts; None where it was not measured.
        processor: that the seconds are of; empty without seconds.
        threads: that ran.
        load: of the machine before the run, over a minute; None where the file does not say.
    """

    data: str
    kind: Kind
    series: str
    setting: str
    source: str
    accuracy: float | None = None
    texts: int | None = None
    labels: int | None = None
    flops_speedup: float | None = None
    seconds: float | None = None
    processor: str = ""
    threads: int = 0
    load: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the accuracy (Clopper and Pearson); None where it was not measured."""
        if self.accuracy is None or self.texts is None:
            return None
        return share_interval(round(self.accuracy * self.texts), self.texts, CONFIDENCE)


def clock(result: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return seconds per 1,000 texts, and what they were measured on, from a result that describes its machine."""
    machine, load = result["machine"], result.get("load", [None])[0]
    device = machine.get("cuda_device") or f"{machine['processor']}{unit_in_words(machine['extensions'])}"
    return {"seconds": seconds, "processor": device, "threads": machine["threads"], "load": load}
