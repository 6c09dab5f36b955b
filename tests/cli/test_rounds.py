"""Step 1 trains on while the score on dev data rises, keeps the best weights, and says when it would have gone on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from fastbert_cli.train import rounds
from fastbert_hf.training import FINE_TUNING, TrainingResult


@pytest.mark.parametrize(
    ("scores", "limit", "done", "kept", "told"),
    [
        ([[0.5, 0.6, 0.6]], 9, 1, 0, ""),
        ([[0.5, 0.6, 0.604]], 9, 1, 0, ""),  # no half a point
        ([[0.5, 0.6, 0.7], [0.6, 0.65, 0.7]], 9, 2, 1, ""),
        ([[0.5, 0.6, 0.7], [0.5, 0.6, 0.69]], 9, 2, 0, ""),  # no better than before: its weights go
        ([[0.5, 0.6, 0.7], [0.6, 0.7, 0.8], [0.7, 0.8, 0.9]], 9, 3, 2, "--max-epochs 24 trains on"),
        ([[0.5, 0.6, 0.7]], 5, 1, 0, "(60.00% before, 70.00% in the last epoch); --max-epochs 12 trains on"),
        ([[0.7]], 9, 1, 0, ""),  # of one epoch nobody knows
        (None, 9, 1, 0, ""),
    ],
)
def test_rounds(monkeypatch, capsys, scores, limit, done, kept, told):
    model, calls = torch.nn.Linear(1, 1), []

    def fine_tune(model, tokenizer, data, settings, *, dev, run_dir):
        number = len(calls)
        calls.append((run_dir, settings.seed))
        model.weight.data.fill_(number)
        epochs = [{"dev_accuracy": score} for score in scores[number]] if scores else [{}]
        return TrainingResult([], 0, 0.0, epochs, 0, None)

    monkeypatch.setattr(rounds, "fine_tune", fine_tune)
    output = SimpleNamespace(
        config=SimpleNamespace(fine_tuning=lambda: FINE_TUNING, fine_tune=SimpleNamespace(max_epochs=limit)),
        of_step=lambda name: {"run_dir": name},
        console=Console(quiet=True),
    )
    results = rounds.fine_tune_in_rounds(output, model, None, "train", "dev" if scores else None)
    names = ["fine_tune", "fine_tune_2", "fine_tune_3"][:done]
    assert list(results) == names and calls == [(name, 42 + place) for place, name in enumerate(names)]
    assert model.weight.item() == kept
    assert told in capsys.readouterr().err if told else capsys.readouterr().err == ""
