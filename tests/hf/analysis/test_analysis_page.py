"""The report of an analysis: a whole page that needs nothing else, with captions that say what the figures are."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import re
import struct
from dataclasses import replace

import pytest
import torch
from matplotlib import image

from fastbert_hf.analysis import Analysis, BagAnswers, WallClock, analyze, captions, verdict
from fastbert_hf.analysis.charts import accuracy_by_uncertainty_chart, changes_chart, exits_chart, uncertainty_chart
from fastbert_hf.analysis.class_charts import confusion_chart, exit_layers_chart
from fastbert_hf.analysis.page import Page, Picture, ShownExample, class_rows, render, shortened
from fastbert_hf.analysis.tradeoff_charts import flops_chart, wall_clock_chart
from fastbert_hf.by_class import scores_by_class
from fastbert_hf.calibration import Objective, calibrate, simulate
from helpers.analysis import make_records, read_page

SPEEDS = (0.1, 0.3, 0.5, 0.8)
CHARTS = [
    accuracy_by_uncertainty_chart,
    uncertainty_chart,
    exits_chart,
    flops_chart,
    wall_clock_chart,
    changes_chart,
]
EVIL = "<script>alert('x')</script> & \"quoted\" </td></table>"


def with_times(analysis: Analysis) -> Analysis:
    def timed(tradeoff):
        points = (*tradeoff.speeds, *tradeoff.depths)
        return tradeoff.timed({(p.kind, p.value): WallClock(2.5, p.flops_speedup, (p.flops_speedup,)) for p in points})

    compared = analysis.compared
    return replace(analysis, tradeoff=timed(analysis.tradeoff), compared=None if compared is None else timed(compared))


@functools.cache
def a_picture() -> bytes:
    return exits_chart(analyze(make_records(40), SPEEDS))


def make_page(analysis: Analysis, text: str | None) -> str:
    names = ("no", EVIL, "yes")
    texts = None if text is None else (text, "second")
    png = a_picture()
    return render(
        Page(
            title=f"Early exits of {EVIL}",
            facts={"Data": EVIL},
            verdict=analysis.verdict.sentence,
            summary=captions.summary(analysis),
            pictures=[Picture("a", "First", "a chart", EVIL, png), Picture("b", "", "another", "words", png)],
            classes=class_rows(analysis.by_class, 30),
            classes_caption=captions.by_class(analysis, 3),
            examples_caption="examples",
            easiest=[ShownExample.of(one, names, texts) for one in analysis.easiest],
            hardest=[ShownExample.of(one, names, texts) for one in analysis.hardest],
            notes=[EVIL],
        ),
        analysis,
    )


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, after the whole picture was decoded."""
    pixels = image.imread(io.BytesIO(png), format="png")
    assert float(pixels[..., :3].std()) > 0.01  # not blank
    assert struct.unpack(">II", png[16:24]) == (pixels.shape[1], pixels.shape[0])
    return pixels.shape[1], pixels.shape[0]


@pytest.mark.parametrize("compared", [False, True])
def test_the_page_is_whole_and_needs_nothing_else(compared):
    records = make_records(120)
    other = make_records(120, (1, 2), seed=1) if compared else None
    setting = calibrate(records, Objective(max_drop=0.2), search="one_speed")
    html = make_page(with_times(analyze(records, SPEEDS, setting=setting, compared=other)), EVIL)
    reader = read_page(html)
    names = [tag for tag, _ in reader.tags]
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(names)
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == 2
    for attributes in pictures:
        kind, _, data = attributes["src"].partition(",")
        assert kind == "data:image/png;base64" and attributes["alt"]
        assert size_of(base64.b64decode(data, validate=True))[0] > 800
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag == "img" or not {"src", "href", "srcset", "action"} & set(attributes)
    assert not re.search(r"@import|url\(|https?:|://", re.sub(r'src="data:[^"]*"', "", html))
    text = "".join(reader.text)
    assert text.count("<script>alert('x')</script>") > 20 and "\ufffd" not in text
    assert names.count("table") == 4 + compared and names.count("h1") == 1
    assert ("Compared model" in text) == compared and "calibrated setting" in text


def test_verdict_and_baseline_are_shown():
    records = make_records(120)
    bag = BagAnswers("characters", 1234, records.labels.numpy())  # always right
    analysis = with_times(analyze(records, SPEEDS, bag=bag))
    html = make_page(analysis, None)
    assert "<strong>A bag of words is as good here: it is right on 100.0%" in html
    assert '<th scope="row">bag of characters</th><td>100.0\u00a0%</td>' in html
    without = replace(analysis, baseline=None)
    for chart in (flops_chart, wall_clock_chart):
        assert chart(analysis) != chart(without)
    plain = make_page(analyze(records, SPEEDS), None)
    assert "bag of" not in plain.lower() and f"<strong>{verdict(records).sentence}</strong>" in plain


def test_texts_cannot_turn_around_what_is_shown():
    records = make_records(120)
    html = make_page(analyze(records, SPEEDS), "good\u202e\u2066 \u05d0\u05d1")
    assert "good\\u202e\\u2066 \u05d0\u05d1" in html and not {"\u202e", "\u2066"} & set(html)


def test_the_page_leads_with_the_calibrated_setting():
    records = make_records(300)
    setting = calibrate(records, Objective(max_drop=0.2), search="one_speed")
    analysis = analyze(records, SPEEDS, setting=setting)
    point = analysis.tradeoff.calibrated
    assert analysis.leading == point and analyze(records, SPEEDS).leading.value == 0.5
    words = f"With the calibrated setting a text runs through {point.mean_exit_layer:.2f} of 4 layers"
    assert words in captions.summary(analysis) and "At Speed" not in captions.summary(analysis)
    assert captions.examples(analysis).startswith("With the calibrated setting: texts that leave first")
    table = make_page(analysis, None).partition("<h2>Summary</h2>")[2]
    rows = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert rows[:3] == ["full depth", "calibrated setting", "Speed 0.1"]


def test_classes_are_those_of_the_setting():
    records = make_records(300)
    setting = calibrate(records, Objective(max_drop=0.2), search="one_speed")
    found = analyze(records, SPEEDS, setting=setting, class_names=["a", "b", "c"]).by_class
    answers = simulate(records, setting.rule).predictions.tolist()
    pairs = list(zip(records.labels.tolist(), answers, strict=True))
    assert found.confusion == tuple(tuple(pairs.count((row, column)) for column in range(3)) for row in range(3))
    worst = min(found.at_exits, key=lambda score: score.f1)
    header, row = class_rows(found, 1)
    assert (header[0], row[0], row[4]) == ("class", worst.name, f"{worst.f1:.3f}")
    assert [row[0] for row in class_rows(found, 3)] == ["class", "a", "b", "c"]


@pytest.mark.parametrize("classes", [2, 12, 96])
def test_confusions_are_drawn_for_any_number_of_classes(classes, recwarn):
    names = ["$x$", "\u4e0d\u597d", *(f"a name that is long {number}" for number in range(classes - 2))]
    matrix = [[7 * (row == column) + (row < column) for column in range(classes)] for row in range(classes)]
    matrix[0] = [0] * classes  # a class without texts
    width, height = size_of(confusion_chart(matrix, names))
    assert width == 1152 and 400 < height < 1300 and not recwarn.list
    exits = torch.arange(classes).remainder(7)
    scores = scores_by_class(torch.arange(classes), torch.zeros_like(exits), exits, names, 6, first_layer=0)
    assert size_of(exit_layers_chart(scores, 0)) == (width, height) and not recwarn.list


def test_the_caption_names_the_classes_that_leave_first_and_last():
    analysis = analyze(make_records(300), SPEEDS, class_names=["a", "b", "c"])
    means = {score.name: score.mean_exit_layer for score in analysis.by_class.at_exits}
    first, last = min(means, key=means.get), max(means, key=means.get)
    caption = captions.exits_by_class(analysis)
    assert f"{first} leave first, behind layer {means[first]:.1f}" in caption
    assert f"{last} last, behind layer {means[last]:.1f}." in caption
    alike = replace(analysis.by_class, at_exits=(analysis.by_class.at_exits[0],) * 3)
    assert "All classes leave alike" in captions.exits_by_class(replace(analysis, by_class=alike))


def test_the_page_fits_a_phone():
    """Nothing is wider than a narrow screen but tables, and these scroll in an element of their own."""
    reader = read_page(make_page(analyze(make_records(120), SPEEDS, compared=make_records(120, seed=1)), "text"))
    metas = [attributes for tag, attributes in reader.tags if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    tags = [tag for tag, _ in reader.tags]
    for place, tag in enumerate(tags):
        if tag == "table":
            assert reader.tags[place - 1] == ("div", {"class": "wide"})
    assert not any({"width", "style"} & set(attributes) for _, attributes in reader.tags)
    style = "".join(reader.text)
    assert ".wide { overflow-x: auto; }" in style
    assert re.search(r"img \{[^}]*width: 100%; height: auto;", style)
    widths = re.findall(r"(?<!max-)width: ([\d.]+)rem", style)
    assert all(float(width) * 16 <= 420 for width in widths)


def test_private_texts_stay_out():
    records = make_records(120)
    analysis = analyze(records, SPEEDS)
    html = make_page(analysis, None)
    reader = read_page(html)
    assert "second" not in "".join(reader.text) and ("div", {"dir": "auto"}) not in reader.tags
    assert ("div", {"dir": "auto"}) in read_page(make_page(analysis, "my text")).tags
    rows = [example.row + 1 for example in analysis.easiest]
    assert all(f">{row}</th>" in html for row in rows)


def test_long_texts_are_cut_and_short_ones_are_not():
    assert shortened("a\n  b\tc") == "a b c"
    assert shortened("x" * 300) == "x" * 300
    assert shortened("word " * 100) == ("word " * 60)[:299].rstrip() + "\u2026"
    assert len(shortened("x" * 10_000)) == 300


def test_the_summary_table_has_the_figures():
    analysis = with_times(analyze(make_records(120), SPEEDS))
    text = "".join(read_page(make_page(analysis, None)).text)
    for point in (analysis.tradeoff.full_depth, *analysis.tradeoff.speeds):
        low, high = point.accuracy_interval
        for figure in (
            f"{100 * point.accuracy:.1f}\u00a0%",
            f"{100 * low:.1f} to {100 * high:.1f}\u00a0%",
            f"{point.mean_exit_layer:.2f}",
            f"{point.flops_speedup:.2f}x",
        ):
            assert figure in text
    assert "ms per text" in text
    assert "ms per text" not in "".join(read_page(make_page(analyze(make_records(120), SPEEDS), None)).text)


@functools.cache
def compared_models(layers: tuple[int, ...]) -> Analysis:
    """Two models with exit heads behind `layers`, one of them with a calibrated setting."""
    records, other = make_records(90, layers), make_records(90, layers, seed=2)
    setting = calibrate(records, Objective(max_drop=0.2), search="one_speed")
    return with_times(analyze(records, SPEEDS, setting=setting, compared=other))


@functools.cache
def at_speeds(*speeds: float) -> Analysis:
    return with_times(analyze(make_records(40), speeds))


@functools.cache
def knowing(what: str) -> Analysis:
    records = make_records(40)
    if what == "nothing":
        records.logits[:] = 0.0
    elif what == "everything":
        records.logits[:] = 50.0 * torch.nn.functional.one_hot(records.labels, 3)[:, None]
    else:
        assert what == "not a number"
        records.logits[:, 1] = torch.nan
    return with_times(analyze(records, SPEEDS))


@pytest.mark.parametrize("layers", [(0, 9), tuple(range(1, 25))])
@pytest.mark.parametrize("draw", CHARTS)
def test_charts_are_drawn_for_models_of_every_depth(draw, layers):
    width, height = size_of(draw(compared_models(layers)))
    assert width == 1152 and 400 < height < 2400


@pytest.mark.parametrize("speeds", [(0.0,), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)])
@pytest.mark.parametrize("draw", CHARTS)
def test_charts_are_drawn_for_any_speeds(draw, speeds):
    size_of(draw(at_speeds(*speeds)))


@pytest.mark.parametrize("draw", CHARTS)
def test_charts_are_drawn_for_models_that_know_nothing_and_everything(draw):
    for what in ("nothing", "everything", "not a number"):
        size_of(draw(knowing(what)))


def test_captions_say_what_the_figures_are():
    records = make_records(400)
    noise = torch.randn(records.logits.shape, generator=torch.Generator().manual_seed(4))
    records.logits[:] = 2 * noise + 2 * torch.nn.functional.one_hot(records.labels, 3)[:, None]  # sure is right
    analysis = with_times(analyze(records, SPEEDS))
    first = analysis.accuracy_by_uncertainty[0]
    sure = first.with_at_least(10)[0]
    caption = captions.accuracy_by_uncertainty(analysis)
    words = f"{100 * sure.accuracy:.0f}\u00a0% of the {sure.samples} texts below uncertainty 0.1"
    assert sure.low == 0 and f"The first student classifier (layer 1) is right on {words}" in caption
    unsure = first.with_at_least(10)[-1]
    assert f"and on {100 * unsure.accuracy:.0f}\u00a0% of the {unsure.samples}" in caption
    assert "In all of these heads the surest texts are right more often" in caption

    half = next(point for point in analysis.tradeoff.speeds if point.value == 0.5)
    full = analysis.tradeoff.full_depth
    assert f"{100 * abs(half.accuracy - full.accuracy):.1f} points" in captions.summary(analysis)
    assert f"through {half.mean_exit_layer:.2f} of 4 layers" in captions.summary(analysis)
    total = next(one.total for one in analysis.changes_at_speed if one.speed == 0.5)
    assert f"{total.wrong_then_right} texts are lost" in captions.changes(analysis)
    wrong = sum(one.label != one.prediction for one in analysis.hardest)
    assert f"{wrong} of the 10 hardest are answered wrong" in captions.examples(analysis)
    leave = analysis.exits[0].samples[0] / 400
    assert f"leave {100 * leave:.0f}\u00a0% at Speed 0.1" in captions.exits(analysis)
    assert "100\u00a0% at Speed 0.8" in captions.wall_clock(analysis)  # as long as the FLOPs say


def test_exit_zero_has_words_of_its_own():
    records = make_records(200, (0, 1, 2, 3))
    records.logits[:, 0] = 40.0 * torch.nn.functional.one_hot(records.labels, 3)  # everybody leaves there
    analysis = with_times(analyze(records, SPEEDS))
    assert [point.value for point in analysis.tradeoff.depths] == [1, 2, 3]
    speedup = analysis.tradeoff.speeds[0].flops_speedup
    assert speedup > 64 and analysis.tradeoff.speeds[0].mean_exit_layer == 0
    words = f"Beyond the right edge lies Speed 0.1 (100.0\u00a0% at {speedup:,.0f}x), Speed 0.3"
    assert words in captions.flops(analysis)
    assert "Before layer 1 leave 100\u00a0% at Speed 0.1" in captions.exits(analysis)
    assert "If every text left before layer 1" in captions.changes(analysis)
    usual = analyze(make_records(200), SPEEDS)
    assert "Beyond" not in captions.flops(usual) and "Behind layer 1 leave" in captions.exits(usual)


def test_captions_say_how_uncertainty_moves_and_what_it_is_worth():
    analysis = analyze(make_records(400), SPEEDS)
    first, *_, last = analysis.uncertainty_steps
    for step in (first, last):
        words = f"from layer {step.from_layer} to {step.to_layer} for {100 * step.falls:.0f}\u00a0% of them"
        assert words in captions.uncertainty(analysis)
    student = analysis.equal_uncertainty[0]
    caption = captions.accuracy_by_uncertainty(analysis)
    assert f"{100 * student.as_is.value:+.1f} points (95\u00a0% interval" in caption
    assert f"{100 * student.scaled.value:+.1f} points (95\u00a0% interval" in caption


def test_captions_do_not_claim_what_the_data_do_not_show():
    records = make_records(400)
    records.logits[:] = torch.randn(records.logits.shape, generator=torch.Generator().manual_seed(5))
    caption = captions.accuracy_by_uncertainty(analyze(records, SPEEDS))
    assert "In none of these heads are the surest texts right more often" in caption


@pytest.mark.parametrize(("unsure", "words"), [(0, "has all texts below"), (3, "has 397 of 400 texts below")])
def test_captions_count_texts_outside_the_one_interval_that_has_many(unsure, words):
    records = make_records(400)
    records.logits[:] = 50.0 * torch.nn.functional.one_hot(records.labels, 3)[:, None]  # sure of everything
    records.logits[:unsure, 0] = 0.0
    caption = captions.accuracy_by_uncertainty(analyze(records, SPEEDS))
    assert f"The first student classifier {words} uncertainty 0.1 and is right on 100\u00a0% of them" in caption


def test_heads_that_only_cost_are_no_saving():
    records = make_records(400)
    records.logits[:, :-1] = 0.0  # nobody leaves early
    analysis = analyze(records, SPEEDS)
    summary, point = captions.summary(analysis), analysis.tradeoff.speeds[2]
    assert point.value == 0.5 and point.flops_speedup < 1
    assert f"{1 / point.flops_speedup:.2f} times the FLOPs" in summary and "fewer" not in summary


def test_static_models_are_compared_at_equal_flops():
    analysis = analyze(make_records(400, seed=3), SPEEDS)
    depths = sorted((point.flops_speedup, point.accuracy) for point in analysis.tradeoff.depths)
    point = analysis.tradeoff.speeds[2]
    (x0, y0), (x1, y1) = next(
        pair for pair in itertools.pairwise(depths) if pair[0][0] <= point.flops_speedup <= pair[1][0]
    )
    difference = point.accuracy - (y0 + (y1 - y0) * (point.flops_speedup - x0) / (x1 - x0))
    words = f"{100 * abs(difference):.1f} points {'above' if difference >= 0 else 'below'} at Speed 0.5"
    assert words in captions.flops(analysis)
