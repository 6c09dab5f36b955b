"""The command `evaluate`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbert_cli import options
from fastbert_cli.errors import reported
from fastbert_cli.options import Dtype


def evaluate(
    model: options.SavedModel,
    data: options.LabelledData,
    split: options.TestSplit = None,
    subset: options.Subset = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    speed: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="Speed to score at, beside full depth and the calibrated setting, if there is one; may be repeated. "
            "Default: 0.1, 0.3, 0.5, 0.8.",
        ),
    ] = None,
    speedup: Annotated[
        list[float] | None,
        typer.Option(help="FLOPs speed-up to score at, of a calibrated model; may be repeated."),
    ] = None,
    max_length: options.CutOff = None,
    batch_size: options.BatchSize = 32,
    timed: Annotated[
        bool, typer.Option("--time", help="Measure times too: all texts, three interleaved rounds, medians.")
    ] = False,
    backend: options.Backend = "auto",
    dtype: options.DtypeOption = Dtype.auto,
    as_json: options.AsJson = False,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON into, too.")] = None,
) -> None:
    """Score a saved FastBERT on labelled texts: full depth, its calibrated setting, and several Speeds.

    \b
    Prints for each: accuracy, macro F1, mean exit layer and FLOPs speed-up;
    with --time also the time per text, the speed-up over full depth on the
    clock, and realisation, which is that over the FLOPs speed-up. Writes
    nothing unless --out is given.

    \b
    Examples:
      fastbert evaluate reviews/model --data test.tsv
      fastbert evaluate reviews/model --data test.tsv --speed 0.2 --time
      fastbert evaluate reviews/model --data test.tsv --speedup 2 --speedup 4
      fastbert evaluate reviews/model --data glue --subset sst2 \\
          --split validation --dtype bf16 --json
    """
    with reported("evaluate", lambda: "stopped; nothing was written"):
        from fastbert_cli.evaluate.run import EvaluateSettings, run_evaluate
        from fastbert_cli.scores import SPEEDS

        settings = EvaluateSettings(
            model=model,
            data=data,
            split=split,
            subset=subset,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            speeds=tuple(sorted(set(speed or (() if speedup else SPEEDS)))),
            speedups=tuple(sorted(set(speedup or ()))),
            max_length=max_length,
            batch_size=batch_size,
            timed=timed,
            backend=backend,
            dtype=dtype.value,
            as_json=as_json,
            out=out,
        )
        run_evaluate(settings)
