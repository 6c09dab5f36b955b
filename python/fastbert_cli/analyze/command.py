"""The command `analyze`: its options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbert_cli import options
from fastbert_cli.errors import reported


def analyze(
    model: options.SavedModel,
    data: options.LabelledData,
    split: options.TestSplit = None,
    subset: options.Subset = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    compare: Annotated[
        Path | None, typer.Option(help="Second model, drawn in the same charts of accuracy against speed-up.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the page, the charts and the figures; replaced as a whole.")
    ] = Path("analysis-out"),
    speed: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Speed to look at; may be repeated. Default: 0.1, 0.3, 0.5, 0.8."),
    ] = None,
    max_length: options.CutOff = None,
    batch_size: options.BatchSize = 32,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Measure times too.")] = True,
    timed_texts: Annotated[
        int, typer.Option(min=1, help="Texts to measure times on, spread evenly over the data.")
    ] = 640,
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Show the easiest and the hardest texts; they may be private.")
    ] = True,
    backend: options.Backend = "auto",
) -> None:
    """Analyse what early exits do to a saved FastBERT, as one page with charts.

    \b
    For people: report.html, one file that needs no network, and its charts in
    figures/. For programs: analysis.json, with every number behind them.
    Shown are accuracy by uncertainty, uncertainty by layer, exit layers,
    accuracy against FLOPs and measured time (with models of the first layers
    only beside it), what later layers correct and spoil, and the easiest and
    the hardest texts.

    \b
    Examples:
      fastbert analyze reviews/model --data test.tsv
      fastbert analyze reviews/model --data test.tsv --compare plain/model \\
          --out reviews/analysis --no-texts
    """
    with reported("analyze", lambda: f"stopped; {out} was not written", extra="demo"):
        from fastbert_cli.analyze.run import AnalyzeSettings, run_analyze
        from fastbert_cli.scores import SPEEDS

        settings = AnalyzeSettings(
            model=model,
            compare=compare,
            data=data,
            split=split,
            subset=subset,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            speeds=tuple(sorted(set(speed or SPEEDS))),
            max_length=max_length,
            batch_size=batch_size,
            timed=timed,
            timed_texts=timed_texts,
            texts=texts,
            backend=backend,
            out=out,
        )
        run_analyze(settings)
