"""The report as one HTML page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from fastbert_hf.analysis.analysing import Analysis
from fastbert_hf.analysis.captions import percent
from fastbert_hf.analysis.exits import Example
from fastbert_hf.analysis.tradeoff import Point, Tradeoff

_LONGEST_TEXT = 300


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
        summary: the result in a sentence or two.
        pictures: in their order.
        examples_caption: of the tables of texts.
        easiest, hardest: rows of these tables.
        notes: how it was measured, a paragraph each.
    """

    title: str
    facts: dict[str, str]
    summary: str
    pictures: Sequence[Picture]
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
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE).render(page=page, tables=_tables(analysis))


def _tables(analysis: Analysis) -> list[tuple[str, list[list[str]]]]:
    """Title and rows, the first of them the header, of the summary of every model."""
    if analysis.compared is None:
        return [("", _rows(analysis.tradeoff, analysis.confidence))]
    return [
        ("Analysed model", _rows(analysis.tradeoff, analysis.confidence)),
        (
            "Compared model, speed-ups over the analysed model at full depth",
            _rows(analysis.compared, analysis.confidence),
        ),
    ]


def _rows(tradeoff: Tradeoff, confidence: float) -> list[list[str]]:
    points = [tradeoff.full_depth, *tradeoff.speeds, *([tradeoff.calibrated] if tradeoff.calibrated else [])]
    timed = any(point.wall_clock for point in points)
    # A hyphen that no line is broken at.
    speedup = "speed\u2011up"
    header = ["", "accuracy", f"{percent(confidence)} interval", "mean exit layer", f"FLOPs {speedup}"]
    rows = [header + ([f"measured {speedup}", "ms per text"] if timed else [])]
    for point in points:
        low, high = point.accuracy_interval
        row = [
            _name(point),
            percent(point.accuracy, 1),
            f"{100 * low:.1f} to {percent(high, 1)}",
            f"{point.mean_exit_layer:.2f}",
            f"{point.flops_speedup:.2f}x",
        ]
        clock = point.wall_clock
        if timed:
            row += ["-", "-"] if clock is None else [f"{clock.speedup:.2f}x", f"{clock.milliseconds_per_text:.2f}"]
        rows.append(row)
    return rows


def _name(point: Point) -> str:
    if point.kind == "speed":
        return f"Speed {point.value:g}"
    return "full depth" if point.kind == "depth" else "calibrated setting"


_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 54rem; background: #fff; color: #1b1b1b;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid #d0d0d0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.lead { font-size: 1.1rem; margin: 0 0 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 0 1.5rem; font-size: .9rem; }
dt { color: #595959; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 1.75rem; }
img { display: block; width: 100%; height: auto; max-width: 46rem; margin: 0 auto; }
figcaption, .caption, .notes { font-size: .92rem; color: #333; }
figcaption { margin: .5rem auto 0; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e2e2e2; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid #8a8a8a; }
tbody th { border-bottom: 1px solid #e2e2e2; vertical-align: top; white-space: nowrap; }
th:first-child, td.word, th.word { text-align: left; }
td { white-space: nowrap; }
td.word { white-space: normal; overflow-wrap: break-word; }
td.text { min-width: 14rem; overflow-wrap: anywhere; }
.wrong { color: #a33b00; font-weight: 600; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  img { max-width: 16cm; }
}
</style>
</head>
<body>
<header>
<h1>{{ page.title }}</h1>
<p class="lead">{{ page.summary }}</p>
<dl>
{% for name, value in page.facts.items() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</header>
<main>
<section>
<h2>Summary</h2>
{% for title, rows in tables %}
{% if title %}
<h3>{{ title }}</h3>
{% endif %}
<div class="wide">
<table>
<thead><tr>{% for cell in rows[0] %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows[1:] %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
</section>
<section>
{% for picture in page.pictures %}
{% if picture.title %}
{% if not loop.first %}
</section>
<section>
{% endif %}
<h2>{{ picture.title }}</h2>
{% endif %}
<figure>
<img src="{{ picture.source }}" alt="{{ picture.alternative }}">
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% endfor %}
</section>
<section>
<h2>The easiest and the hardest texts</h2>
<p class="caption">{{ page.examples_caption }}</p>
{% for title, examples in (("Easiest", page.easiest), ("Hardest", page.hardest)) %}
<h3>{{ title }}</h3>
<div class="wide">
<table>
<thead><tr><th scope="col">row</th><th scope="col">exit layer</th><th scope="col">uncertainty</th>
<th scope="col" class="word">label</th><th scope="col" class="word">prediction</th>
{% if examples and examples[0].texts is not none %}
<th scope="col" class="word">text</th>
{% endif %}
</tr></thead>
<tbody>
{% for example in examples %}
<tr><th scope="row">{{ example.number }}</th><td>{{ example.exit_layer }}</td>
<td>{{ "not known" if example.uncertainty is none else "%.3f" | format(example.uncertainty) }}</td>
<td class="word">{{ example.label }}</td>
<td class="word{{ "" if example.label == example.prediction else " wrong" }}">{{ example.prediction }}
{%- if example.label != example.prediction %} (wrong){% endif %}</td>
{% if example.texts is not none %}
<td class="word text">
{% for text in example.texts %}
<div dir="auto">{{ text }}</div>
{% endfor %}
</td>
{% endif %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
</section>
<section class="notes">
<h2>How this was measured</h2>
{% for note in page.notes %}
<p>{{ note }}</p>
{% endfor %}
</section>
</main>
</body>
</html>
"""
