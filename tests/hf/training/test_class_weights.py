"""Class weights: what they are, what they do to the loss and to what is learned, and which are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.training import (
    LabelSettings,
    fine_tune,
    label_loss,
    train_jointly,
)
from fastbert_hf.training.class_weights import class_weights_of
from helpers.training import (
    QUICK,
    make_data,
    make_model,
    make_tokenizer,
)


def lopsided(size: int = 60) -> ClassificationData:
    """A text in ten has the class "good", and its words do not tell."""
    return ClassificationData(["the film was"] * size, None, [int(i % 10 == 0) for i in range(size)], ["bad", "good"])


def test_class_weights_are_those_of_the_classes() -> None:
    balanced = LabelSettings(class_weights="balanced")
    weights = class_weights_of(balanced, lopsided(60))
    assert weights is not None and weights.tolist() == pytest.approx([60 / (2 * 54), 60 / (2 * 6)])
    several = ClassificationData(["a", "b", "c", "d"], None, [[0], [0, 1], [0], []], ["x", "y"], multi_label=True)
    weights = class_weights_of(balanced, several)
    assert weights is not None and weights.tolist() == pytest.approx([1 / 3, 3])
    weights = class_weights_of(LabelSettings(class_weights={"good": 4, "bad": 0.5}), lopsided())
    assert weights is not None and weights.tolist() == [0.5, 4]
    assert class_weights_of(LabelSettings(), lopsided()) is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("even", "class_weights must be 'balanced' or a weight for every class by name, got 'even'"),
        ({"good": 0, "bad": 1}, "finite number above 0 for every class, got 'good': 0"),
        ({"good": float("inf"), "bad": 1}, "got 'good': inf"),
        ({"good": True, "bad": 1}, "got 'good': True"),
        ({"good": 1, "fine": 2}, "class_weights names fine, but the classes are bad, good"),
        ({"good": 1}, "class_weights has no weight for bad; give every class one, as 1"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fine_tune(make_model(), make_tokenizer(), make_data(), replace(QUICK, class_weights=weights))


def test_balanced_weights_need_every_class() -> None:
    balanced = replace(QUICK, class_weights="balanced")
    data = ClassificationData(["a", "b"], None, [0, 0], ["bad", "good"])
    with pytest.raises(ValueError, match="no text has the class good; give every class a weight by name"):
        fine_tune(make_model(), make_tokenizer(), data, balanced)
    data = ClassificationData(["a", "b"], None, [[0], [0, 1]], ["bad", "good"], multi_label=True)
    with pytest.raises(ValueError, match="all texts have the class bad; give every class a weight by name"):
        train_jointly(make_model(problem_type="multi_label_classification"), make_tokenizer(), data, balanced)


def test_balanced_weights_count_passages() -> None:
    data = ClassificationData(["the film", "was very very bad"], None, [1, 0], ["bad", "good"])
    dataset = TokenisedDataset(data, make_tokenizer(), max_length=4, stride=1)
    weights = class_weights_of(LabelSettings(class_weights="balanced"), data, dataset.label_ids)
    assert weights is not None and weights.tolist() == pytest.approx([4 / (2 * 3), 4 / 2])


def test_weighted_loss_is_the_mean_of_the_weighted_losses() -> None:
    logits, labels = torch.randn(7, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    weights = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    of_labels = -logits.log_softmax(-1)[torch.arange(7), :, labels]  # [7, 2]
    want = (weights[labels][:, None] * of_labels).mean(dim=0).sum()
    torch.testing.assert_close(label_loss(logits, labels, class_weights=weights), want)
    chosen = torch.randint(0, 2, (7, 3)).double()
    probabilities = logits.sigmoid()
    terms = -(weights * chosen[:, None] * probabilities.log() + (1 - chosen[:, None]) * (1 - probabilities).log())
    got = label_loss(logits, chosen, multi_label=True, class_weights=weights)
    torch.testing.assert_close(got, terms.mean(dim=(0, 2)).sum())


def test_class_weights_move_what_is_learned() -> None:
    """Words that do not tell leave the share of the classes: nine to one without weights, one to one balanced."""
    shares = []
    batch = next(TokenisedDataset(lopsided(1), make_tokenizer(), 16).batches(1))
    weightings: list[Any] = [None, "balanced", {"bad": 1, "good": 81}]
    for weights in weightings:
        model = make_model(num_layers=1, dropout=0.0)
        settings = replace(QUICK, epochs=6, class_weights=weights)
        fine_tune(model, make_tokenizer(), lopsided(), settings)
        with torch.no_grad():
            output = model(batch["input_ids"], batch["attention_mask"])
        shares.append(output.logits.softmax(-1)[0, 1].item())
    unweighted, balanced, far = shares
    assert unweighted < 0.25 < balanced < 0.75 < far


def test_class_weights_stay_those_of_the_run(tmp_path: Path) -> None:
    weights: dict[str, float] = {"bad": 1, "good": 3}
    settings, data = replace(QUICK, epochs=1, class_weights=weights), make_data(16)
    fine_tune(make_model(1), make_tokenizer(), data, settings, run_dir=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["class_weights"] == weights
    others: list[Any] = [{"bad": 1, "good": 2}, "balanced", None]
    for other in others:
        with pytest.raises(ValueError, match="holds another run: class_weights"):
            asked = replace(settings, class_weights=other)
            fine_tune(make_model(1), make_tokenizer(), data, asked, run_dir=tmp_path, resume=True)
    assert fine_tune(make_model(1), make_tokenizer(), data, settings, run_dir=tmp_path, resume=True).steps == 2
