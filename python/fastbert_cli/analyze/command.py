"""The command `analyze`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from fastbert_cli import options
from fastbert_cli.command import Command, Option


@dataclass(frozen=True)
class Analyze(Command):
    """Analyze what early exits do to a saved FastBERT, as one page with charts.

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

    extra: ClassVar[str] = "demo"

    model: options.SavedModel
    labelled: options.LabelledTexts
    compare: Annotated[Path | None, Option("Second model, drawn in the same charts of accuracy against speed-up.")] = (
        None
    )
    out: Annotated[Path, Option("Folder for the page, the charts and the figures; replaced as a whole.")] = Path(
        "analysis-out"
    )
    speed: Annotated[tuple[float, ...], Option("Speed to look at; may be repeated.", min=0, max=1)] = options.SPEEDS
    max_length: options.CutOff = None
    batch_size: options.BatchSize = 32
    timed: Annotated[bool, Option("Measure times too.", "--time/--no-time")] = True
    timed_texts: Annotated[int, Option("Texts to measure times on, spread evenly over the data.", min=1)] = 640
    texts: Annotated[
        bool, Option("Show the easiest and the hardest texts; they may be private.", "--texts/--no-texts")
    ] = True
    backend: options.Backend = "auto"

    def run(self) -> None:
        """Write the page."""
        from fastbert_cli.analyze.run import run_analyze

        run_analyze(self)

    def stopped(self) -> str:
        """Return that the folder is as it was."""
        return f"stopped; {self.out} was not written"
