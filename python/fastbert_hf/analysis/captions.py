"""What each chart says on this data, in words: how to read it, and what it shows."""

from __future__ import annotations

import numpy as np

from fastbert_hf.analysis.analyzing import Analysis
from fastbert_hf.analysis.equal_uncertainty import Difference
from fastbert_hf.analysis.tradeoff import FASTEST_SHOWN, Point
from fastbert_hf.analysis.uncertainty import ENOUGH_TEXTS, HeadAccuracy, UncertaintyInterval


def percent(share: float, digits: int = 0) -> str:
    """A share with the blank that no line is broken at."""
    return f"{100 * share:.{digits}f}\u00a0%"


def points(difference: float) -> str:
    """The size of a difference of accuracies."""
    return f"{100 * abs(difference):.1f} points"


def texts(number: int) -> str:
    """A number of texts."""
    return f"{number:,} text{'' if number == 1 else 's'}"


def summary(analysis: Analysis) -> str:
    """The result in a sentence or two, at the calibrated setting, or else at the middle Speed."""
    full, point = analysis.tradeoff.full_depth, analysis.leading
    speedup = point.flops_speedup
    faster = f"{speedup:.2f} times fewer FLOPs" if speedup >= 1 else f"{1 / speedup:.2f} times the FLOPs"
    if point.wall_clock is not None:
        faster += f" and a measured speed-up of {point.wall_clock.speedup:.2f}"
    return (
        f"At full depth the model is right on {percent(full.accuracy, 1)} of {texts(analysis.samples)}. "
        f"{_where_it_leads(point)} a text runs through {point.mean_exit_layer:.2f} of {analysis.num_layers} layers on "
        f"average: {faster}, with an accuracy of {percent(point.accuracy, 1)}, "
        f"{_compared(point.accuracy - full.accuracy)}, and a macro F1 of {point.macro_f1:.3f} "
        f"({full.macro_f1:.3f} at full depth)."
    )


def accuracy_by_uncertainty(analysis: Analysis) -> str:
    """Describe the chart of LUHA."""
    sentences = [
        "Above: accuracy of the texts whose uncertainty lies in each tenth of the range, all texts through all layers, "
        f"with {percent(analysis.confidence)} intervals (hollow: fewer than {ENOUGH_TEXTS} texts); below: how many "
        "texts these are."
    ]
    heads = analysis.accuracy_by_uncertainty
    sentences += [_from_sure_to_unsure(head, "first student classifier") for head in heads[:1] if head.with_at_least(1)]
    sentences += [_from_sure_to_unsure(head, "teacher classifier") for head in heads[-1:] if head.with_at_least(1)]
    holds = [head for head in heads if _falls(head)]
    if len(holds) == len(heads):
        sentences.append(
            "In all of these heads the surest texts are right more often than others; the intervals do not overlap."
        )
    elif holds:
        layers = " and ".join(f"layer {head.layer}" for head in holds)
        sentences.append(
            f"Only in {layers} are the surest texts right more often than others without overlap of the intervals."
        )
    else:
        sentences.append(
            "In none of these heads are the surest texts right more often without overlap of the intervals."
        )
    sentences += _at_equal_uncertainty(analysis)
    unknown = sum(head.unknown for head in heads)
    if unknown:
        sentences.append(f"{unknown:,} uncertainties are not finite and are left out.")
    return " ".join(sentences)


def uncertainty(analysis: Analysis) -> str:
    """Describe the distributions of uncertainty."""
    fastest = analysis.uncertainty[-1]
    slowest = analysis.uncertainty[0]
    medians = [layer.quartiles[1] for layer in slowest.layers if layer.quartiles]
    shown = (
        "Each shape is the distribution of the uncertainty of the texts that reach a layer, wide where many lie; the "
        "diamond is the median, the bar the middle half, the dashed line the Speed below which a text leaves. "
    )
    if medians:
        first, last = slowest.layers[0], slowest.layers[-1]
        shown += (
            f"With nobody leaving, the median goes from {medians[0]:.2f} in layer {first.layer} to {medians[-1]:.2f} "
            f"in layer {last.layer}. "
        )
    shown += _steps(analysis)
    second = fastest.layers[1]
    shown += (
        f"At Speed {fastest.speed:g}, {texts(second.arriving)} of {analysis.samples:,} "
        f"({percent(second.arriving / analysis.samples)}) go on to layer {second.layer}"
    )
    if second.quartiles is not None:
        shown += f", and the median of their uncertainty there is {second.quartiles[1]:.2f}"
    return shown + "."


def exits(analysis: Analysis) -> str:
    """Describe the distributions of exit layers."""
    slow, fast = analysis.exits[0], analysis.exits[-1]
    behind = _behind(slow.layers[0])
    first = ", ".join(f"{percent(one.samples[0] / analysis.samples)} at Speed {one.speed:g}" for one in analysis.exits)
    return (
        f"Bars: share of the texts that leave behind each layer, in percent. {behind[0].upper()}{behind[1:]} leave "
        f"{first}; {percent(slow.samples[-1] / analysis.samples)} still run through all layers at Speed {slow.speed:g} "
        f"and {percent(fast.samples[-1] / analysis.samples)} at Speed {fast.speed:g}."
    )


def flops(analysis: Analysis) -> str:
    """Describe the chart of accuracy against FLOPs."""
    return (
        "Further right is less work, further up is better; the axis of speed-up is logarithmic, that of accuracy does "
        "not begin at 0. "
        + _beyond([(point.flops_speedup, point) for point in analysis.tradeoff.speeds])
        + _against_static(analysis, "FLOPs", [(p.flops_speedup, p) for p in analysis.tradeoff.depths])
        + _calibrated(analysis)
        + _against_other(analysis)
    )


def wall_clock(analysis: Analysis) -> str:
    """Describe the chart of accuracy against measured speed-up."""
    depths = [(p.wall_clock.speedup, p) for p in analysis.tradeoff.depths if p.wall_clock is not None]
    timed = [(p.wall_clock.speedup, p) for p in analysis.tradeoff.speeds if p.wall_clock is not None]
    kept = [f"{percent(speedup / point.flops_speedup)} at Speed {point.value:g}" for speedup, point in timed]
    return (
        "The same against time measured on this machine, over the analyzed model at full depth. "
        f"Of the FLOPs speed-up the clock shows {', '.join(kept)}. "
        + _beyond(timed)
        + _against_static(analysis, "time", depths)
    )


def changes(analysis: Analysis) -> str:
    """Describe the chart of corrected and spoilt predictions."""
    first = analysis.changes_by_layer[0]
    point = _middle(analysis)
    total = next(one.total for one in analysis.changes_at_speed if one.speed == point.value)
    lost, gained = total.wrong_then_right, total.right_then_wrong
    return (
        "Upwards: texts that are wrong at the exit and right at the last layer, what an early exit costs; downwards: "
        "texts that the later layers spoil, what it gains; in percent of all texts. If every text left "
        f"{_behind(first.layer)}, {percent(first.changes.wrong_then_right / analysis.samples, 1)} would be lost and "
        f"{percent(first.changes.right_then_wrong / analysis.samples, 1)} gained; of what leaves at Speed "
        f"{point.value:g}, {texts(lost)} {'is' if lost == 1 else 'are'} lost and {texts(gained)} gained."
    )


def by_class(analysis: Analysis, shown: int) -> str:
    """Describe the scores of every class, of which so many are shown."""
    scores = analysis.by_class.at_exits
    words = f"{_where_it_leads(analysis.leading)}: scores of every class, and their F1 at full depth."
    if shown < len(scores):
        words = f"{_where_it_leads(analysis.leading)}: the {shown} of {len(scores)} classes with the lowest F1."
    pairs = zip(analysis.by_class.full_depth, scores, strict=True)
    falls = [(whole.f1 - score.f1, score) for whole, score in pairs if whole.f1 is not None and score.f1 is not None]
    most, worst = max(falls, key=lambda fall: fall[0])
    if most < 0.0005:
        return f"{words} No class has a lower F1 than at full depth."
    return f"{words} The F1 of {worst.name} falls the most, by {most:.3f}."


def exits_by_class(analysis: Analysis) -> str:
    """Describe behind which layers the texts of each class leave."""
    words = (
        f"{_where_it_leads(analysis.leading)}: rows are the classes that texts have; a cell is darker the larger its "
        "part of the row."
    )
    means = sorted(
        (score.mean_exit_layer, score.name) for score in analysis.by_class.at_exits if score.mean_exit_layer is not None
    )
    (first, earliest), (last, latest) = means[0], means[-1]
    if last - first < 0.05:
        return f"{words} All classes leave alike, behind layer {first:.1f} on average."
    return (
        f"{words} Texts of {earliest} leave first, behind layer {first:.1f} on average, those of {latest} last, behind "
        f"layer {last:.1f}."
    )


def confusion(analysis: Analysis) -> str:
    """Describe the confusion matrix."""
    matrix = np.asarray(analysis.by_class.confusion)
    wrong = matrix - np.diag(np.diag(matrix))
    words = (
        "Rows are the classes that texts have, columns those that they are taken for; a cell is darker the larger its "
        "part of the row. "
    )
    if not wrong.any():
        return f"{words}No text is taken for another class."
    row, column = (int(place) for place in np.unravel_index(wrong.argmax(), wrong.shape))
    names = [score.name for score in analysis.by_class.at_exits]
    return f"{words}Most often {names[row]} is taken for {names[column]} ({texts(int(wrong[row, column]))})."


def examples(analysis: Analysis) -> str:
    """Describe the two tables of texts."""
    wrong = [sum(one.label != one.prediction for one in group) for group in (analysis.easiest, analysis.hardest)]
    return (
        f"{_where_it_leads(analysis.leading)}: texts that leave first, the surest first, and those that leave last, "
        f"the least sure first. {wrong[0]} of the {len(analysis.easiest)} easiest and {wrong[1]} of the "
        f"{len(analysis.hardest)} hardest are answered wrong."
    )


def _behind(layer: int) -> str:
    return "before layer 1" if layer == 0 else f"behind layer {layer}"


def _middle(analysis: Analysis) -> Point:
    return next(point for point in analysis.tradeoff.speeds if point.value == analysis.middle_speed)


def _where_it_leads(point: Point) -> str:
    return "With the calibrated setting" if point.kind == "calibrated" else f"At Speed {point.value:g}"


def _compared(difference: float) -> str:
    if abs(difference) < 0.0005:
        return "the same as at full depth"
    return f"{points(difference)} {'more' if difference > 0 else 'less'} than at full depth"


def _from_sure_to_unsure(head: HeadAccuracy, name: str) -> str:
    filled = head.with_at_least(ENOUGH_TEXTS) or head.with_at_least(1)
    sure, unsure = filled[0], filled[-1]
    if sure is unsure:
        all_texts = head.unknown + sum(interval.samples for interval in head.intervals)
        share = "all" if sure.samples == all_texts else f"{sure.samples:,} of {all_texts:,}"
        return f"The {name} has {share} texts {_where(sure)} and is right on {percent(sure.accuracy or 0)} of them."
    return (
        f"The {name} (layer {head.layer}) is right on {percent(sure.accuracy or 0)} of the {texts(sure.samples)} "
        f"{_where(sure)} and on {percent(unsure.accuracy or 0)} of the {unsure.samples:,} {_where(unsure)}."
    )


def _at_equal_uncertainty(analysis: Analysis) -> list[str]:
    """Return a sentence on the first student against the teacher where both are equally unsure, if they ever are."""
    first = analysis.equal_uncertainty[0]
    if first.as_is.value is None:
        return []
    words = f"Where both are equally unsure, the first student's accuracy is {_signed(first.as_is)} above the teacher's"
    if first.scaled.value is not None:
        words += (
            f", and {_signed(first.scaled)} with the temperatures that make their probabilities right "
            f"({first.temperatures[0]:.2f} and {first.temperatures[1]:.2f})"
        )
    return [f"{words}."]


def _signed(difference: Difference) -> str:
    assert difference.value is not None and difference.interval is not None
    low, high = (100 * bound for bound in difference.interval)
    return f"{100 * difference.value:+.1f} points (95\u00a0% interval {low:+.1f} to {high:+.1f})"


def _steps(analysis: Analysis) -> str:
    """Return a sentence on how the uncertainty of the same texts moves, over the first step and the last."""
    steps = dict.fromkeys((analysis.uncertainty_steps[0], analysis.uncertainty_steps[-1]))
    words = []
    for step in steps:
        if step.falls is not None:
            order = "" if step.rank_correlation is None else f" (rank correlation {step.rank_correlation:.2f})"
            words.append(f"from layer {step.from_layer} to {step.to_layer} for {percent(step.falls)} of them{order}")
    return f"Of the same texts, uncertainty falls {' and '.join(words)}. " if words else ""


def _where(interval: UncertaintyInterval) -> str:
    if interval.low == 0:
        return f"below uncertainty {interval.high:g}"
    if interval.high == 1:
        return f"from uncertainty {interval.low:g} up"
    return f"between uncertainty {interval.low:g} and {interval.high:g}"


def _falls(head: HeadAccuracy) -> bool:
    """Return whether some unsure interval is certainly less accurate than the surest one, and none certainly more."""
    bands = [interval.band for interval in head.intervals if interval.band is not None]
    if not bands:
        return False
    first, *others = bands
    return any(band[1] < first[0] for band in others) and not any(band[0] > first[1] for band in others)


def _beyond(marked: list[tuple[float, Point]]) -> str:
    """Return a sentence on the marked Speeds that are too fast for the chart; "" where all are in it."""
    words = [
        f"Speed {point.value:g} ({percent(point.accuracy, 1)} at {speedup:,.0f}x)"
        for speedup, point in marked
        if speedup > FASTEST_SHOWN
    ]
    return f"Beyond the right edge lies {', '.join(words)}. " if words else ""


def _against_static(analysis: Analysis, what: str, depths: list[tuple[float, Point]]) -> str:
    """Say how the Speeds compare with static models at the same speed-up, between which is interpolated linearly."""
    depths = sorted(depths, key=lambda pair: pair[0])
    if len(depths) < 2:
        return ""
    x, y = [speedup for speedup, _ in depths], [point.accuracy for _, point in depths]
    ahead = []
    for point in analysis.tradeoff.speeds:
        measured = point.wall_clock.speedup if point.wall_clock is not None else None
        speedup = point.flops_speedup if what == "FLOPs" else measured
        if speedup is not None and x[0] <= speedup <= x[-1]:
            ahead.append((point, point.accuracy - float(np.interp(speedup, x, y))))
    if not ahead:
        return f"No marked Speed lies where static models do in {what}. "
    words = [
        f"{points(difference)} {'above' if difference >= 0 else 'below'} at Speed {point.value:g}"
        for point, difference in ahead
    ]
    return f"Against models that only have the first layers, at equal {what}, early exits lie {', '.join(words)}. "


def _calibrated(analysis: Analysis) -> str:
    point = analysis.tradeoff.calibrated
    if point is None:
        return ""
    return (
        f"The calibrated setting saved beside the model (star) has {percent(point.accuracy, 1)} at "
        f"{point.flops_speedup:.2f}x. "
    )


def _against_other(analysis: Analysis) -> str:
    if analysis.compared is None:
        return ""
    speed = analysis.middle_speed
    other = next(point for point in analysis.compared.speeds if point.value == speed)
    return (
        f"At Speed {speed:g} the compared model has {percent(other.accuracy, 1)} at {other.flops_speedup:.2f}x, the "
        f"analyzed one {percent(_middle(analysis).accuracy, 1)} at {_middle(analysis).flops_speedup:.2f}x."
    )
