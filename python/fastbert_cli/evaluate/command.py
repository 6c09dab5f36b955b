"""The command `evaluate`: its options and help."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError


@dataclass(frozen=True)
class Evaluate(Command):
    """Score a saved FastBERT on labelled texts: full depth, its calibrated setting, and several Speeds.

    \b
    Prints for each: accuracy, macro F1, mean exit layer and FLOPs speed-up;
    with --time also the time per text, the speed-up over full depth on the
    clock, and realisation, which is that over the FLOPs speed-up; with
    --agreement how many answers another --dtype changes; with --by-class
    precision, recall, F1 and exit layers of every class, and which is taken
    for which; with --errors the texts that are answered wrong. Writes nothing
    unless --out or --errors is given.

    \b
    Examples:
      fastbert evaluate reviews/model --data test.tsv
      fastbert evaluate reviews/model --data test.tsv --speed 0.2 --time
      fastbert evaluate reviews/model --data test.tsv --speedup 2 --speedup 4
      fastbert evaluate reviews/model --data glue --subset sst2 \\
          --split validation --dtype bf16 --json
    """

    model: options.SavedModel
    texts: options.LabelledTexts
    speed: Annotated[
        tuple[float, ...],
        Option(
            "Speed to score at, beside full depth and the calibrated setting, if there is one; may be repeated. "
            f"Default: {', '.join(map(str, options.SPEEDS))}.",
            min=0,
            max=1,
        ),
    ] = ()
    speedup: Annotated[
        tuple[float, ...], Option("FLOPs speed-up to score at, of a calibrated model; may be repeated.")
    ] = ()
    max_length: options.CutOff = None
    stride: options.Passages = "trained"
    batch_size: options.BatchSize = 32
    timed: Annotated[bool, Option("Measure times too: all texts, three interleaved rounds, medians.", "--time")] = False
    agreement: Annotated[
        bool,
        Option("Count the labels and exit layers that differ from those of the unpatched model, in its own precision."),
    ] = False
    by_class: Annotated[
        bool,
        Option(
            "Also the scores of every class, beside those at full depth: at the calibrated setting, or else the first "
            "of --speed and --speedup."
        ),
    ] = False
    errors: Annotated[
        Path | None,
        Option("File for the texts that are answered wrong there: .tsv, .csv or .jsonl, the surest errors first."),
    ] = None
    confusion: Annotated[
        Path | None, Option("File for the confusion matrix of --by-class as a picture: .png (extra demo).")
    ] = None
    patching: options.Patching = field(default_factory=options.Patching)
    as_json: options.AsJson = False
    out: Annotated[Path | None, Option("File to write the JSON into, too.")] = None

    @property
    def speeds(self) -> tuple[float, ...]:
        """The Speeds to score at, in order."""
        return tuple(sorted(set(self.speed or (() if self.speedup else options.SPEEDS))))

    def look(self) -> None:
        """Look at the options, the model's folder and the labelled texts."""
        from fastbert_cli import inputs
        from fastbert_hf.data import JSON_LINES
        from fastbert_hf.data.tables import TABLES

        inputs.check_patching(self.patching)
        written = {"--out": self.out, "--errors": self.errors, "--confusion": self.confusion}
        inputs.check_files_to_write(written, (self.texts.data, self.model))
        if self.errors is not None and self.errors.suffix.lower() not in (*TABLES, *JSON_LINES):
            raise CommandError(f"--errors {self.errors}: unknown ending; name it {', '.join((*TABLES, *JSON_LINES))}")
        if self.confusion is not None:
            if self.confusion.suffix.lower() != ".png":
                raise CommandError(f"--confusion {self.confusion}: unknown ending; name it .png")
            if importlib.util.find_spec("matplotlib") is None:
                raise CommandError("--confusion: matplotlib is missing; pip install 'fastbert-kernels[demo]' has it")
        inputs.look_at_labelled(self.model, self.texts)

    def run(self) -> None:
        """Print the scores."""
        from fastbert_cli.evaluate.run import run_evaluate

        run_evaluate(self)
