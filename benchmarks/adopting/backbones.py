"""What adopted classifiers start from, and the folders of what is made of it."""

from __future__ import annotations

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from adopting.models import Task, Texts, packaged_backbone
from pretrained import ENCODERS, LEARNING_RATES, encoder_folder
from run_folders import SMALL, digest_of, open_run

_LEARNING_RATE = 1e-4  # of other widths than those that pretrained.py knows


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained encoder.

    Attributes:
        name: `SMALL`, a key of `pretrained.ENCODERS`, or the name of the folder.
        folder: of weights, configuration and tokenizer.
    """

    name: str
    folder: str

    @classmethod
    def find(cls, asked: str = SMALL) -> Backbone:
        """Return the packaged MiniLM, an encoder of pretrained.py (fetched the first time), or that of a folder.

        Raises:
            SystemExit: there is none.
        """
        if asked == SMALL:
            return cls(SMALL, packaged_backbone())
        if asked in ENCODERS:
            return cls(asked, str(encoder_folder(asked)))
        if not (Path(asked) / "config.json").exists():
            raise SystemExit(f"there is no backbone {asked}; name {SMALL}, {', '.join(ENCODERS)} or a model's folder")
        return cls(Path(asked).resolve().name, asked)

    @property
    def layers(self) -> int:
        """Return the number of its encoder layers."""
        return self._configuration["num_hidden_layers"]

    @property
    def learning_rate(self) -> float:
        """Return that of its fine-tuning, by its width."""
        return LEARNING_RATES.get(self._configuration["hidden_size"], _LEARNING_RATE)

    @cached_property
    def _configuration(self) -> dict[str, Any]:
        return json.loads((Path(self.folder) / "config.json").read_text(encoding="utf-8"))


def open_models(run: Path, name: str, backbone: Backbone, texts: Texts, task: Task) -> Path:
    """Return the folder of a task's models, which holds none of other texts, settings or backbones.

    Args:
        run: of all tasks and backbones.
        name: of the task.
        backbone: what the classifier starts from.
        texts: of every part.
        task: settings.

    Raises:
        SystemExit: it holds others.
    """
    folder = run / (name if backbone.name == SMALL else f"{name}-{backbone.name}")
    described = {
        "backbone": backbone.name,
        "layers": backbone.layers,
        "learning_rate": backbone.learning_rate,
        **dataclasses.asdict(task),
        "texts": {part.name: digest_of(getattr(texts, part.name)) for part in dataclasses.fields(texts)},
    }
    open_run(folder, described)
    return folder
