"""Which options need others, and which take others' place: one table, so that no option does nothing without a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastbert_cli.errors import CommandError

GIVEN = "given"  # in place of values: any


class Pair(NamedTuple):
    """What an option that was given asks of another.

    Attributes:
        option: as typed.
        other: as typed, or the key of a configuration that several options set.
        values: of the other; `GIVEN`: any but its not being given.
        needs: the other must have one of these values; otherwise it must have none of them.
        reason: why the option would do nothing.
    """

    option: str
    other: str
    values: Sequence[Any]
    needs: bool
    reason: str


def _needs(option: str, other: str, *values: Any, reason: str) -> Pair:
    return Pair(option, other, values or GIVEN, True, reason)


def _excludes(option: str, other: str, *values: Any, reason: str) -> Pair:
    return Pair(option, other, values or GIVEN, False, reason)


# Keys that are no options: what several options say together. They are properties of the commands, but for the first.
STEPS = "run.steps"
OUTPUT_FORM = "output_form"  # of `predict`: the ending of its file
READS_LABELS = "reads_labels"  # of `distill` and `adopt`
ALL_TEST = "all_test"  # of `calibrate`: the option because of which no texts are drawn
_FORMS = (".jsonl", ".ndjson", ".parquet")
_DRAWS_NOTHING = ("--one-speed", "--max-f1-drop", "--min-speedup")
# How a value of a key was typed.
_TYPED: Mapping[tuple[str, Any], str] = {
    (STEPS, "fine_tune"): "--no-distil",
    (STEPS, "joint"): "--joint",
    (READS_LABELS, True): "--dev, or for --targets hard or mixed",
    **{(OUTPUT_FORM, ending): f"an --out that ends in {ending}" for ending in _FORMS},
    **{(ALL_TEST, option): option for option in _DRAWS_NOTHING},
}

_COLUMNS = (_needs("--pair-column", "--text-column", reason="one names the first text, the other the second"),)
_DISTILLATION = (
    _needs("--hard-weight", "--targets", "mixed", reason="it is the share of the labels in mixed targets"),
    _excludes("--objective", "--targets", "hard", reason="students then learn from labels, not from the teacher"),
    _excludes("--temperature", "--targets", "hard", reason="students then learn from labels, not from the teacher"),
    _excludes("--cache", "--distil-epochs", 1, reason="the first epoch writes what later ones read"),
    _needs("--cache-limit-gb", "--cache", True, reason="without it nothing is kept"),
    _needs("--cache-dtype", "--cache", True, reason="without it nothing is kept"),
    _needs("--dev-split", "--dev", reason="it is a part of that data set"),
)
_LABELS_OF_DISTILLATION = _needs("--label-column", READS_LABELS, True, reason="students learn from texts alone")
_OF_STEP_2 = (
    *("--unlabelled", "--distil-epochs", "--distil-learning-rate", "--distil-batch-size", "--objective"),
    *("--temperature", "--targets", "--hard-weight", "--exit-zero", "--cache", "--cache-limit-gb", "--cache-dtype"),
)
_RUNNING = (
    _excludes("--dtype", "--backend", "none", reason="only patched models run in another precision"),
    _needs("--bf16-product", "--dtype", "int8", reason="it leaves a product out of int8"),
)
_HOW_TO_LEAVE = (
    _excludes("--speed", "--speedup", reason="each says when texts leave"),
    _excludes("--speed", "--full-depth", True, reason="each says when texts leave"),
    _excludes("--speedup", "--full-depth", True, reason="each says when texts leave"),
)

# By the name of the command.
PAIRS: Mapping[str, Sequence[Pair]] = {
    "train": (
        *_COLUMNS,
        *(_excludes(option, STEPS, "fine_tune", "joint", reason="there is no step 2") for option in _OF_STEP_2),
        *_DISTILLATION,
        _needs("--pooling", "--head", "pooled", reason="the attentive head has no pooling"),
        _needs("--best-by", "--dev", reason="it is a score on these texts"),
        _excludes("--max-epochs", STEPS, "joint", reason="joint training has no rounds"),
        _needs("--max-epochs", "--dev", reason="the score on these texts decides"),
    ),
    "distill": (*_COLUMNS, *_DISTILLATION, _LABELS_OF_DISTILLATION),
    "adopt": (*_COLUMNS, *_DISTILLATION, _LABELS_OF_DISTILLATION),
    "calibrate": (
        *_COLUMNS,
        *_RUNNING,
        _needs("--batch-size", "--latency-ms", reason="which alone measures times"),
        _excludes(
            "--temperature-scaling",
            "--dtype",
            *("auto", "fp32", "bf16", "fp16", "int8", "fp8"),
            reason="it changes the weights after they were recorded; scale first, then calibrate with --dtype on "
            "the texts of another file",
        ),
        _excludes("--temperature-scaling", "--max-disagreement", reason="it fits to labels, which are not read then"),
        _excludes("--temperature-scaling", "--max-score-change", reason="a score has no temperature"),
        _excludes("--label-column", "--max-disagreement", reason="labels are not read then"),
        _excludes("--label-column", "--max-score-change", reason="labels are not read then"),
        _excludes("--max-drop", "--max-score-change", reason="a score has no accuracy to lose"),
        _excludes(
            "--seed", ALL_TEST, *_DRAWS_NOTHING, reason="no texts are drawn to choose, since all of them are used"
        ),
        _excludes("--one-speed", "--criterion", "auto", reason="with one Speed no criteria are compared"),
        _excludes("--max-f1-drop", "--criterion", "auto", reason="it takes one Speed, and no criteria are compared"),
    ),
    "evaluate": (
        *_COLUMNS,
        *_RUNNING,
        _excludes("--agreement", "--backend", "none", reason="it compares a patched model with the unpatched one"),
        _needs("--confusion", "--by-class", True, reason="it is a picture of its table"),
    ),
    "compare": _COLUMNS,
    "analyze": (
        *_COLUMNS,
        _needs("--timed-texts", "--time", True, reason="nothing is timed without"),
        _excludes(
            "--no-time",
            "--backend",
            *("cuda", "triton", "reference", "none"),
            reason="nothing is timed then, and the kernels are there for that",
        ),
    ),
    "predict": (
        *_COLUMNS,
        *_RUNNING,
        *_HOW_TO_LEAVE,
        _excludes("--audit", "--full-depth", True, reason="it compares answers of early exits with full depth's"),
        _needs("--audit-seed", "--audit", reason="it is of the draw of these texts"),
        *(
            _excludes(option, OUTPUT_FORM, *_FORMS, reason="only tables have cells that a spreadsheet would run")
            for option in ("--safe-tables", "--raw-tables")
        ),
    ),
    "serve": (
        *_RUNNING,
        _excludes("--host", "--socket", reason="it listens at one of them"),
        _excludes("--port", "--socket", reason="it listens at one of them"),
        _needs("--fast-setting", "--target-p99-ms", reason="it says from when on texts leave by that setting"),
        _needs("--target-p99-ms", "--fast-setting", reason="without a second setting speed follows no load"),
    ),
    "demo": (
        _needs("--train", "--dev", reason="one file is trained on, the other measured on"),
        _needs("--dev", "--train", reason="one file is trained on, the other measured on"),
    ),
}


def check_pairs(command: str, given: Sequence[str], value_of: Callable[[str], Any]) -> None:
    """Raise `CommandError` for an option that was given and would do nothing beside the others.

    Args:
        command: its name.
        given: options of this call, as typed.
        value_of: returns the value of an option, or of a key, given or not.
    """
    for pair in PAIRS.get(command, ()):
        if pair.option not in given:
            continue
        value = value_of(pair.other)
        there = value not in (None, (), False) if pair.values is GIVEN else value in pair.values
        if there == pair.needs:
            continue
        is_named_alone = pair.values is GIVEN or pair.values[0] is True
        if pair.needs:
            wanted = pair.other if is_named_alone else f"{pair.other} {pair.values[0]}"
            wanted = _TYPED.get((pair.other, pair.values[0]), wanted)
            raise CommandError(f"{pair.option} is for {wanted}: {pair.reason}; give both or neither")
        typed = pair.other if is_named_alone else f"{pair.other} {pair.values[list(pair.values).index(value)]}"
        typed = _TYPED.get((pair.other, value), typed)
        raise CommandError(f"{pair.option} and {typed} do not go together: {pair.reason}; leave one of them out")
