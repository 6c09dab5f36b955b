"""What `train` and `distill` share: sections of their configuration, which are options too, and the folder of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastbert_cli.command import Option
from fastbert_cli.errors import shell_command
from fastbert_cli.options import DATA, stride_of

if TYPE_CHECKING:
    from fastbert_hf.training import DistillationSettings, TrainingSettings

MODEL = "Model"
STEP_1 = "Step 1: backbone and teacher classifier"
STEP_2 = "Step 2: student classifiers"
RUN = "Run"
CONFIG_FILE, RESULTS_FILE = "config.yaml", "results.json"  # of a run, in its folder

Dev = Annotated[
    str | None,
    Option("Labelled texts to score on after every epoch; the best epoch's weights are kept.", panel=DATA),
]
DevSplit = Annotated[str | None, Option("Part of the data set of --dev, as validation.", panel=DATA)]
MaxLength = Annotated[int, Option("Texts are cut off at this many tokens.", panel=MODEL)]
STRIDE = Option(
    "Divide longer texts into passages that share this many tokens and have the label of the text, instead of cutting "
    "them off (none).",
    panel=MODEL,
    parse=stride_of,
)
Score = Literal["accuracy", "macro_f1"]
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
]


class Step:
    """Base of the sections for a training step; names, defaults and limits are those of the library's settings."""

    # Further ones of transformers.TrainingArguments.
    arguments: dict[str, Any]

    def settings(self, **shared: Any) -> TrainingSettings:
        """Return the library's settings, with what other sections have for all steps.

        Raises:
            ValueError: a value out of its range; the message begins with its key.
        """
        raise NotImplementedError

    def values(self, shared: dict[str, Any]) -> dict[str, Any]:
        """Return the fields by name, with what other sections have for all steps.

        Raises:
            ValueError: two sections have the same training argument.
        """
        own, common = asdict(self), shared.get("arguments", {})  # type: ignore[call-overload]
        twice = sorted(own["arguments"].keys() & common.keys())
        if twice:
            raise ValueError(f"arguments: {', '.join(twice)} is an option of the section run; leave one of them out")
        return {**own, **shared, "arguments": {**common, **own["arguments"]}}


@dataclass(frozen=True)
class DistillStep(Step):
    """Step 2, with the cache switched on or off instead of a folder for it."""

    epochs: Annotated[float, Option("Passes over the texts.", "--distil-epochs", STEP_2)] = 5
    learning_rate: Annotated[float, Option("Highest learning rate.", "--distil-learning-rate", STEP_2)] = 1e-3
    batch_size: Annotated[int, Option("Texts per step, of all devices together.", "--distil-batch-size", STEP_2)] = 32
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    best_by: Score = "accuracy"
    keep_checkpoints: int = 2
    objective: Annotated[
        Literal["kl", "reverse_kl", "ce"],
        Option(
            "What a student minimises: KL(teacher || student), KL(student || teacher), or the cross-entropy under the "
            "teacher.",
            panel=STEP_2,
        ),
    ] = "kl"
    temperature: Annotated[
        float, Option("Above 1, students also learn how the teacher ranks wrong classes.", panel=STEP_2)
    ] = 1.0
    targets: Annotated[
        Literal["soft", "hard", "mixed"],
        Option("Learn from the teacher (soft), from labels (hard) or from both (mixed).", panel=STEP_2),
    ] = "soft"
    hard_weight: Annotated[float, Option("Share of the labels in mixed targets.", panel=STEP_2)] = 0.5
    exit_zero: Annotated[
        bool,
        Option(
            "Also add a student before the first layer, a bag of hashed tokens and pairs, so that the easiest texts "
            "cost no layer.",
            "--exit-zero/--no-exit-zero",
            STEP_2,
        ),
    ] = False
    cache: Annotated[
        bool,
        Option(
            "Keep what the frozen backbone computes on disk, so that later epochs cost no backbone pass.",
            "--cache/--no-cache",
            STEP_2,
        ),
    ] = False
    cache_limit_gb: Annotated[float, Option("Refuse a cache larger than this many GB.", panel=STEP_2)] = 20.0
    cache_dtype: Annotated[
        Literal["bfloat16", "float32"], Option("Precision in the cache; float32 takes twice the disk.", panel=STEP_2)
    ] = "bfloat16"
    arguments: dict[str, Any] = field(default_factory=dict)

    def settings(self, cache_dir: Path = Path(), **shared: Any) -> DistillationSettings:
        """Return the library's settings, with a cache in `cache_dir` if one is wanted."""
        from fastbert_hf.training import DistillationSettings

        values = self.values(shared)
        del values["exit_zero"]  # which is distilled behind the others
        folder = str(cache_dir) if values.pop("cache") else None
        return DistillationSettings(**values, cache_dir=folder)


@dataclass(frozen=True)
class Run:
    """What concerns all steps."""

    seed: Annotated[int, Option("Of fresh heads, shuffling and dropout.", panel=RUN)] = 42
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Option("Of training; auto: bf16 where the processor or GPU computes in it.", panel=RUN),
    ] = "auto"
    gradient_accumulation: Annotated[
        int, Option("Batches per optimiser step, for a large batch in little memory.", panel=RUN, min=1)
    ] = 1
    lr_scheduler: Annotated[Scheduler, Option("Course of the learning rate after the warm-up.", panel=RUN)] = "linear"
    report_to: Annotated[
        tuple[str, ...],
        Option("Also log to this integration of transformers, as wandb or mlflow; may be repeated.", panel=RUN),
    ] = ()

    def arguments(self) -> dict[str, Any]:
        """Return what is not the default, as `transformers.TrainingArguments` calls it."""
        every = {
            "gradient_accumulation_steps": (self.gradient_accumulation, 1),
            "lr_scheduler_type": (self.lr_scheduler, "linear"),
            "report_to": (list(self.report_to), []),
        }
        return {name: value for name, (value, default) in every.items() if value != default}


class TrainingConfig:
    """Base of the configurations of both commands."""

    model: Any
    distil: DistillStep
    run: Run

    def shared(self) -> dict[str, Any]:
        """Return the settings that all steps take from the sections `run` and `model`."""
        shared = {"seed": self.run.seed, "precision": self.run.precision, "arguments": self.run.arguments()}
        # None and "trained": as the model says, which is not loaded yet.
        if self.model.max_length is not None:
            shared["max_length"] = self.model.max_length
        if self.model.stride != "trained":
            shared["stride"] = self.model.stride
        return shared

    def distillation(self, cache_dir: Path) -> DistillationSettings:
        """Return the settings of step 2, with a cache in `cache_dir` if one is wanted."""
        return self.distil.settings(cache_dir, **self.shared())


Resume = Annotated[bool, Option("Go on with the run in --out, with the configuration it has.", panel=RUN)]
Quiet = Annotated[bool, Option("Show neither tables nor how training goes; notes and errors stay.", panel=RUN)]
ConfigFile = Annotated[
    Path | None, Option("YAML file of settings, as the config.yaml of another run; options given here win.", panel=RUN)
]


def share_the_cores() -> None:
    """Let the threads of training sleep while they wait for each other, unless the environment decides that.

    They spin otherwise, and on a machine with other work hold up those they wait for. It is read when torch is first
    imported, so this is called before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def command_to_go_on(command: Sequence[str], folder: Path) -> str:
    """Return the command line that goes on with the run in `folder`, which `command` began."""
    return shell_command("fastbert", *command, "--out", folder, "--resume")


def how_to_go_on(command: Sequence[str], folder: Path) -> str:
    """Return what to say after Ctrl-C.

    Args:
        command: words of the command that began the run, without its options.
        folder: of the run.
    """
    if not (folder / CONFIG_FILE).is_file():
        return "stopped before training began"
    processes = os.environ.get("WORLD_SIZE", "1")  # set by accelerate launch and torchrun
    again = "" if processes == "1" else f", in {processes} processes again,"
    return f"stopped; go on{again} with: {command_to_go_on(command, folder)}"
