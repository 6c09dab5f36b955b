"""Step 1 in rounds goes on while the score on dev data rises, keeps the best weights, and says when it would go on."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from fastbert_hf.training import FINE_TUNING, StillRising, TrainingResult, fine_tune_in_rounds, rounds
from helpers.training import QUICK, make_data, make_model, make_tokenizer


@pytest.mark.parametrize(
    ("scores", "limit", "kept", "told"),
    [
        ([[0.5, 0.6, 0.6]], 9, 0, []),
        ([[0.5, 0.6, 0.604]], 9, 0, []),  # no half a point
        ([[0.5, 0.6, 0.7], [0.6, 0.65, 0.7]], 9, 1, [(0.6, 0.7, 3, True)]),
        ([[0.5, 0.6, 0.7], [0.5, 0.6, 0.69]], 9, 0, [(0.6, 0.7, 3, True)]),  # no better than before: its weights go
        (
            [[0.5, 0.6, 0.7], [0.6, 0.7, 0.8], [0.7, 0.8, 0.9]],
            9,
            2,
            [(0.6, 0.7, 3, True), (0.7, 0.8, 6, True), (0.8, 0.9, 9, False)],
        ),
        ([[0.5, 0.6, 0.7]], 5, 0, [(0.6, 0.7, 3, False)]),
        ([[0.7]], 9, 0, []),  # of one epoch nobody knows
        (None, 9, 0, []),
    ],
)
def test_rounds(monkeypatch: pytest.MonkeyPatch, scores: Any, limit: float, kept: int, told: list[Any]) -> None:
    model: Any = torch.nn.Linear(1, 1)
    data: Any = "train"
    dev: Any = "dev" if scores else None
    calls: list[tuple[Any, ...]] = []

    def fine_tune(
        model: Any, tokenizer: Any, data: Any, settings: Any, *, dev: Any, run_dir: str, score_to_beat: Any = None
    ) -> TrainingResult:
        number = len(calls)
        assert score_to_beat == max(chain(*scores[:number]), default=None) if scores else score_to_beat is None
        calls.append((run_dir, settings.seed, data, dev))
        model.weight.data.fill_(number)
        epochs = [{"dev_accuracy": score} for score in scores[number]] if scores else [{}]
        return TrainingResult([], 0, 0.0, epochs, 0, None)

    monkeypatch.setattr(rounds, "fine_tune", fine_tune)
    heard: list[StillRising] = []
    tokenizer: Any = None
    results = fine_tune_in_rounds(
        model, tokenizer, data, FINE_TUNING, dev, limit, lambda name: {"run_dir": name}, heard.append
    )
    names = ["fine_tune", "fine_tune_2", "fine_tune_3"][: len(scores or [0])]
    assert list(results) == names
    assert calls == [(name, 42 + place, data, dev) for place, name in enumerate(names)]
    assert model.weight.item() == kept
    assert heard == [StillRising(*state) for state in told]


def test_the_limit_is_of_all_rounds() -> None:
    model, data = make_model(), make_data(24)
    results = fine_tune_in_rounds(model, make_tokenizer(), data, QUICK, data, 1)
    assert [result.steps for result in results.values()] == [3]  # of 2 epochs, one
    with pytest.raises(ValueError, match="epochs must be above 0, got 0"):
        fine_tune_in_rounds(model, make_tokenizer(), data, QUICK, data, 0)


def test_every_round_is_a_run_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rounds, "RISE", -1.0)  # so that each is worth another one
    model, data = make_model(), make_data(24)

    def folder_of(name: str) -> Any:
        return {"run_dir": tmp_path / name}

    results = fine_tune_in_rounds(model, make_tokenizer(), data, QUICK, data, 4, folder_of)
    assert list(results) == ["fine_tune", "fine_tune_2"]
    assert all((tmp_path / name / "run.json").exists() for name in results)
    assert [result.steps for result in results.values()] == [6, 6]
