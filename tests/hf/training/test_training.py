"""Fine-tuning, the ablation of joint training, and evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset
from fastbert_hf.training import FineTuningTrainer, evaluate, fine_tune, label_loss, train_jointly
from fastbert_hf.training import fine_tuning as fine_tuning_module
from fastbert_hf.training.evaluation import scores_of
from helpers.training import QUICK, changed, make_data, make_model, make_multi_label_data, make_tokenizer, snapshot


def batch_of(data: TextData) -> dict[str, torch.Tensor]:
    return next(TokenisedDataset(data, make_tokenizer(), 16).batches(len(data)))


def test_fine_tuning_learns_and_leaves_students_alone() -> None:
    model, data = make_model(), make_data()
    before = snapshot(model)
    result = fine_tune(model, make_tokenizer(), data, replace(QUICK, epochs=8))
    assert result.losses[-1] < 0.5 * result.losses[0] and len(result.losses) == 8
    assert result.best_epoch is None and [epoch["epoch"] for epoch in result.epochs] == list(range(1, 9))
    assert evaluate(model, TokenisedDataset(data, make_tokenizer(), 16)).accuracy == 1.0
    names = changed(before, model)
    assert any(name.startswith("backbone.encoder.layer.0") for name in names)
    assert {name for name in names if name.startswith("heads.")} == {
        name for name in before if name.startswith("heads.2.")
    }
    assert not model.training and not model.frozen_for_distillation
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_batch_is_used_and_the_last_step_still_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    texts: list[tuple[int, ...]] = []
    sizes: list[int] = []

    class Recorder(FineTuningTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            assert self.optimizer is not None
            rates.append(self.optimizer.param_groups[0]["lr"])
            sizes.append(len(inputs["input_ids"]))
            texts.extend(tuple(row[row > 0].tolist()) for row in inputs["input_ids"])
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(fine_tuning_module, "FineTuningTrainer", Recorder)
    data = make_data()
    result = fine_tune(make_model(), make_tokenizer(), data, QUICK)
    assert result.steps == len(rates) == 16  # ceil(60 / 8) batches, twice
    assert sorted(set(sizes)) == [4, 8]
    dataset = TokenisedDataset(data, make_tokenizer(), 16)
    every = sorted(tuple(dataset[number]["input_ids"]) for number in range(60))
    assert sorted(texts[:60]) == sorted(texts[60:]) == every
    assert texts[:60] != texts[60:]  # another order
    assert max(rates) == pytest.approx(QUICK.learning_rate)
    # The first step of a warm-up starts from 0; no later one does.
    assert all(rate > 0 for rate in rates[1:])


def test_weight_decay_reaches_weights_only() -> None:
    """By its effect: without a gradient, AdamW changes a parameter by the decay alone."""
    model = make_model(dropout=0.0)
    settings = replace(QUICK, epochs=1, weight_decay=0.5, learning_rate=0.1, warmup_fraction=0, batch_size=1)
    with torch.no_grad():
        model.teacher_classifier.dense.bias.fill_(0.25)  # biases are 0 at first, which would hide a decay
    before = snapshot(model)

    class Still(FineTuningTrainer):
        def loss_and_logits(self, model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            loss, logits = super().loss_and_logits(model, inputs)
            return loss * 0, logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning_module, "FineTuningTrainer", Still)
        fine_tune(model, make_tokenizer(), make_data(1), settings)
    for name, value in model.state_dict().items():
        trained = not name.startswith(("heads.0.", "heads.1."))
        decays = trained and name.endswith("weight") and "LayerNorm" not in name
        torch.testing.assert_close(value, before[name] * (0.95 if decays else 1), msg=name)


def test_dev_scores_choose_the_epoch_whose_weights_stay(tmp_path: Path) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    # After the first epoch or two the accuracy cannot rise any more, so the last epoch is not the best.
    dev = make_data(30)
    settings = replace(QUICK, epochs=6, keep_checkpoints=10)
    result = fine_tune(model, tokenizer, make_data(), settings, dev=dev, run_dir=tmp_path / "run")
    scores = [epoch["dev_accuracy"] for epoch in result.epochs]
    assert len(scores) == 6 and max(scores) > scores[0]
    best = scores.index(max(scores))  # the first of equal ones
    assert result.best_epoch == best + 1 < 6
    kept = type(model).from_pretrained(tmp_path / "run" / f"checkpoint-{8 * (best + 1)}")
    last = type(model).from_pretrained(tmp_path / "run" / "checkpoint-48")
    assert changed(snapshot(kept), model) == set() and changed(snapshot(last), model) != set()
    assert evaluate(model, TokenisedDataset(dev, tokenizer, 16)).accuracy == max(scores)
    # The same without a folder to keep.
    again = make_model()
    assert fine_tune(again, tokenizer, make_data(), settings, dev=dev).best_epoch == result.best_epoch
    assert changed(snapshot(again), model) == set()


def test_macro_f1_may_choose() -> None:
    rare = ClassificationData(["the film was good"] * 19 + ["the film was bad"], None, [1] * 19 + [0], ["bad", "good"])
    settings = replace(QUICK, epochs=1, best_by="macro_f1")
    result = fine_tune(make_model(), make_tokenizer(), rare, settings, dev=rare)
    # Everything is "good" so far: right for 19 of 20, and F1 is 2 * 19 / 39 for one class and 0 for the other.
    assert result.epochs[0]["dev_accuracy"] == pytest.approx(0.95)
    assert result.epochs[0]["dev_macro_f1"] == pytest.approx(19 / 39)
    assert result.best_epoch == 1


def test_scores_against_their_definition() -> None:
    predicted, true = torch.randint(4, (50,)), torch.randint(4, (50,))
    true[true == 3] = 0  # a class that is predicted but does not occur
    scores = scores_of(predicted, true, num_labels=5)  # and one that does neither
    f1 = []
    for number in range(4):
        pairs = list(zip(predicted.tolist(), true.tolist(), strict=True))
        right = sum(p == t == number for p, t in pairs)
        precision = right / max(1, sum(p == number for p, _ in pairs))
        recall = right / max(1, sum(t == number for _, t in pairs))
        f1.append(2 * precision * recall / (precision + recall) if right else 0.0)
    assert scores["macro_f1"] == pytest.approx(sum(f1) / 4)
    assert scores["accuracy"] == pytest.approx((predicted == true).double().mean().item())
    bits = torch.nn.functional.one_hot(predicted, 5).bool(), torch.nn.functional.one_hot(true, 5).float()
    assert scores_of(*bits, num_labels=5) == pytest.approx(scores)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_loss_is_the_summed_cross_entropy(smoothing: float) -> None:
    logits = torch.randn(6, 4, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    targets = torch.full((6, 3), smoothing / 3, dtype=torch.float64)
    targets[torch.arange(6), labels] += 1 - smoothing
    expected = -(targets[:, None] * logits.log_softmax(-1)).sum(-1).sum(1).mean()
    torch.testing.assert_close(label_loss(logits, labels, label_smoothing=smoothing), expected)
    many = (torch.rand(6, 3) > 0.5).double()
    soft = many * (1 - smoothing) + smoothing / 2
    p = torch.sigmoid(logits)
    expected = -(soft[:, None] * p.log() + (1 - soft[:, None]) * (1 - p).log()).mean(-1).sum(1).mean()
    torch.testing.assert_close(label_loss(logits, many, multi_label=True, label_smoothing=smoothing), expected)


def test_label_smoothing_keeps_the_model_less_sure() -> None:
    def highest(smoothing: float) -> float:
        model = make_model()
        settings = replace(QUICK, epochs=8, label_smoothing=smoothing)
        fine_tune(model, make_tokenizer(), make_data(), settings)
        batch = batch_of(make_data())
        del batch["labels"]
        with torch.no_grad():
            return model(**batch).logits.softmax(-1).max(-1).values.mean().item()

    assert highest(0.4) < 0.85 < highest(0.0)


def test_multi_label_models_take_their_own_loss() -> None:
    model, data = make_model(problem_type="multi_label_classification"), make_multi_label_data()
    batch = batch_of(data)
    with torch.no_grad():
        output = model.eval()(**batch)
    torch.testing.assert_close(label_loss(output.logits[:, None], batch["labels"], multi_label=True), output.loss)
    result = fine_tune(model, make_tokenizer(), data, replace(QUICK, epochs=10), dev=data)
    found = evaluate(model, TokenisedDataset(data, make_tokenizer(), 16))
    assert found.accuracy == max(epoch["dev_accuracy"] for epoch in result.epochs) > 0.9
    assert found.predictions.shape == (60, 2) and found.predictions.dtype == torch.bool
    with pytest.raises(ValueError, match="single-label but the model is multi-label"):
        fine_tune(model, make_tokenizer(), make_data())


def test_joint_training_trains_everything_on_the_summed_loss() -> None:
    model, data = make_model(dropout=0.0), make_data()
    batch = batch_of(data)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, output_all_exits=True).all_logits
    expected = sum(functional.cross_entropy(logits[:, head], labels).item() for head in range(3))
    before = snapshot(model)
    still = replace(QUICK, epochs=1, batch_size=60, learning_rate=1e-9)
    assert train_jointly(model, make_tokenizer(), data, still).losses == [pytest.approx(expected, rel=1e-5)]

    result = train_jointly(model, make_tokenizer(), data, replace(QUICK, epochs=8), dev=data)
    unchanged = {name for name in before if torch.equal(before[name], model.state_dict()[name])}
    assert all(name.endswith(("key.bias", "position_ids", "token_type_ids")) for name in unchanged)
    final = result.epochs[-1]
    for layer in (1, 2, 3):
        assert final[f"dev_accuracy_layer_{layer}"] > 0.9
    assert final["dev_accuracy"] == pytest.approx(sum(final[f"dev_accuracy_layer_{i}"] for i in (1, 2, 3)) / 3)
    assert result.losses[-1] < 0.5 * result.losses[0] and not model.training


def test_same_seed_same_result() -> None:
    losses = [fine_tune(make_model(), make_tokenizer(), make_data(), QUICK).losses for _ in range(2)]
    assert losses[0] == losses[1]
    assert fine_tune(make_model(), make_tokenizer(), make_data(), replace(QUICK, seed=1)).losses != losses[0]


def test_evaluate() -> None:
    model = make_model()
    fine_tune(model, make_tokenizer(), make_data(), replace(QUICK, epochs=8))
    dataset = TokenisedDataset(make_data(13), make_tokenizer(), 16)
    model.train()
    full = evaluate(model, dataset, batch_size=5)
    assert model.training  # as it was before
    model.eval()
    assert full.exit_layers.tolist() == [3] * 13 and full.accuracy == full.macro_f1 == 1.0
    adaptive = evaluate(model, dataset, speed=1.0, batch_size=4)
    assert adaptive.exit_layers.tolist() == [1] * 13
    batch = next(dataset.batches(13))
    labels = batch.pop("labels")
    with torch.no_grad():
        output = model(**batch, speed=1.0)
    assert torch.equal(adaptive.predictions, output.logits.argmax(-1))
    torch.testing.assert_close(adaptive.uncertainties, output.uncertainty, rtol=1e-5, atol=1e-5)
    assert adaptive.accuracy == pytest.approx((output.logits.argmax(-1) == labels).double().mean().item())
    with pytest.raises(ValueError, match="no labels"):
        evaluate(model, TokenisedDataset(TextData(["the film"], None), make_tokenizer(), 16))
