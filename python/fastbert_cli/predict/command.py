"""The command `predict`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbert_cli import options
from fastbert_cli.errors import reported
from fastbert_cli.options import Dtype


def predict(
    model: options.SavedModel,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Texts: .txt (one per line), .tsv or .csv (with a header), .jsonl (one object per line) or .parquet.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .tsv or .jsonl. Default: a table on standard output.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="A text leaves at the first layer whose uncertainty is below it. Default: the setting of fastbert "
            "calibrate, or full depth where the model has none.",
        ),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Instead, the FLOPs speed-up wanted of a calibrated model, as 4.")
    ] = None,
    full_depth: Annotated[bool, typer.Option("--full-depth", help="Nobody leaves early.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per batch with padding. Default: 4096 on a CPU, 16384 on a GPU.")
    ] = None,
    max_length: options.CutOff = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column (or JSON key) of the text. Default: text, or text_a and text_b.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column of the second text, for a model of text pairs.")
    ] = None,
    backend: options.Backend = "auto",
    dtype: options.DtypeOption = Dtype.auto,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="Progress bar. Default: if stderr is a terminal.")
    ] = None,
) -> None:
    """Classify the texts of a file with a saved FastBERT, on the fast kernels.

    \b
    Writes one row per text, in the order of the file: label, its probability,
    the uncertainty at which the text left, and the exit layer. A multi-label
    model writes all labels of a text, and their probabilities, with | between.

    \b
    Few texts are in memory at a time, so the file may be of any size. With
    --out the result takes its name when it is complete: a run that is stopped
    leaves no half of a file.

    \b
    Speed trades accuracy for time: 0.1 is careful, 0.5 is fast, and what
    either costs depends on the texts. fastbert calibrate measures it on yours
    and sets what is used here without --speed; --speedup goes by it too. The
    last line on stderr says what was used.

    \b
    Examples:
      fastbert predict demo-out/model reviews.txt --speed 0.5
      fastbert predict demo-out/model reviews.csv --text-column body --out x.tsv
      fastbert predict demo-out/model nli.jsonl --text-column premise \\
          --pair-column hypothesis --speed 0.3 --dtype bf16 --out labels.jsonl
    """
    with reported("predict", lambda: "stopped" + ("" if out is None else f"; {out} was not written")):
        from fastbert_cli.predict.run import PredictSettings, run_predict

        settings = PredictSettings(
            model=model,
            file=file,
            out=out,
            speed=speed,
            speedup=speedup,
            full_depth=full_depth,
            max_tokens=max_tokens,
            max_length=max_length,
            text_column=text_column,
            pair_column=pair_column,
            backend=backend,
            dtype=dtype.value,
            progress=progress,
        )
        run_predict(settings)
