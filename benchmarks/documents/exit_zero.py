"""What a student before the first layer is worth, for docs/results.md."""

from __future__ import annotations

from typing import Any

from documents.adopted import NAMES, dates, of_each
from families import in_words
from harness import markdown_table

Result = dict[str, Any]


def exit_zero(results: dict[str, Result]) -> str:
    """Return a paragraph and a table for every family and backbone: a row for each setting, columns for each
    classifier."""
    return of_each(results, _section)


def sentences(results: dict[str, Result]) -> str:
    """Return a sentence for every family and backbone, for README: what the fastest setting that asks layers gains and
    costs."""
    return of_each(results, _sentence)


def _sentence(family: str, result: Result, model: str, tasks: list[Result]) -> str:
    gains = []
    for task in tasks:
        whole, last = task["times"]["rows"][0], task["times"]["rows"][-1]
        gains.append(
            f"{NAMES[task['task']]} {last['over_full_depth']:.2g}x over our own full depth at {last['accuracy']:.1%} "
            f"instead of {whole['accuracy']:.1%} (TF-IDF and logistic regression {task['bag_of_words']:.1%})"
        )
    setting = tasks[0]["times"]["rows"][-1]["setting"].partition(",")[0]
    return (
        f"Adopted {model} classifiers, at {setting}: {'; '.join(gains)}. "
        f"{result['machine']['threads']} cores, {in_words(family, result)}, "
        f"{dates(result, tasks)}: `benchmarks/results/exit_zero_cpu_{family}.json`."
    )


def _section(family: str, result: Result, model: str, tasks: list[Result]) -> str:
    machine = result["machine"]
    rows = []
    for setting in dict.fromkeys(row["setting"] for task in tasks for row in task["times"]["rows"]):
        cells = {"ms per 1,000 texts": setting}
        for task in tasks:
            row = next((row for row in task["times"]["rows"] if row["setting"] == setting), None)
            cells[NAMES[task["task"]]] = "-" if row is None else _cell(row)
        rows.append(cells)
    bags = {NAMES[task["task"]]: f"{task['bag_of_words']:.1%}" for task in tasks}
    rows.append({"ms per 1,000 texts": "TF-IDF and logistic regression", **bags})
    calibrated = ", ".join(f"{NAMES[task['task']]} {_calibrated(task)}" for task in tasks)
    return (
        f"Measured by `benchmarks/exit_zero.py` on {machine['threads']} cores, {in_words(family, result)} "
        f"({dates(result, tasks)}, torch {machine['versions']['torch']}): adopted {model} classifiers with a "
        f"bag before layer 1, float32, batches of {tasks[0]['times']['batch']} padded texts, from token ids on, "
        f"{result['rounds']} interleaved rounds. In brackets: over full depth; accuracy; texts that left at layer 0. "
        "Speeds have about that FLOPs speed-up on other texts.\n\n"
        f"{markdown_table(rows)}\n\n"
        f"Calibrated to at most {tasks[0]['calibrated']['max_disagreement']:.0%} other answers than at full depth: "
        f"{calibrated}. Raw figures: `benchmarks/results/exit_zero_cpu_{family}.json`."
    )


def _cell(row: Result) -> str:
    return (
        f"{row['microseconds_per_text']:,.0f} ({row['over_full_depth']:.3g}x, {row['accuracy']:.1%}, "
        f"{row['left_at_layer_0']:.0%} at layer 0)"
    )


def _calibrated(task: Result) -> str:
    calibrated = task["calibrated"]
    asked = "with" if 0 in calibrated["layers"] and calibrated["exit_counts"][0] else "without"
    return f"{calibrated['flops_speedup']:.3g}x in FLOPs {asked} layer 0"
