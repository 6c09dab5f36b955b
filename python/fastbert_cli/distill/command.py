"""The command `distill`: its options, which are its configuration too, and its help."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastbert_cli import options, training
from fastbert_cli.command import Command, Given, Option, Place
from fastbert_cli.errors import CommandError
from fastbert_cli.options import DATA
from fastbert_cli.training import MODEL, RUN, STRIDE, DistillStep, Run, TrainingConfig, how_to_go_on

if TYPE_CHECKING:
    from fastbert_cli.inputs import Classes
    from fastbert_cli.models import Loaded


@dataclass(frozen=True)
class DistillData:
    """Where the texts are, and labelled texts to score on."""

    texts: Annotated[
        tuple[str, ...],
        Option(
            "Texts: .txt (one per line), .tsv, .csv, .jsonl or .parquet; may be repeated. Labels are ignored, except "
            "with --targets hard or mixed.",
            panel=DATA,
        ),
    ] = ()
    dev: training.Dev = None
    subset: options.Subset = None
    dev_split: training.DevSplit = None
    text_column: options.TextColumn = None
    pair_column: options.PairColumn = None
    label_column: options.LabelColumn = None


@dataclass(frozen=True)
class ModelToDistill:
    """The folder of a saved FastBERT, which is the command's argument."""

    folder: str | None = None
    max_length: Annotated[
        int | None, Option("Texts are cut off at this many tokens. Default: as in the model's training.", panel=MODEL)
    ] = None
    stride: Annotated[options.Stride, replace(STRIDE, help=f"{STRIDE.help} Default: as in the model's training.")] = (
        "trained"
    )


@dataclass(frozen=True)
class DistillConfig(TrainingConfig):
    """The sections of the configuration."""

    data: DistillData = field(default_factory=DistillData)
    model: ModelToDistill = field(default_factory=ModelToDistill)
    distil: DistillStep = field(default_factory=DistillStep)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class Distill(Command):
    """Distill the student classifiers of a saved FastBERT again; texts without labels are enough.

    \b
    Backbone and teacher classifier stay as they are, so the answers at full
    depth do too; the students learn to give the same answers earlier.

    \b
    Writes into --out: model/, results.json (scores on --dev, if given),
    config.yaml (repeats the run) and distil/ with metrics per epoch,
    TensorBoard files and checkpoints. MODEL_DIR is not changed.

    \b
    Examples:
      fastbert distill reviews/model --texts more.txt --out reviews-more
      fastbert distill reviews/model --texts a.txt --texts b.csv --dev dev.tsv \\
          --distil-epochs 10 --cache --out reviews-more
      fastbert distill reviews/model --texts train.tsv --targets mixed \\
          --hard-weight 0.3 --out reviews-mixed
    """

    model: options.SavedModel
    settings: Given[DistillConfig] = field(default_factory=Given)
    out: Annotated[Path, Option("Folder of the run.", panel=RUN)] = Path("fastbert-distilled")
    resume: training.Resume = False
    quiet: training.Quiet = False
    config: training.ConfigFile = None

    def look(self) -> None:
        """Look at the configuration, the folders and the texts."""
        from fastbert_cli.distill.inputs import look

        if self.out.resolve() == self.model.resolve():
            raise CommandError(
                f"--out {self.out}: that is the folder of the model, which stays as it is; choose another"
            )
        look(self._whole, self._look_at_model)

    def value_at(self, place: Place) -> Any:
        """As in the base class; of the configuration, with what a file says."""
        return reduce(getattr, place[1:], self._whole) if place[0] == "settings" else super().value_at(place)

    @property
    def reads_labels(self) -> bool:
        """Whether labels are read: to score on, or to learn from."""
        return self._whole.data.dev is not None or self._whole.distil.targets != "soft"

    @cached_property
    def _whole(self) -> DistillConfig:
        """The configuration of the run, with what a file says."""
        from fastbert_cli.config_file import run_to_begin

        return run_to_begin(self.out, DistillConfig, self.config, self._flags, self.resume)[0]

    @property
    def _flags(self) -> dict[str, Any]:
        return self.settings | {"model.folder": str(self.model)}

    def run(self) -> None:
        """Distill, or go on with a run."""
        training.share_the_cores()
        from fastbert_cli.distill.run import run_distill
        from fastbert_cli.output_folder import OutputFolder

        whole = (self._words, self.out, DistillConfig, self.config, self._flags, self.resume, self.quiet)
        with OutputFolder(*whole) as output:
            run_distill(output, self._load_model)

    def _look_at_model(self) -> Classes | None:
        from fastbert_cli.inputs import look_at_model

        return look_at_model(self.model)

    def _load_model(self) -> Loaded:
        from fastbert_cli.models import load_model

        return load_model(self.model)

    def stopped(self) -> str:
        """Return the command that goes on."""
        return how_to_go_on(self._words, self.out)

    @property
    def _words(self) -> tuple[str, ...]:
        return ("distill", str(self.model))
