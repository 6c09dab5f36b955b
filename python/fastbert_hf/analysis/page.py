"""The report as one HTML page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

from fastbert_hf.analysis.analyzing import Analysis
from fastbert_hf.analysis.captions import percent
from fastbert_hf.analysis.classes import ByClass
from fastbert_hf.analysis.exits import Example
from fastbert_hf.analysis.template import TEMPLATE
from fastbert_hf.analysis.tradeoff import Baseline, Point, Tradeoff, WallClock

_LONGEST_TEXT = 300
# Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Picture:
    """A chart of the report.

    Attributes:
        name: of its file, without ending.
        title: heading of its section, or "" where it goes on with the section before.
        alternative: what it is, for those who cannot see it.
        caption: how to read it and what it shows.
        png: the file.
    """

    name: str
    title: str
    alternative: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture as the address of an `img`."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class ShownExample:
    """One of the easiest or hardest texts, with names in place of numbers.

    Attributes:
        number: of the row in the data, from 1.
        texts: the text, or both of a pair, cut off when long; `None` when texts are left out.
    """

    number: int
    exit_layer: int
    uncertainty: float | None
    label: str
    prediction: str
    texts: tuple[str, ...] | None

    @classmethod
    def of(cls, example: Example, class_names: Sequence[str], texts: Sequence[str] | None) -> ShownExample:
        """`example` with `texts`, whole."""
        return cls(
            number=example.row + 1,
            exit_layer=example.exit_layer,
            uncertainty=example.uncertainty,
            label=class_names[example.label],
            prediction=class_names[example.prediction],
            texts=None if texts is None else tuple(shortened(text) for text in texts),
        )


@dataclass(frozen=True)
class Page:
    """What the report shows beside the figures of the analysis.

    Attributes:
        title: of the page.
        facts: names and values: model, data, machine, date.
        verdict: whether early exit pays, in a sentence.
        summary: the result in a sentence or two.
        pictures: in their order.
        classes: rows of the table of classes, the first of them its header.
        classes_caption: of that table.
        examples_caption: of the tables of texts.
        easiest: rows of the table of texts that leave first.
        hardest: rows of the table of texts that leave last.
        notes: how it was measured, a paragraph each.
    """

    title: str
    facts: dict[str, str]
    verdict: str
    summary: str
    pictures: Sequence[Picture]
    classes: Sequence[Sequence[str]]
    classes_caption: str
    examples_caption: str
    easiest: Sequence[ShownExample]
    hardest: Sequence[ShownExample]
    notes: Sequence[str]


def shortened(text: str) -> str:
    """`text` on one line, cut off with an ellipsis when it is long."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1].rstrip() + "\u2026"


def render(page: Page, analysis: Analysis) -> str:
    """The page; whatever comes from the data, from paths and from names of classes is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_in_its_order
    )
    return environment.from_string(TEMPLATE).render(page=page, tables=_tables(analysis))


def _in_its_order(value: Any) -> Any:
    """Return `value` without characters that turn around the order in which what follows is shown."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return _DIRECTION.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    return value


def class_rows(by_class: ByClass, most: int) -> list[list[str]]:
    """Return the rows of the table of classes, its header first: all, or `most` of the lowest F1 at the exits."""

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    pairs = list(zip(by_class.at_exits, by_class.full_depth, strict=True))
    if len(pairs) > most:
        pairs = sorted(pairs, key=lambda pair: 2.0 if pair[0].f1 is None else pair[0].f1)[:most]
    rows = [["class", "texts", "precision", "recall", "F1", "F1, full depth", "mean exit layer"]]
    for score, whole in pairs:
        figures = (score.precision, score.recall, score.f1, whole.f1)
        rows.append(
            [
                score.name,
                f"{score.texts:,}",
                *(cell(figure, ".3f") for figure in figures),
                cell(score.mean_exit_layer, ".2f"),
            ]
        )
    return rows


def _tables(analysis: Analysis) -> list[tuple[str, list[list[str]]]]:
    """Title and rows, the first of them the header, of the summary of every model."""
    if analysis.compared is None:
        return [("", _rows(analysis.tradeoff, analysis.confidence, analysis.baseline))]
    return [
        ("Analyzed model", _rows(analysis.tradeoff, analysis.confidence, analysis.baseline)),
        (
            "Compared model, speed-ups over the analyzed model at full depth",
            _rows(analysis.compared, analysis.confidence),
        ),
    ]


def _rows(tradeoff: Tradeoff, confidence: float, baseline: Baseline | None = None) -> list[list[str]]:
    points = [tradeoff.full_depth, *([tradeoff.calibrated] if tradeoff.calibrated else []), *tradeoff.speeds]
    timed = any(point.wall_clock for point in points)
    # A hyphen that no line is broken at.
    speedup = "speed\u2011up"
    header = ["", "accuracy", f"{percent(confidence)} interval", "macro F1", "mean exit layer", f"FLOPs {speedup}"]
    rows = [header + ([f"measured {speedup}", "ms per text"] if timed else [])]
    for point in points:
        row = [_name(point), *_accuracy(point), f"{point.mean_exit_layer:.2f}", f"{point.flops_speedup:.2f}x"]
        rows.append(row + (_times(point.wall_clock) if timed else []))
    if baseline is not None:
        row = [f"bag of {baseline.unit}", *_accuracy(baseline), "-", "-"]
        rows.append(row + (_times(baseline.wall_clock) if timed else []))
    return rows


def _accuracy(of: Point | Baseline) -> list[str]:
    low, high = of.accuracy_interval
    return [percent(of.accuracy, 1), f"{100 * low:.1f} to {percent(high, 1)}", f"{of.macro_f1:.3f}"]


def _times(clock: WallClock | None) -> list[str]:
    return ["-", "-"] if clock is None else [f"{clock.speedup:.2f}x", f"{clock.milliseconds_per_text:.2f}"]


def _name(point: Point) -> str:
    if point.kind == "speed":
        return f"Speed {point.value:g}"
    return "full depth" if point.kind == "depth" else "calibrated setting"
