"""The folders of trainings: what they are called, and what decides their content, so that no run goes on with what
another one has made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert_hf.data import TextData
from fastbert_hf.files import write_atomically

SMALL = "small"  # the packaged MiniLM of 6 layers, or a model of characters
VARIANTS = {"distilled": "self-distilled", "hard": "students from labels", "joint": "no self-distillation"}  # in words
TEACHER = "teacher"  # what `distilled` and `hard` have in common: a fine-tuned model with fresh students
DESCRIPTION = "run.json"


@dataclass(frozen=True)
class RunName:
    """A trained model, whose text is the name of its folder: `sst2-joint-1`, `ag_news-e5-small-distilled-0`.

    Attributes:
        task: a key of `training.TASKS`, without a hyphen.
        backbone: `SMALL`, which the name leaves out, or a key of `pretrained.ENCODERS`.
        variant: one of `VARIANTS`, or `TEACHER`.
        seed: of the data, the fresh heads and the training; `None` where the name of a copy leaves it out.
    """

    task: str
    backbone: str
    variant: str
    seed: int | None

    def __str__(self) -> str:
        backbone = [] if self.backbone == SMALL else [self.backbone]
        seed = [] if self.seed is None else [str(self.seed)]
        return "-".join([self.task, *backbone, self.variant, *seed])

    @classmethod
    def parse(cls, text: str) -> RunName:
        """Return what a folder's name says.

        Raises:
            ValueError: it is no such name.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is not the name of a trained model, TASK-VARIANT-SEED or TASK-BACKBONE-VARIANT-SEED with "
                f"one of the variants {', '.join((*VARIANTS, TEACHER))}"
            )
        seed = None if found["seed"] is None else int(found["seed"])
        return cls(found["task"], found["backbone"] or SMALL, found["variant"], seed)


_NAME = re.compile(
    rf"(?P<task>[^-]+)(-(?P<backbone>.+?))?-(?P<variant>{'|'.join((*VARIANTS, TEACHER))})(-(?P<seed>[0-9]+))?"
)


def open_run(folder: Path, description: dict[str, Any]) -> None:
    """Begin or go on with a run in `folder`.

    Args:
        folder: made if it is not there.
        description: what decides the result, as plain values, also nested; kept in the folder's run.json.

    Raises:
        SystemExit: the folder holds a run with another description, or something without one.
    """
    path, asked = folder / DESCRIPTION, json.loads(json.dumps(description))
    if not path.exists():
        # A file that a killed process was writing has a hidden name.
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise SystemExit(
                f"{folder} holds something without {DESCRIPTION}, which would say what decided it; move it away or "
                "choose another folder with --run"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asked, indent=1) + "\n")
        return
    before, now = (dict(_leaves(one)) for one in (json.loads(path.read_text(encoding="utf-8")), asked))
    different = [
        f"{name}: {before.get(name)} there, {now.get(name)} now"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if different:
        raise SystemExit(
            f"{folder} holds a run with other settings ({'; '.join(different)}); choose another folder with --run"
        )


def _leaves(description: dict[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in description.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{start}{name} ")
        else:
            yield start + name, value


def digest_of(data: TextData) -> str:
    """Return a few digits that differ for other texts, other labels and another order of them."""
    columns = [data.texts, data.pairs, getattr(data, "label_ids", None), getattr(data, "label_names", None)]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]


def model_in_words(row: dict[str, Any]) -> str:
    """Return what a row of a result file is of, by its `backbone` and `layers`: "6-layer MiniLM", "12-layer e5-small".

    Rows of before have neither, and are of the packaged MiniLM.
    """
    backbone = row.get("backbone", SMALL)
    return "6-layer MiniLM" if backbone == SMALL else f"{row['layers']}-layer {backbone}"
