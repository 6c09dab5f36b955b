"""Self-distillation: objectives, targets, what is frozen, and the cache of frozen hidden states."""

from __future__ import annotations

import copy
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.data import TextData, TokenisedDataset, join_texts
from fastbert_hf.training import DistillationTrainer, distill, distillation_loss, fine_tune, label_loss
from fastbert_hf.training import distillation as distillation_module
from fastbert_hf.training.frozen_states import CacheShape, check_cache_size
from helpers.training import (
    QUICK,
    QUICK_DISTILLATION,
    changed,
    make_data,
    make_model,
    make_multi_label_data,
    make_tokenizer,
    snapshot,
)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension of p log(p / q)."""
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_losses_are_the_sum_of_divergences(temperature: float) -> None:
    logits, teacher = torch.randn(6, 3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    p, q = (teacher / temperature).softmax(-1), (logits / temperature).softmax(-1)
    expected = {
        "kl": sum(divergence(p, q[:, i]).mean() for i in range(3)),
        "reverse_kl": sum(divergence(q[:, i], p).mean() for i in range(3)),
        "ce": sum(-(p * q[:, i].log()).sum(-1).mean() for i in range(3)),
    }
    for objective, value in expected.items():
        loss = distillation_loss(logits, teacher, objective=objective, temperature=temperature)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, value * temperature**2)


def test_multi_label_losses_are_those_of_bernoulli_distributions() -> None:
    logits, teacher = torch.randn(6, 3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    p, q = torch.sigmoid(teacher)[:, None], torch.sigmoid(logits)
    both_p, both_q = torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1)
    kl = distillation_loss(logits, teacher, multi_label=True)
    torch.testing.assert_close(kl, divergence(both_p, both_q).mean(-1).sum(1).mean())
    reverse = distillation_loss(logits, teacher, objective="reverse_kl", multi_label=True)
    torch.testing.assert_close(reverse, divergence(both_q, both_p.expand_as(both_q)).mean(-1).sum(1).mean())


@pytest.mark.parametrize("objective", ["kl", "reverse_kl", "ce"])
def test_the_loss_of_scores_is_the_divergence_of_gaussians(objective: Any) -> None:
    logits, teacher = torch.randn(6, 3, 1, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    gaussians = [torch.distributions.Normal(mean, 1.0) for mean in (teacher[:, None].expand_as(logits), logits)]
    expected = torch.distributions.kl_divergence(*gaussians).sum((1, 2)).mean()
    for temperature in (1.0, 3.0):
        loss = distillation_loss(logits, teacher, objective=objective, temperature=temperature, scores=True)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_of_ce_is_that_of_kl(multi_label: bool, temperature: float) -> None:
    logits = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def gradient(objective: Any) -> torch.Tensor:
        loss = distillation_loss(logits, teacher, objective=objective, temperature=temperature, multi_label=multi_label)
        return torch.autograd.grad(loss, logits)[0]

    torch.testing.assert_close(gradient("ce"), gradient("kl"))
    assert (gradient("reverse_kl") - gradient("kl")).abs().max() > 1e-3
    distillation_loss(logits, teacher, multi_label=multi_label).backward()
    assert teacher.grad is None


def test_extreme_logits_give_finite_losses() -> None:
    logits = torch.tensor([[[200.0, -200.0]]], requires_grad=True)
    for objective in ("kl", "reverse_kl", "ce"):
        for multi_label in (False, True):
            teacher = torch.tensor([[-200.0, 200.0]])
            loss = distillation_loss(logits, teacher, objective=objective, multi_label=multi_label)  # type: ignore[arg-type]
            assert torch.isfinite(loss) and loss > 100
            assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_students_alone_learn(fine_tuned: FastBertForSequenceClassification) -> None:
    model, data, tokenizer = copy.deepcopy(fine_tuned), make_data(), make_tokenizer()
    before = snapshot(model)
    batch = next(TokenisedDataset(data, tokenizer, 16).batches(60))
    del batch["labels"]

    def distance() -> float:
        with torch.no_grad():
            logits = model(**batch, output_all_exits=True).all_logits
        return distillation_loss(logits[:, :-1], logits[:, -1]).item()

    loss_before = distance()
    result = distill(model, tokenizer, data, replace(QUICK_DISTILLATION, epochs=6), dev=data)
    assert distance() < 0.5 * loss_before
    assert result.losses[-1] < result.losses[0]
    assert "dev_accuracy_layer_2" in result.epochs[-1] and "dev_accuracy_layer_3" not in result.epochs[-1]
    students = {name for name in before if name.startswith(("heads.0.", "heads.1."))}
    # The bias of the keys adds the same to every score of a softmax, so its gradient is rounding error or 0.
    assert changed(before, model) <= students
    assert changed(before, model) >= {name for name in students if not name.endswith("key.bias")}
    assert not model.training and not model.frozen_for_distillation
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_subset_of_exit_layers_of_pooled_heads_learns() -> None:
    model = make_model(num_layers=4, head_type="pooled", head_pooling="mean", exit_layers=[2, 4])
    fine_tune(model, make_tokenizer(), make_data(), replace(QUICK, epochs=4))
    before = snapshot(model)
    result = distill(model, make_tokenizer(), make_data(), replace(QUICK_DISTILLATION, epochs=4), dev=make_data(20))
    assert changed(before, model) == {name for name in before if name.startswith("heads.0.")}
    assert result.losses[-1] < result.losses[0]


def test_text_without_labels_is_enough(fine_tuned: FastBertForSequenceClassification) -> None:
    data = make_data()
    flipped = replace(data, label_ids=[1 - label for label in data.label_ids])
    results = []
    for version in (data, flipped, TextData(data.texts, None)):
        model = copy.deepcopy(fine_tuned)
        results.append((distill(model, make_tokenizer(), version, QUICK_DISTILLATION).losses, snapshot(model)))
    for losses, state in results[1:]:
        assert losses == results[0][0]
        assert all(torch.equal(value, state[name]) for name, value in results[0][1].items())
    more = join_texts(data, TextData(["the very very film", "good good"], None))
    settings = replace(QUICK_DISTILLATION, batch_size=31)
    assert distill(copy.deepcopy(fine_tuned), make_tokenizer(), more, settings).steps == 4


@pytest.mark.parametrize(("targets", "weight"), [("soft", 0.0), ("mixed", 0.3), ("hard", 1.0)])
@pytest.mark.parametrize("multi_label", [False, True])
def test_targets(targets: Any, weight: float, multi_label: bool) -> None:
    """The loss of the first step, over all samples, against the two losses mixed by hand."""
    model = make_model(problem_type="multi_label_classification" if multi_label else None)
    data = make_multi_label_data(20) if multi_label else make_data(20)
    batch = next(TokenisedDataset(data, make_tokenizer(), 16).batches(20))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**batch, output_all_exits=True).all_logits
    students, teacher = logits[:, :-1], logits[:, -1]
    soft = distillation_loss(students, teacher, objective="reverse_kl", temperature=2.0, multi_label=multi_label)
    hard = label_loss(students, labels, multi_label=multi_label)
    settings = replace(
        QUICK_DISTILLATION,
        epochs=1,
        batch_size=20,
        objective="reverse_kl",
        temperature=2.0,
        targets=targets,
        hard_weight=0.3,
    )
    expected = (1 - weight) * soft + weight * hard
    assert distill(model, make_tokenizer(), data, settings).losses == [pytest.approx(expected.item(), rel=1e-5)]


def test_teacher_is_in_eval_mode_and_the_backbone_runs_once_per_batch(
    fine_tuned: FastBertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: set[tuple[bool, ...]] = set()
    rates: list[float] = []
    calls: list[bool] = []

    class Recorder(DistillationTrainer):
        def loss_and_logits(self, model: Any, inputs: Any) -> Any:
            parts = (model, self.fastbert.student_classifiers[0], self.fastbert.backbone)
            modes.add((*(part.training for part in parts), self.fastbert.teacher_classifier.training))
            assert self.optimizer is not None
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().loss_and_logits(model, inputs)

    monkeypatch.setattr(distillation_module, "DistillationTrainer", Recorder)
    model = copy.deepcopy(fine_tuned)
    model.layers[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    result = distill(model, make_tokenizer(), make_data(), replace(QUICK_DISTILLATION, epochs=3))
    assert modes == {(True, True, False, False)}
    assert calls == [False] * result.steps
    # The known fault: a learning rate that reaches 0 before the epochs end.
    assert result.steps == len(rates) == 24 and all(rate > 0 for rate in rates[1:])
    assert all(epoch["learning_rate"] > 0 for epoch in result.epochs)


def test_weight_decay_reaches_the_weights_of_students_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its effect: without a gradient, AdamW changes a parameter by the decay alone."""

    class Still(DistillationTrainer):
        def loss_and_logits(self, model: Any, inputs: Any) -> Any:
            loss, logits = super().loss_and_logits(model, inputs)
            return loss * 0, logits

    monkeypatch.setattr(distillation_module, "DistillationTrainer", Still)
    model = make_model(dropout=0.0)
    with torch.no_grad():
        model.student_classifiers[0].dense.bias.fill_(0.25)  # biases are 0 at first, which would hide a decay
    before = snapshot(model)
    settings = dict(epochs=1, weight_decay=0.5, learning_rate=0.1, warmup_fraction=0, batch_size=1)
    distill(model, make_tokenizer(), make_data(1), replace(QUICK_DISTILLATION, **settings))
    for name, value in model.state_dict().items():
        decays = name.startswith(("heads.0.", "heads.1.")) and name.endswith("weight")
        torch.testing.assert_close(value, before[name] * (0.95 if decays else 1), msg=name)


def test_a_frozen_model_is_frozen_again_behind_every_step(fine_tuned: FastBertForSequenceClassification) -> None:
    model = copy.deepcopy(fine_tuned)
    model.freeze_for_distillation()
    distill(model, make_tokenizer(), make_data(8), replace(QUICK_DISTILLATION, epochs=1))
    assert model.frozen_for_distillation
    before = snapshot(model)
    fine_tune(model, make_tokenizer(), make_data(8), replace(QUICK, epochs=1))
    assert model.frozen_for_distillation, "as before"
    assert any(name.startswith("backbone.") for name in changed(before, model)), "but not within the step"


@pytest.mark.parametrize("exit_layers", [None, [2, 3]])
def test_the_cache_saves_the_backbone_and_changes_nothing(tmp_path: Path, exit_layers: list[int] | None) -> None:
    data, tokenizer = make_data(), make_tokenizer()
    results = {}
    for dtype in (None, "float32", "bfloat16"):
        model = make_model(exit_layers=exit_layers)
        samples: list[int] = []
        model.layers[0].register_forward_hook(lambda _, inputs, __, seen=samples: seen.append(len(inputs[0])))
        settings = replace(QUICK_DISTILLATION, epochs=4)
        if dtype is not None:
            settings = replace(settings, cache_dir=tmp_path / "cache", cache_dtype=dtype)  # type: ignore[arg-type]
        results[dtype] = distill(model, tokenizer, data, settings).losses
        assert sum(samples) == (240 if dtype is None else 60)
        if dtype is not None:
            assert list((tmp_path / "cache").iterdir()) == []
    assert results["float32"] == pytest.approx(results[None], rel=1e-5)
    assert results["bfloat16"] == pytest.approx(results[None], rel=1e-2)
    assert results["bfloat16"] != results["float32"]


def test_the_cache_serves_left_padding_and_dev_data(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    settings = replace(QUICK_DISTILLATION, epochs=3)
    cached = replace(settings, cache_dir=tmp_path, cache_dtype="float32")
    plain, from_cache = (
        distill(make_model(), tokenizer, make_data(), choice, dev=make_data(21)) for choice in (settings, cached)
    )
    assert from_cache.losses == pytest.approx(plain.losses, rel=1e-5)
    dev_losses = [[epoch["dev_loss"] for epoch in result.epochs] for result in (plain, from_cache)]
    assert dev_losses[1] == pytest.approx(dev_losses[0], rel=1e-5)


def test_one_epoch_writes_no_cache(tmp_path: Path) -> None:
    settings = replace(QUICK_DISTILLATION, epochs=1, cache_dir=tmp_path / "cache")
    distill(make_model(), make_tokenizer(), make_data(), settings)
    assert not (tmp_path / "cache").exists()


def test_the_cache_refuses_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = CacheShape([128] * 1000, num_students=11, hidden_size=768, num_labels=2, dtype=torch.float32)
    states = 128 * 1000 * 11 * 768 * 4
    assert shape.num_bytes == states + 1000 * (2 * 4 + 1)
    check_cache_size(shape, tmp_path, limit_gb=5)
    with pytest.raises(
        ValueError, match=r"4.33 GB \(128000 tokens x 11 exit layers x 768\).*limit of 4 GB; .*bfloat16"
    ):
        check_cache_size(shape, tmp_path, limit_gb=4)
    check_cache_size(replace(shape, dtype=torch.bfloat16), tmp_path, limit_gb=4)
    usage = namedtuple("usage", "total used free")(10**10, 10**10 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="4.33 GB .* has 1 GB free; choose another folder"):
        check_cache_size(shape, tmp_path, limit_gb=5)
    monkeypatch.undo()

    model = make_model()
    before = snapshot(model)
    settings = replace(QUICK_DISTILLATION, cache_dir=tmp_path / "cache", cache_limit_gb=1e-6)
    with pytest.raises(ValueError, match="limit of 1e-06 GB"):
        distill(model, make_tokenizer(), make_data(), settings, run_dir=tmp_path / "run")
    assert list((tmp_path / "cache").iterdir()) == [] and not (tmp_path / "run" / "run.json").exists()
    assert changed(before, model) == set() and not model.frozen_for_distillation
