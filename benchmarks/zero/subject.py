"""A task of the benchmarks of exit zero: its texts, and the adopted model before it gets an exit zero."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adopting.backbones import Backbone, open_models
from adopting.models import TASKS, Task, Texts, adopted, fine_tuned
from fastbert_hf.machine import describe_machine

QUICK_TEXTS = 64


@dataclass(frozen=True)
class Subject:
    """What is measured of a task.

    Attributes:
        name: of the task.
        task: its settings.
        texts: of every part.
        backbone: what the classifier started from.
        folder: of the task's models.
        source: folder of the adopted model, which has no exit zero.
    """

    name: str
    task: Task
    texts: Texts
    backbone: Backbone
    folder: Path
    source: Path

    @classmethod
    def of(cls, name: str, options: argparse.Namespace) -> Subject:
        """Return a task with its models, made now or before; `options` are those of `adopting.commands`."""
        task, backbone = TASKS[name], options.backbone
        texts = Texts.read(options.data / name, QUICK_TEXTS if options.quick else None)
        folder = open_models(options.run, name, backbone, texts, task)
        classifier = fine_tuned(folder / "classifier", backbone.folder, texts.labelled, task, backbone.learning_rate)
        source, _ = adopted(folder / "adopted", classifier, texts.traffic, task)
        return cls(name, task, texts, backbone, folder, source)

    def facts(self) -> dict[str, Any]:
        """Return what a result says of it first."""
        return {
            "task": self.name,
            "backbone": self.backbone.name,
            "layers": self.backbone.layers,
            "date": describe_machine()["date"],
        }
