"""What docs/training.md says in figures: the walk with defaults alone, the rule for epochs and rates, the pace."""

from __future__ import annotations

import statistics
from typing import Any

from documents.rates import Results
from families import in_words
from harness import markdown_table

Result = dict[str, Any]


def walked(result: Result | None) -> str:
    """Return what the walk ended with; a sentence where nobody has walked it."""
    if result is None:
        return "No result of it is here yet."
    return f"{_setup(result)} Raw figures: `benchmarks/results/walk_cpu.json`.\n\n{_rows(result)}"


def walk_page(result: Result) -> str:
    """Return the page beside the result file."""
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["walk"]["seconds"].items())
    return "\n\n".join(
        [
            "# From files to served answers, with defaults alone",
            f"{_setup(result)} By `python benchmarks/walk.py`.",
            _rows(result),
            f"Time beside other work: {times}. The server answers as `predict` does: "
            f"{'yes' if result['walk']['served_as_predicted'] else 'NO'}.",
        ]
    )


def _setup(result: Result) -> str:
    bag, training = result["bag_of_words"], result["walk"]["training"]
    step, objective = training["config"]["fine_tune"], result["walk"]["calibration"]["objective"]
    low, high = bag["interval"]
    rounds = len(training["training"]) - 1
    return (
        f"{bag['classes']} classes (modules by their docstrings), {bag['train']:,} texts to train, {bag['test']:,} to "
        f"test. `train` chose {step['epochs']:g} epochs at {step['learning_rate']:g}, {rounds} "
        f"{'round' if rounds == 1 else 'rounds'} of them. `calibrate --max-drop {objective['max_drop']:g}`. Bag of "
        f"words: 95 % interval {100 * low:.1f} to {high:.1%}."
    )


def _rows(result: Result) -> str:
    lines = [
        {
            "setting": row["setting"],
            "accuracy": f"{row['accuracy']:.1%}",
            "macro F1": f"{row['macro_f1']:.3f}",
            "FLOPs speed-up": f"{row['flops_speedup']:.2f}x",
            "ms per text": f"{row['ms_per_text']:.2f}",
        }
        for row in result["walk"]["rows"]
    ]
    bag = {"setting": "bag of words", "accuracy": f"{result['bag_of_words']['accuracy']:.1%}"}
    lines.append(bag | dict.fromkeys(("macro F1", "FLOPs speed-up", "ms per text"), "-"))
    return markdown_table(lines)


def rules(result: Result | None) -> str:
    """Return the rule beside the best of the grid; a sentence where nothing of it has been trained."""
    if result is None:
        return (
            "The numbers are a start and not yet measured against others: `python benchmarks/training_rules.py` trains "
            "a grid of both on sets of 2 to 96 classes and 500 to 20,000 texts, as far as time allows, and sets the "
            "rule beside the best of it."
        )
    from training_rules import rows  # here, since it takes seconds

    return (
        "`python benchmarks/training_rules.py` trains a grid of both, as far as time allows, and sets the rule beside "
        "the best of it: accuracy on dev texts after the last step (steps, learning rate), of one seed, so that "
        "differences below two points are chance. Raw figures: `benchmarks/results/training_rules.json`.\n\n"
        f"{rows(result['cells'])}"
    )


def pace(results: Results) -> str:
    """Return what a step of training takes beside other work, a row for each family of processors and place."""
    rows = [
        {"machine": in_words(family, result), "": place}
        | {name: f"{statistics.median(seconds):.2f} s" for name, seconds in policies.items()}
        for family, result in results.items()
        for place, policies in result["seconds"].items()
    ]
    if not rows:
        return "No result of it is here yet."
    return f"A step of 32 texts, by `OMP_WAIT_POLICY` (`python benchmarks/training_pace.py`):\n\n{markdown_table(rows)}"
