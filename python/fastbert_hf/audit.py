"""Watching a calibration's promise on the texts that come: does it hold, and are they like those it was made with?

A share of the texts, drawn at random, runs to full depth as well; the answers stay those of the exits. Two questions
are asked all the time, each with a wrong alarm at most once in 1 / (1 - confidence) audits, however often one looks:

- Is the promise broken? The answers that differ from full depth's give an interval for their share among all texts that
  holds at all times at once (`calibration.intervals.share_over_time`). The promise is broken when all of it lies above
  what `max_disagreement` promised. (The alarm is no more frequent where the share changes with time and never exceeds
  the promise: then already the part of the mixture above it is a supermartingale.)
- Has the traffic changed? Exit layers cost nothing to count, so they are compared for all texts. Since they are
  ordered, the comparison is of the shares of texts that have left by each layer, as in the test of Kolmogorov and
  Smirnov: the Clopper-Pearson interval of the share in the calibration, and `share_over_time` of the share since, each
  at half of the level over the L - 1 layers (Bonferroni). Where the two are apart at some layer, the traffic is
  another. Intervals that are apart are more than the level asks for, which leaves room for the calibration having
  chosen its rule with the samples it counted.

An audit speaks of all texts since it began. Begin a new one from time to time, so that old texts do not hide a change.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from fastbert_hf.calibration.intervals import check_confidence, share_interval, share_over_time
from fastbert_hf.exits.calibrated_setting import CalibratedSetting, Interval, check_score_change
from fastbert_hf.exits.resolution import Speed
from fastbert_hf.outputs import same_predictions


@dataclass(frozen=True)
class Shift:
    """The layer by which another share of texts has left than in the calibration, beyond chance.

    Attributes:
        layer: 1-based; 0 for exit zero.
        calibrated: share that had left after it, or before, in the calibration.
        calibrated_interval: of that share.
        seen: the same of the texts of the audit.
        seen_interval: of that share.
    """

    layer: int
    calibrated: float
    calibrated_interval: Interval
    seen: float
    seen_interval: Interval


@dataclass(frozen=True)
class AuditReport:
    """What an audit has seen so far.

    Attributes:
        texts: how many were answered.
        audited: how many of them ran to full depth as well.
        disagreements: how many of those were answered otherwise at their exit; of a multi-label model in any class, of
            one with one output by more than `max_score_change`.
        disagreement: their share; `None` before the first.
        disagreement_interval: of that share among all texts; holds with `confidence` at all times at once.
        promised: share that the calibrated setting promised at most; `None` where it promised none.
        confidence: of the interval and of each warning.
        exit_counts: how many texts left after each layer, [L]; of a model with exit zero [L + 1], from layer 0 on.
        calibrated_exit_counts: the same of the samples of the calibration; `None` where that is not known.
        total_variation: half of the sum over the layers of the differences between the shares of both, in [0, 1];
            chance alone makes it larger than 0. `None` without texts or without the counts of the calibration.
        shift: what shows that the traffic has changed; `None` when nothing does.
        max_score_change: from where on a score is another answer; `None` for a model with classes.
    """

    texts: int
    audited: int
    disagreements: int
    disagreement: float | None
    disagreement_interval: Interval
    promised: float | None
    confidence: float
    exit_counts: tuple[int, ...]
    calibrated_exit_counts: tuple[int, ...] | None
    total_variation: float | None
    shift: Shift | None
    max_score_change: float | None = None

    @property
    def promise_broken(self) -> bool:
        """Return True when more answers differ than promised, beyond chance."""
        return self.promised is not None and self.disagreement_interval[0] > self.promised

    @property
    def warnings(self) -> list[str]:
        """Return a line for each thing that is wrong beyond chance; none when all is well."""
        lines, sure = [], f"{self.confidence:.4g}"
        if self.promise_broken:
            assert self.promised is not None and self.disagreement is not None
            lines.append(
                f"the promise is broken: {self.disagreement:.2%} of {self.audited:,} audited texts got another answer "
                f"than at full depth, with {sure} confidence more than {self.disagreement_interval[0]:.2%} of all do, "
                f"and at most {100 * self.promised:.4g} % was promised; calibrate again on texts like these, or run at "
                "full depth"
            )
        if self.shift is not None:
            shift = self.shift
            lines.append(
                f"the traffic is not that of the calibration ({sure} confidence): {shift.seen:.2%} of texts leave by "
                f"layer {shift.layer}, and in the calibration {shift.calibrated:.2%} did, so its promise says nothing "
                "about them; calibrate again on texts like these, if precision and length are as they were"
            )
        return lines


class Audit:
    """Counts what exits answer beside full depth, and where texts leave; several threads may use one.

    Whoever answers texts asks `draw` which of them to run to full depth as well, gives the exit layers of all to
    `add_exits` and both answers of the drawn ones to `add_answers`. `iter_predict(..., audit=...)` does all that.

    Args:
        share: of the texts that are drawn, in (0, 1].
        num_layers: L of the model.
        promised: share of answers that may differ; `None` where nothing is promised about them.
        calibrated_exit_counts: how many samples of the calibration left after each layer, [L], or `None`.
        first_layer: 0 for a model with exit zero, whose counts are [L + 1], from layer 0 on.
        confidence: of the interval and of each warning, in (0, 1).
        seed: of the draw. The same texts in the same order are drawn again with the same seed; `None`: a draw that
            nobody can foresee, and another one for every audit.
        multi_label: the model's classes are decisions of their own.
        max_score_change: of a model with one output, how far a score may be from full depth's and still be the same
            answer; `None` for a model with classes.

    Raises:
        ValueError: numbers out of range, or counts of another number of layers.
    """

    def __init__(
        self,
        share: float,
        num_layers: int,
        *,
        promised: float | None = None,
        calibrated_exit_counts: Sequence[int] | None = None,
        first_layer: int = 1,
        confidence: float = 0.95,
        seed: int | None = None,
        multi_label: bool = False,
        max_score_change: float | None = None,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"the share of texts to audit must be above 0 and at most 1, got {share:g} (1 % is 0.01)")
        check_confidence(confidence)
        counts = num_layers + 1 - first_layer
        if calibrated_exit_counts is not None and len(calibrated_exit_counts) != counts:
            raise ValueError(f"{counts} layers have as many exit counts, got {len(calibrated_exit_counts)}")
        check_score_change(max_score_change)
        self.share, self.promised, self.confidence, self.multi_label = share, promised, confidence, multi_label
        self.max_score_change = max_score_change
        self._calibrated = None if calibrated_exit_counts is None else tuple(calibrated_exit_counts)
        self._generator = np.random.default_rng(seed)
        self._first_layer, self._exits = first_layer, np.zeros(counts, dtype=np.int64)
        self._audited = self._disagreements = 0
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        model: Any,
        share: float,
        *,
        speed: Speed | None = None,
        speedup: float | None = None,
        confidence: float | None = None,
        seed: int | None = None,
        max_score_change: float | None = None,
    ) -> Audit:
        """Return an audit of what the calibrated setting of a FastBERT model promises.

        Args:
            model: a FastBERT model.
            share: of the texts that are drawn, in (0, 1].
            speed: as in the calls of the model; where it is given, the setting is not used, and nothing is promised.
            speedup: the same.
            confidence: of the interval and of each warning; `None`: that of the calibration, or 0.95.
            seed: of the draw; `None`: one that nobody can foresee.
            max_score_change: as in the class, for a model with one output that has no setting; `None`: that of the
                setting.

        Raises:
            ValueError: neither a setting, nor a Speed or a speed-up: all texts run to full depth; a score, of which
                nobody said from where on it is another answer; or numbers out of range.
        """
        setting = model.calibrated_setting
        by_setting = speed is None and speedup is None
        if by_setting and setting is None:
            raise ValueError(
                "an audit compares answers of early exits with full depth's, and this model is not calibrated, so that "
                "all texts run to full depth; calibrate it first, or give a speed"
            )
        if setting is not None and max_score_change is None:
            max_score_change = setting.objective.max_score_change
        if setting is not None and by_setting:
            return cls.of_setting(
                model, setting, share, confidence=confidence, seed=seed, max_score_change=max_score_change
            )
        return cls._of_model(
            model,
            share,
            confidence=0.95 if confidence is None else confidence,
            seed=seed,
            max_score_change=max_score_change,
        )

    @classmethod
    def of_setting(
        cls,
        model: Any,
        setting: CalibratedSetting,
        share: float,
        *,
        confidence: float | None = None,
        seed: int | None = None,
        max_score_change: float | None = None,
    ) -> Audit:
        """Return an audit of what `setting` promises, by whose rule the texts leave: the model's or another.

        `confidence` and `max_score_change` are by default those of the setting. Other arguments and errors are those of
        `of`; a setting for another number of layers is an error, too.
        """
        if max_score_change is None:
            max_score_change = setting.objective.max_score_change
        return cls._of_model(
            model,
            share,
            promised=setting.objective.max_disagreement,
            calibrated_exit_counts=setting.figures.exit_counts,
            confidence=setting.evidence.confidence if confidence is None else confidence,
            seed=seed,
            max_score_change=max_score_change,
        )

    @classmethod
    def _of_model(cls, model: Any, share: float, *, max_score_change: float | None, **others: Any) -> Audit:
        """Return an audit with what the class has to know of a FastBERT model."""
        config = model.config
        if not config.gives_scores:
            max_score_change = None
        elif max_score_change is None:
            raise ValueError(
                "this model has one output, a score, and an audit has to know from where on it is another answer: say "
                "max_score_change=0.1, or calibrate the model with it first"
            )
        return cls(
            share,
            config.num_hidden_layers,
            first_layer=config.first_exit,
            multi_label=config.multi_label,
            max_score_change=max_score_change,
            **others,
        )

    def draw(self, texts: int) -> torch.Tensor:
        """Return which of the next `texts` texts to run to full depth as well, bool [texts]."""
        with self._lock:
            return torch.from_numpy(self._generator.random(texts) < self.share)

    def add_exits(self, exit_layer: torch.Tensor) -> None:
        """Count the exit layers of texts, int64 [n] in 1..L, or 0 at exit zero."""
        counts = np.bincount(exit_layer.cpu().numpy() - self._first_layer, minlength=len(self._exits))
        with self._lock:
            self._exits += counts

    def add_answers(self, logits: torch.Tensor, full_depth: torch.Tensor) -> None:
        """Count drawn texts, and those answered otherwise at their exit.

        Args:
            logits: float [m, N], at their exits.
            full_depth: float [m, N], of the same texts at full depth.
        """
        if self.max_score_change is None:
            same = same_predictions(logits, full_depth, self.multi_label)
        else:
            same = (logits - full_depth).abs()[:, 0] <= self.max_score_change
        differ = int((~same).sum())
        with self._lock:
            self._audited += len(logits)
            self._disagreements += differ

    def report(self) -> AuditReport:
        """Return what was seen so far."""
        with self._lock:
            exits = tuple(self._exits.tolist())
            audited, disagreements = self._audited, self._disagreements
        calibrated, texts = self._calibrated, sum(exits)
        variation = None
        if calibrated is not None and texts and sum(calibrated):
            pairs = zip(exits, calibrated, strict=True)
            variation = sum(abs(now / texts - then / sum(calibrated)) for now, then in pairs) / 2
        return AuditReport(
            texts=texts,
            audited=audited,
            disagreements=disagreements,
            disagreement=disagreements / audited if audited else None,
            disagreement_interval=share_over_time(disagreements, audited, self.confidence),
            promised=self.promised,
            confidence=self.confidence,
            exit_counts=exits,
            calibrated_exit_counts=calibrated,
            total_variation=variation,
            shift=None
            if variation is None
            else find_shift(calibrated or (), exits, self.confidence, self._first_layer),
            max_score_change=self.max_score_change,
        )


def find_shift(calibrated: Sequence[int], seen: Sequence[int], confidence: float, first_layer: int = 1) -> Shift | None:
    """Return the largest difference between two distributions of exit layers that chance does not explain.

    Where both are drawn from one distribution, something is found with probability at most 1 - confidence, even if
    `seen` grows and is looked at again and again; the module says how.

    Args:
        calibrated: how many samples of the calibration left after each layer, [L].
        seen: the same of texts since, [L].
        confidence: in (0, 1).
        first_layer: that the counts begin with.
    """
    cuts = len(seen) - 1
    if cuts == 0 or not sum(calibrated) or not sum(seen):
        return None
    each = 1 - (1 - confidence) / (2 * cuts)
    before, now = sum(calibrated), sum(seen)
    found = []
    by_layer = list(zip(accumulate(calibrated), accumulate(seen), strict=True))
    for layer, (left_before, left_now) in enumerate(by_layer[:cuts], first_layer):
        intervals = share_interval(left_before, before, each), share_over_time(left_now, now, each)
        if intervals[0][1] < intervals[1][0] or intervals[1][1] < intervals[0][0]:
            found.append(Shift(layer, left_before / before, intervals[0], left_now / now, intervals[1]))
    return max(found, key=lambda one: abs(one.seen - one.calibrated), default=None)
