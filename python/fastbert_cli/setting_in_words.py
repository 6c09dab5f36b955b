"""Exit rules and calibrated settings in words, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fastbert_hf.exits.calibrated_setting import CalibratedSetting, Objective
from fastbert_hf.exits.criteria import CRITERIA
from fastbert_hf.exits.rule import ExitRule


def describe_rule(rule: ExitRule, student_layers: Sequence[int]) -> str:
    """Say when a text leaves, in a sentence without an end."""
    if not rule.layers:
        return "full depth: no student classifier is asked"
    criterion = CRITERIA[rule.criterion]
    what = criterion.in_words(rule.parameter)
    if not criterion.compares_speed:
        when = f"a text leaves after {what} ({_layers(rule.layers)})"
    else:
        if len(set(rule.speeds)) == 1:
            speeds = f"Speed {rule.speeds[0]:.4g} ({_layers(rule.layers)})"
        else:
            pairs = zip(rule.layers, rule.speeds, strict=True)
            speeds = "Speed " + ", ".join(f"{speed:.4g} after layer {layer}" for layer, speed in pairs)
        when = f"a text leaves when the {what} is below {speeds}"
    left_out = [layer for layer in student_layers if layer not in rule.layers]
    return when + (f"; not asked: {_layers(left_out)}" if left_out else "")


def describe_criterion(rule: ExitRule) -> str:
    """The criterion and its parameter, as an option takes them."""
    name = f"{rule.criterion} {rule.parameter}" if rule.parameter else rule.criterion
    return f"{name}, Speed {rule.speeds[0]:.3g}" if rule.speeds else name


def describe_objective(objective: Objective) -> str:
    """Say what was asked for."""
    if objective.max_drop is not None:
        allowed = f"{100 * objective.max_drop:.4g}"
        return f"lose at most {allowed} {'point' if allowed == '1' else 'points'} of accuracy"
    if objective.max_f1_drop is not None:
        allowed = f"{100 * objective.max_f1_drop:.4g}"
        return f"lose at most {allowed} {'point' if allowed == '1' else 'points'} of F1 in any class"
    if objective.max_disagreement is not None:
        share = f"at most {100 * objective.max_disagreement:.4g} % of"
        if objective.max_score_change is not None:
            return f"{share} scores more than {objective.max_score_change:g} from full depth's"
        return f"{share} answers other than at full depth"
    same = f", most scores within {objective.max_score_change:g}" if objective.max_score_change is not None else ""
    if objective.min_speedup is not None:
        return f"a FLOPs speed-up of {objective.min_speedup:.4g}x or more{same}"
    return f"at most {objective.max_latency_ms:.4g} ms per text{same}"


def describe_measured(setting: CalibratedSetting) -> str:
    """Say what was measured of what was asked for."""
    figures, latency = setting.figures, setting.latency
    if latency is not None:
        return f"{latency.ms_per_text:.3g} ms per text, full depth {latency.full_depth_ms_per_text:.3g} ms"
    if setting.objective.max_disagreement is not None and figures.disagreement is not None:
        return f"{100 * figures.disagreement:.2f} %"
    if setting.objective.max_drop is not None and figures.drop is not None:
        change = 100 * figures.drop
        return f"{change:.2f} points lost" if change >= 0 else f"{-change:.2f} points gained"
    if setting.objective.max_f1_drop is not None and figures.macro_f1 is not None:
        assert figures.full_depth_macro_f1 is not None
        change = 100 * (figures.full_depth_macro_f1 - figures.macro_f1)
        return f"{abs(change):.2f} points of macro F1 {'lost' if change >= 0 else 'gained'}"
    return f"{figures.flops_speedup:.2f}x"


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
