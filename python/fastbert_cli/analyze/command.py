"""The command `analyze`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError

REPORT, FIGURES, RESULTS = "report.html", "figures", "analysis.json"  # in the folder that is written


@dataclass(frozen=True)
class Analyze(Command):
    """Analyze what early exits do to a saved FastBERT, as one page with charts.

    \b
    For people: report.html, one file that needs no network, and its charts in
    figures/. For programs: analysis.json, with every number behind them.
    Shown are accuracy by uncertainty, uncertainty by layer, exit layers
    (of all texts and by class),
    accuracy against FLOPs and measured time (with models of the first layers
    only beside it, and with --train a bag of words), what later layers correct
    and spoil, and the easiest and the hardest texts. The first sentence says
    whether early exit pays here.

    \b
    Examples:
      fastbert analyze reviews/model --data test.tsv --train train.tsv
      fastbert analyze reviews/model --data test.tsv --compare plain/model \\
          --out reviews/analysis --no-texts
    """

    extra: ClassVar[str] = "demo"

    model: options.SavedModel
    labelled: options.LabelledTexts
    compare: Annotated[Path | None, Option("Second model, drawn in the same charts of accuracy against speed-up.")] = (
        None
    )
    train: Annotated[
        str | None,
        Option(
            "Labelled texts that the model was trained on, as --data has them: a bag of words learns from them, which "
            "is drawn beside the model."
        ),
    ] = None
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

    def look(self) -> None:
        """Look at the options, the folders and the labelled texts."""
        from fastbert_cli import inputs

        self._check_out()
        read = (self.model, self.compare, self.labelled.data, self.train)
        inputs.check_folder_to_replace("--out", self.out, read)
        inputs.check_backend(self.backend)
        inputs.look_at_labelled(self.model, self.labelled)
        if (training := self.training_texts) is not None:
            inputs.look_at_labelled(self.model, training)
        if self.compare is not None:
            inputs.look_at_model(self.compare)

    @property
    def training_texts(self) -> options.LabelledTexts | None:
        """What a bag of words learns from."""
        if self.train is None:
            return None
        return replace(self.labelled, data=self.train, split=None if self.labelled.split is None else "train")

    def _check_out(self) -> None:
        """Raise `CommandError` unless `out` is new, empty, or holds an earlier analysis and nothing else."""
        out = self.out
        if out.exists() and not out.is_dir():
            raise CommandError(f"--out {out}: a file; name a folder")
        if Path.cwd().is_relative_to(out.resolve()):
            raise CommandError(
                f"--out {out}: the folder is replaced as a whole, and this one is in use; name a new one"
            )
        if out.is_dir():
            others = sorted(path.name for path in out.iterdir() if path.name not in (REPORT, FIGURES, RESULTS))
            if others:
                raise CommandError(
                    f"--out {out}: holds {others[0]}, which is no part of an analysis; name a new folder"
                )

    def run(self) -> None:
        """Write the page."""
        from fastbert_cli.analyze.run import run_analyze

        run_analyze(self)

    def stopped(self) -> str:
        """Return that the folder is as it was."""
        return f"stopped; {self.out} was not written"
