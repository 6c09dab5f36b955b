"""Names of the hub in the place of folders: read from its cache, without a network, and written to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.calibration import Objective, calibrate, record_exits
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.calibrated_setting import SETTING_FILE
from helpers.hub import put_model
from helpers.training import make_data, make_model, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = make_model().eval(), make_tokenizer()
    model.calibrated_setting = calibrate(
        record_exits(model, TokenisedDataset(make_data(300), tokenizer, 16)), Objective(min_speedup=1.0)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PROGRAM = """
import json, sys
from transformers import pipeline
from fastbert_hf import FastBertForSequenceClassification

answers = []
for name in sys.argv[1:]:
    model = FastBertForSequenceClassification.from_pretrained(name)
    answer = pipeline("text-classification", model=name)("the film was good")[0]
    answers.append([model.calibrated_setting is not None, answer["label"], answer["score"]])
print(json.dumps(answers))
"""


@pytest.mark.proof  # in a process of its own, which reads the cache's place when it begins
def test_a_fastbert_by_its_hub_name(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    make_model().save_pretrained(plain)
    make_tokenizer().save_pretrained(plain)
    put_model(tmp_path / "cache", "someone/calibrated", folder)
    put_model(tmp_path / "cache", "someone/plain", plain)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    names = ["someone/calibrated", "someone/plain", str(folder), str(plain)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    by_name, by_folder = (json.loads(result.stdout)[part] for part in (slice(2), slice(2, 4)))
    assert by_name == by_folder and [answer[0] for answer in by_name] == [True, False]


class Hub:
    """Takes the place of the hub's interface, and keeps in `folder` what is committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=f"someone/{name}"))
        monkeypatch.setattr(HfApi, "create_commit", self._commit)
        monkeypatch.setattr(ModelCard, "load", self._no_card)

    def _commit(self, repo_id: str, operations: list[Any], **_: Any) -> None:
        assert repo_id == "someone/reviews"
        for operation in operations:
            with operation.as_file() as file:
                (self.folder / operation.path_in_repo).write_bytes(file.read())

    @staticmethod
    def _no_card(*_: Any, **__: Any) -> None:
        raise EntryNotFoundError("no card yet")


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_what_is_pushed_is_the_whole_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    model = FastBertForSequenceClassification.from_pretrained(folder)
    hub = Hub(monkeypatch, tmp_path / "hub")
    if way == "push_to_hub":
        model.push_to_hub("reviews")
    else:
        (tmp_path / "reviews").mkdir()
        (tmp_path / "reviews" / SETTING_FILE).write_text("of an older model")
        model.save_pretrained(tmp_path / "reviews", push_to_hub=True)
    assert {path.name for path in hub.folder.iterdir()} == {
        *("config.json", "model.safetensors", "README.md", SETTING_FILE)
    }
    pushed = FastBertForSequenceClassification.from_pretrained(hub.folder)
    assert pushed.calibrated_setting == model.calibrated_setting is not None
    assert all(torch.equal(value, pushed.state_dict()[name]) for name, value in model.state_dict().items())
