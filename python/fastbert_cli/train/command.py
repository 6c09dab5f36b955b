"""The command `train`: its options, which are its configuration too, and its help."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastbert_cli import options, training
from fastbert_cli.command import Command, Given, Option, Place
from fastbert_cli.errors import CommandError
from fastbert_cli.options import DATA
from fastbert_cli.pairs import STEPS
from fastbert_cli.training import MODEL, RUN, STEP_1, STEP_2, DistillStep, Step, TrainingConfig, how_to_go_on

if TYPE_CHECKING:
    from fastbert_hf.training import LabelSettings


FEWEST_MOST_EPOCHS = 12  # of all rounds of step 1, where --max-epochs is not given


def layers_of(text: str) -> tuple[int, ...]:
    """Return the layers that the value of --exit-layers names."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CommandError(f"--exit-layers {text}: name layers with commas between them, as 2,4,6") from None


def weights_of(text: str) -> Literal["balanced"] | dict[str, float]:
    """Return what the value of --class-weights says."""
    if text == "balanced":
        return "balanced"
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = part.rpartition("=")
        try:
            if not equals or name.strip() in weights:
                raise ValueError
            weights[name.strip()] = float(weight)
        except ValueError:
            raise CommandError(
                f"--class-weights {text}: give balanced, or every class once with its weight, as no=1,yes=4"
            ) from None
    return weights


@dataclass(frozen=True)
class TrainData:
    """Where texts and labels are; `train` and `dev` are files or names of `datasets`."""

    train: Annotated[
        str | None,
        Option("Labelled texts: .tsv, .csv, .jsonl, .parquet, a folder or a name of datasets.", panel=DATA),
    ] = None
    dev: training.Dev = None
    unlabelled: Annotated[
        tuple[str, ...], Option("More texts for step 2, also .txt with one per line; may be repeated.", panel=DATA)
    ] = ()
    subset: options.Subset = None
    train_split: Annotated[str | None, Option("Part of the data set of --train, as train.", panel=DATA)] = None
    dev_split: training.DevSplit = None
    text_column: options.TextColumn = None
    pair_column: options.PairColumn = None
    label_column: options.LabelColumn = None
    multi_label: Annotated[
        bool,
        Option("A text has any number of classes: a list, or a|b in tables.", "--multi-label/--single-label", DATA),
    ] = False


@dataclass(frozen=True)
class NewModel:
    """The backbone and the exit heads; names and defaults are those of `FastBertConfig`."""

    backbone: Annotated[
        str | None,
        Option("Folder or hub name of a pretrained encoder. Default: the packaged English MiniLM.", panel=MODEL),
    ] = None
    head_type: Annotated[Literal["attentive", "pooled"], Option("Kind of exit head.", "--head", MODEL)] = "attentive"
    head_hidden_size: int = 128
    head_num_attention_heads: int = 2
    head_pooling: Annotated[
        Literal["first", "mean", "max"], Option("Of pooled heads, over the tokens.", "--pooling", MODEL)
    ] = "first"
    head_num_dense_layers: int = 1
    head_activation: Literal["tanh", "relu", "gelu"] = "tanh"
    exit_layers: Annotated[
        tuple[int, ...] | None,
        Option(
            "Layers with an exit head, as 2,4,6; the last one included. Default: all.", panel=MODEL, parse=layers_of
        ),
    ] = None
    max_length: training.MaxLength = 128
    stride: Annotated[int | None, training.STRIDE] = None

    def of_the_heads(self) -> dict[str, Any]:
        """Return what `from_backbone` takes beside the backbone."""
        settings = asdict(self)
        del settings["backbone"], settings["max_length"], settings["stride"]
        return settings


@dataclass(frozen=True)
class FineTune(Step):
    """Step 1, or joint training in its place."""

    epochs: Annotated[
        float | None,
        Option("Passes over the labelled texts. Default: by the number of texts and classes.", panel=STEP_1),
    ] = None
    learning_rate: Annotated[
        float | None, Option("Highest learning rate. Default: by the width of the backbone.", panel=STEP_1)
    ] = None
    batch_size: Annotated[int, Option("Texts per step, of all devices together.", panel=STEP_1)] = 32
    max_epochs: Annotated[
        float | None,
        Option(
            "Train on from there, in rounds of --epochs, while the last epoch is the best on --dev by half a point, up "
            "to this many in all; fewer than the rule of --epochs says shorten the first round. Default: 12, and at "
            "least two rounds. A finished run with --resume and a larger number trains on.",
            panel=STEP_1,
        ),
    ] = None
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    best_by: Annotated[training.Score, Option("Score on --dev that the best epoch has.", panel=STEP_1)] = "accuracy"
    keep_checkpoints: int = 2
    label_smoothing: Annotated[float, Option("Share of a label that is spread over all classes.", panel=STEP_1)] = 0.0
    class_weights: Annotated[
        Literal["balanced"] | dict[str, Any] | None,
        Option(
            "What each class counts in the loss: balanced (all alike), or for every class, as no=1,yes=4.",
            panel=STEP_1,
            parse=weights_of,
        ),
    ] = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def settings(self, **shared: Any) -> LabelSettings:
        """Return the library's settings; what is not said is as there."""
        from fastbert_hf.training import LabelSettings

        values = self.values(shared)
        most = values.pop("max_epochs")  # which is that of the rounds
        if most is not None and not 0 < most < math.inf:
            raise ValueError(f"max_epochs must be finite and above 0, got {most!r}")
        for name in ("epochs", "learning_rate"):
            if values[name] is None:  # before the texts are read
                del values[name]
        return LabelSettings(**values)

    def completed(self, texts: int, classes: int, hidden_size: int, batches_per_step: int) -> FineTune:
        """Return the section with what is not said yet, by the rule of `fastbert_hf.training.schedule_for`.

        `max_epochs` shortens what the rule says.

        Args:
            texts: to train on.
            classes: of the labels.
            hidden_size: width of the backbone.
            batches_per_step: of gradient accumulation.
        """
        from fastbert_hf.training import schedule_for

        schedule = schedule_for(texts, classes, hidden_size, self.batch_size * batches_per_step)
        epochs = self.epochs
        if epochs is None:
            epochs = schedule.epochs if self.max_epochs is None else min(schedule.epochs, self.max_epochs)
        return replace(
            self,
            epochs=epochs,
            learning_rate=schedule.learning_rate if self.learning_rate is None else self.learning_rate,
            max_epochs=max(FEWEST_MOST_EPOCHS, 2 * epochs) if self.max_epochs is None else self.max_epochs,
        )


@dataclass(frozen=True)
class TrainRun(training.Run):
    """Also which steps there are: both, step 1 alone, or joint training in their place."""

    steps: Literal["both", "fine_tune", "joint"] = "both"


@dataclass(frozen=True)
class TrainConfig(TrainingConfig):
    """The sections of the configuration."""

    data: TrainData = field(default_factory=TrainData)
    model: NewModel = field(default_factory=NewModel)
    fine_tune: FineTune = field(default_factory=FineTune)
    distil: DistillStep = field(default_factory=DistillStep)
    run: TrainRun = field(default_factory=TrainRun)

    @property
    def has_rounds(self) -> bool:
        """True where step 1 may train on: there are scores that decide it."""
        return self.data.dev is not None and self.run.steps != "joint"

    def fine_tuning(self) -> LabelSettings:
        """Return the settings of step 1, or of joint training."""
        return self.fine_tune.settings(**self.shared())


@dataclass(frozen=True)
class Train(Command):
    """Train a FastBERT on labelled texts: fine-tune it, then distill its student classifiers.

    \b
    Writes into --out: model/ (for fastbert evaluate, predict and
    from_pretrained), results.json (scores on --dev at four Speeds),
    config.yaml (repeats the run), and fine_tune/ and distil/ with metrics per
    epoch, TensorBoard files and checkpoints.

    \b
    Ctrl-C keeps a checkpoint; the same --out with --resume goes on from it.
    More settings than these options are in config.yaml; see docs/training.md.

    \b
    Examples:
      fastbert train --train train.tsv --dev dev.tsv --out reviews
      fastbert train --train train.csv --dev dev.csv --unlabelled more.txt \\
          --backbone bert-base-uncased --epochs 4 --cache --out reviews-base
      fastbert train --config reviews/config.yaml --seed 7 --out reviews-7
    """

    settings: Given[TrainConfig] = field(default_factory=Given)
    joint: Annotated[
        bool, Option("Instead of both steps, train all exit heads on labels: the paper's ablation.", panel=STEP_1)
    ] = False
    with_distill: Annotated[
        bool | None, Option("Run step 2, or stop before it. Default: it runs.", "--distil/--no-distil", STEP_2)
    ] = None
    out: Annotated[Path, Option("Folder of the run.", panel=RUN)] = Path("fastbert-out")
    resume: training.Resume = False
    quiet: training.Quiet = False
    config: training.ConfigFile = None

    def look(self) -> None:
        """Look at the configuration, the run's folder and the texts."""
        from fastbert_cli.train.inputs import look

        look(self._whole)

    def value_at(self, place: Place) -> Any:
        """As in the base class; of the configuration, with what a file says."""
        if place == (STEPS,):
            return self._whole.run.steps
        return reduce(getattr, place[1:], self._whole) if place[0] == "settings" else super().value_at(place)

    @cached_property
    def _whole(self) -> TrainConfig:
        """The configuration of the run, with what a file says."""
        from fastbert_cli.config_file import run_to_begin

        if self.joint and self.with_distill is not None:
            raise CommandError("--joint takes the place of both steps; leave --distil and --no-distil out")
        return run_to_begin(self.out, TrainConfig, self.config, self._flags, self.resume)[0]

    @property
    def _flags(self) -> dict[str, Any]:
        flags = dict(self.settings)
        if self.joint or self.with_distill is not None:
            flags["run.steps"] = "joint" if self.joint else "both" if self.with_distill else "fine_tune"
        return flags

    def run(self) -> None:
        """Train, or go on with a run."""
        training.share_the_cores()
        from fastbert_cli.output_folder import OutputFolder
        from fastbert_cli.train.run import run_train

        with OutputFolder(
            ("train",), self.out, TrainConfig, self.config, self._flags, self.resume, self.quiet
        ) as output:
            run_train(output)

    def stopped(self) -> str:
        """Return the command that goes on."""
        return how_to_go_on(("train",), self.out)
