"""The command `predict`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from fastbert_cli import options
from fastbert_cli.command import Command, Option


@dataclass(frozen=True)
class Predict(Command):
    """Classify the texts of files with a saved FastBERT, on the fast kernels.

    \b
    FILE is one or several files, folders of files, or - for standard input.
    Writes one row per text, in their order: the columns to keep, label, its
    probability, the uncertainty at which the text left, and the exit layer. A
    multi-label model writes all labels of a text, and their probabilities,
    with | between; a model with one output the score alone, and as uncertainty
    its change since the exit head before. Of several files, the first column
    has the name.

    \b
    Few texts are in memory at a time, so files may be of any size. They are
    looked at first, and what cannot be used is told in one report; standard
    input is read as it comes. With --out the result takes its name when it is
    complete: a run that is stopped leaves no half of a file.

    \b
    Speed trades accuracy for time: 0.1 is careful, 0.5 is fast, and what
    either costs depends on the texts. fastbert calibrate measures it on yours
    and sets what is used here without --speed; --speedup goes by it too. The
    last line on stderr says what was used.

    \b
    --audit 0.01 runs 1 % of the texts, drawn at random, to full depth as well,
    says on stderr how many answers differ there, and warns when the promise
    of the calibration is broken or the texts are not like those it was made
    with. The answers are the same with it and without.

    \b
    Examples:
      fastbert predict demo-out/model reviews.txt --speed 0.5
      fastbert predict demo-out/model reviews.csv --text-column body --out x.tsv
      fastbert predict demo-out/model january/ february.tsv --keep id --out y.csv
      zcat log.jsonl.gz | fastbert predict demo-out/model - --input-format jsonl
      fastbert predict demo-out/model nli.jsonl --text-column premise \\
          --pair-column hypothesis --speed 0.3 --dtype bf16 --out labels.jsonl
    """

    model: options.SavedModel
    files: Annotated[
        tuple[Path, ...],
        Option(
            "Texts: .txt (one per line), .tsv or .csv (with a header), .jsonl (one object per line), .parquet, a "
            "folder of such files, or - for standard input.",
            metavar="FILE...",
        ),
    ]
    input_format: Annotated[
        Literal["txt", "tsv", "csv", "jsonl"] | None,
        Option("Of standard input, as the ending of a file. Default: txt."),
    ] = None
    keep: Annotated[
        tuple[str, ...],
        Option(
            "Column (or JSON key) to copy into the output, as id; may be repeated. Where it has the name of one of "
            "ours, it is called input_ and that name."
        ),
    ] = ()
    out: Annotated[
        Path | None,
        Option("File to write, .tsv, .csv, .jsonl or .parquet. Default: a table on standard output."),
    ] = None
    probabilities: Annotated[
        bool, Option("Also the probability of every class: a column each, or an object by name in JSON lines.")
    ] = False
    safe_tables: Annotated[
        bool | None,
        Option(
            "Put ' before labels that a spreadsheet would run as a formula (=, +, -, @). Default: in .csv.",
            "--safe-tables/--raw-tables",
        ),
    ] = None
    speed: Annotated[
        float | None,
        Option(
            "A text leaves at the first layer whose uncertainty is below it: from 0 to 1, or a change of the score. "
            "Default: the setting of fastbert calibrate, or full depth where the model has none.",
            min=0,
        ),
    ] = None
    speedup: Annotated[float | None, Option("Instead, the FLOPs speed-up wanted of a calibrated model, as 4.")] = None
    full_depth: Annotated[bool, Option("Nobody leaves early.")] = False
    audit: Annotated[
        float | None, Option("Share of texts to run to full depth as well, as 0.01, to watch the promise.")
    ] = None
    audit_seed: Annotated[int | None, Option("Of the draw of --audit. Default: another draw in each run.", min=0)] = (
        None
    )
    max_tokens: Annotated[int | None, Option("Tokens per batch. Default: 4096 on a CPU, 16384 on a GPU.", min=1)] = None
    max_length: options.CutOff = None
    stride: options.Passages = "trained"
    text_column: Annotated[
        str | None, Option("Column (or JSON key) of the text. Default: text, or text_a and text_b.")
    ] = None
    pair_column: Annotated[str | None, Option("Column of the second text, for a model of text pairs.")] = None
    patching: options.Patching = field(default_factory=options.Patching)
    on_empty: Annotated[
        Literal["refuse", "mark", "skip"],
        Option(
            "What becomes of an empty text, or a blank line but for those at the end: the run is refused, its row in "
            "the output has no values, or it has no row."
        ),
    ] = "refuse"
    progress: Annotated[
        bool | None, Option("Progress bar. Default: if stderr is a terminal.", "--progress/--no-progress")
    ] = None

    @property
    def output_form(self) -> str | None:
        """The ending of the file to write."""
        return None if self.out is None else self.out.suffix.lower()

    def look(self) -> None:
        """Look at the options, the file and the model's folder."""
        from fastbert_cli.predict.inputs import look

        look(self)

    def run(self) -> None:
        """Write the answers."""
        from fastbert_cli.predict.run import run_predict

        run_predict(self)

    def stopped(self) -> str:
        """Return that no half of a file is left."""
        return "stopped" + ("" if self.out is None else f"; {self.out} was not written")
