"""The command `demo`: its options and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from fastbert_cli import options
from fastbert_cli.command import Command, Option
from fastbert_cli.errors import CommandError
from fastbert_cli.hub import look_at_hub


@dataclass(frozen=True)
class Demo(Command):
    """Train, distill, patch and measure a FastBERT, from raw text, in three to seven minutes on two cores (AMD EPYC).

    Without files it classifies docstrings: which of five installed libraries was this one written for?

    \b
    Examples:
      fastbert demo
      fastbert demo --train mine-train.tsv --dev mine-dev.tsv --speed 0.2 --speed 0.6
    """

    extra: ClassVar[str] = "demo"

    train: Annotated[
        Path | None, Option("Labelled texts to train on (.tsv or .csv, header: label, text). Default: docstrings.")
    ] = None
    dev: Annotated[Path | None, Option("Labelled texts to measure on, of the same form.")] = None
    backbone: Annotated[
        str | None, Option("Folder or hub name of a pretrained BERT. Default: the packaged 6-layer MiniLM.")
    ] = None
    out: Annotated[Path, Option("Folder for the model, the report, the figures and the chart.")] = Path("demo-out")
    speed: Annotated[
        tuple[float, ...], Option("Speed (threshold on the uncertainty) to measure at; may be repeated.")
    ] = options.SPEEDS
    epochs: Annotated[float, Option("Epochs of step 1, fine-tuning.", min=0.01)] = 2
    distil_epochs: Annotated[float, Option("Epochs of step 2, self-distillation.", min=0.01)] = 3
    max_length: Annotated[int, Option("Texts are cut off at this many tokens.", min=3)] = 96
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Option("Of training; auto: bf16 where the processor computes in it.")
    ] = "auto"
    timed: Annotated[int, Option("Texts that the timing runs over (a multiple of the batch of 32).", min=32)] = 160
    rounds: Annotated[int, Option("Interleaved repeats of the timing; medians are reported.", min=1)] = 3
    seed: Annotated[int, Option("Of the data, the fresh heads and the training.")] = 0

    @property
    def speeds(self) -> tuple[float, ...]:
        """The Speeds to measure at, in order."""
        return tuple(sorted(set(self.speed)))

    def look(self) -> None:
        """Look at the options, the folder and the files."""
        from fastbert_cli.inputs import check_folder_to_replace
        from fastbert_cli.training import CONFIG_FILE, RESULTS_FILE
        from fastbert_hf.data.reading import look_at_classification_file

        if any(not 0 < speed <= 1 for speed in self.speeds):
            raise CommandError("every --speed must be above 0 and at most 1")
        if self.out.exists() and not self.out.is_dir():
            raise CommandError(f"--out {self.out}: a file; name a folder")
        if self.backbone is not None:
            look_at_hub(self.backbone, "models")
        there = [(self.out / name).exists() for name in (CONFIG_FILE, RESULTS_FILE, "model")]
        if there[0] and any(there[1:]):
            raise CommandError(f"--out {self.out}: holds a run of fastbert train or distill; choose another name")
        check_folder_to_replace("--out", self.out / "model", (self.train, self.dev, self.backbone))
        for file in filter(None, (self.train, self.dev)):
            look_at_classification_file(file)

    def run(self) -> None:
        """Train, measure and report."""
        from fastbert_cli.demo.run import run_demo

        run_demo(self)

    def stopped(self) -> str:
        """Return where to look."""
        return f"stopped; what was finished is in {self.out}"
