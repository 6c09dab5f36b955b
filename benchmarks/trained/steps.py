"""The steps of training.py in a run folder, each of which goes on from its last epoch where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from exit_course import ExitCourse
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import ExitRecords, record_exits
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.machine import describe_machine
from fastbert_hf.progress import Progress
from fastbert_hf.training import (
    DistillationSettings,
    LabelSettings,
    TrainingResult,
    distill,
    fine_tune,
    train_jointly,
)
from run_folders import TEACHER, RunName, digest_of, open_run

RECORDS, REPORT = "exits.safetensors", "training.json"
COURSE_SPEED = 0.5  # at which the course of distillation is followed

Model = FastBertForSequenceClassification
Made = tuple[Model, PreTrainedTokenizerBase]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The texts of a task: `watched` are those of `dev` by which the course of distillation is followed."""

    train: ClassificationData
    dev: ClassificationData
    watched: ClassificationData
    test: ClassificationData


class Runs:
    """The trainings of one task, backbone and seed.

    In `folder` a finished model has a folder with the text of its `RunName`: weights, tokenizer, run.json (what decided
    it), training.json (the report) and exits.safetensors (what every head answers to the test texts). `folder`/steps
    has the log of its epochs, and checkpoints until it is finished.

    Args:
        folder: of all trainings.
        task: as in `RunName`.
        backbone: as in `RunName`.
        seed: as in `RunName`.
        parts: the texts.
        make: returns the model before step 1 and its tokenizer, the same every time.
        labels: settings of step 1 and of joint training.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        backbone: str,
        seed: int,
        parts: Parts,
        make: Callable[[], Made],
        labels: LabelSettings,
    ) -> None:
        self._folder, self._about = folder, (task, backbone)
        self._seed, self._parts, self._make, self._labels = seed, parts, make, labels

    def students(self, variant: str, settings: DistillationSettings) -> Path:
        """Return the folder of a model whose students learn on the frozen backbone of step 1, which all these variants
        share; `settings.cache_dir` is of the run folder."""
        teacher = self._teacher()

        def train(steps: Path) -> tuple[Made, dict[str, Any]]:
            model, tokenizer = load(teacher)
            watched = TokenisedDataset(self._parts.watched, tokenizer, settings.max_length)
            course = ExitCourse(model, watched, COURSE_SPEED, steps / "course.json")
            cached = dataclasses.replace(settings, cache_dir=self._folder / "cache")
            outcome = distill(
                model, tokenizer, self._parts.train, cached, callbacks=[course], **goes_on(steps / "distil")
            )
            before, own = report_of(teacher), _report({"distil": (settings, outcome)})
            found = {"speed": COURSE_SPEED, "texts": len(watched), "points": course.points}
            merged = {part: before[part] | own[part] for part in ("settings", "seconds", "losses")}
            return (model, tokenizer), own | merged | {"course": found}

        described = {"fine_tune": dataclasses.asdict(self._labels), "distil": dataclasses.asdict(settings)}
        return self._trained(variant, described, train)

    def joint(self) -> Path:
        """Return the folder of the model whose backbone and heads learn together."""
        return self._from_labels("joint", "joint", train_jointly)

    def records(self, finished: Path, progress: Progress) -> ExitRecords:
        """Return what every head of a finished model answers to the test texts, recorded now or before."""
        path = finished / RECORDS
        if not path.exists():
            model, tokenizer = load(finished)
            record_exits(
                model, TokenisedDataset(self._parts.test, tokenizer, self._labels.max_length), progress=progress
            ).save(path)
        return ExitRecords.load(path)

    def _teacher(self) -> Path:
        return self._from_labels(TEACHER, "fine_tune", fine_tune)

    def _from_labels(self, variant: str, step: str, run: Callable[..., TrainingResult]) -> Path:
        def train(steps: Path) -> tuple[Made, dict[str, Any]]:
            model, tokenizer = self._make()
            outcome = run(
                model, tokenizer, self._parts.train, self._labels, dev=self._parts.dev, **goes_on(steps / step)
            )
            return (model, tokenizer), _report({step: (self._labels, outcome)})

        return self._trained(variant, {step: dataclasses.asdict(self._labels)}, train)

    def _trained(
        self, variant: str, described: dict[str, Any], train: Callable[[Path], tuple[Made, dict[str, Any]]]
    ) -> Path:
        """Return the folder of a model that `train` trains, in a folder for its steps, unless it is there."""
        name = str(RunName(*self._about, variant, self._seed))
        finished, steps = self._folder / name, self._folder / "steps" / name
        texts = {part.name: digest_of(getattr(self._parts, part.name)) for part in dataclasses.fields(self._parts)}
        described = {"texts": texts, **described}
        open_run(finished if finished.exists() else steps, described)
        if not finished.exists():
            (model, tokenizer), report = train(steps)
            with folder_written_atomically(finished) as written:
                open_run(written, described)
                model.save_pretrained(written)
                tokenizer.save_pretrained(written)
                (written / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        # A checkpoint has the state of the optimiser, three times the model; logs stay.
        for checkpoint in steps.glob("*/checkpoint-*"):
            shutil.rmtree(checkpoint)
        return finished


def load(folder: Path) -> Made:
    """Return a finished model and its tokenizer."""
    return Model.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def report_of(finished: Path) -> dict[str, Any]:
    """Return `machine`, and by step `settings`, `losses` of every epoch and `seconds`, of a finished model; of one with
    students that were distilled also the `course`."""
    return json.loads((finished / REPORT).read_text(encoding="utf-8"))


def goes_on(run: Path) -> dict[str, Any]:
    """Return the options of a step that is kept in `run`, and goes on with what is there."""
    return {"run_dir": run, "resume": (run / "run.json").exists()}


def _report(steps: dict[str, tuple[Any, TrainingResult]]) -> dict[str, Any]:
    return {
        "machine": describe_machine(),
        "settings": {step: dataclasses.asdict(settings) for step, (settings, _) in steps.items()},
        # Not a benchmark: beside other work, and of a step that was interrupted only the last part.
        "seconds": {step: outcome.seconds for step, (_, outcome) in steps.items()},
        "losses": {step: outcome.losses for step, (_, outcome) in steps.items()},
    }
