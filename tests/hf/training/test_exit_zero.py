"""Exit zero: the fit against its definition, and what it does to a model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from fastbert_hf.calibration import calibrate, record_exits
from fastbert_hf.calibration.simulation import simulate
from fastbert_hf.data import TextData, TokenisedDataset
from fastbert_hf.exits.calibrated_setting import Objective
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.training import distill, distill_exit_zero
from fastbert_hf.training import exit_zero as module
from helpers.training import (
    QUICK_DISTILLATION,
    changed,
    make_data,
    make_multi_label_data,
    make_tokenizer,
    snapshot,
)


@pytest.fixture
def model(fine_tuned: Any) -> Any:
    return copy.deepcopy(fine_tuned).eval()


def logits_at(model: Any, data: TextData, head: int) -> torch.Tensor:
    batch = TokenisedDataset(TextData(data.texts, None), make_tokenizer(), 16)
    with torch.no_grad():
        return model(**batch.collate([*batch]), output_all_exits=True).all_logits[:, head]


def test_it_learns_what_the_teacher_says(model: Any) -> None:
    before, data, told = snapshot(model), make_data(200), []
    result = distill_exit_zero(model, make_tokenizer(), data, buckets=256, progress=lambda *step: told.append(step))
    assert model.config.exit_layers == [0, 1, 2, 3] and not model.training
    assert (result.texts, result.buckets, result.agreement) == (200, 256, 1.0) and 0 < result.used_buckets < 60
    assert told[-1] == ("fits of exit zero", 8, 8)
    for name, value in before.items():  # the other heads have moved by one place
        kind, place, *rest = name.split(".")
        moved = ".".join([kind, str(int(place) + 1), *rest]) if kind == "heads" else name
        assert torch.equal(model.state_dict()[moved], value)
    teacher, bag = logits_at(model, data, -1).softmax(-1), logits_at(model, data, 0).softmax(-1)
    assert (teacher - bag).abs().max() < 0.2
    assert model.seen_texts.among(data).trained_on.all()
    # Trained anew, it ends at the same place, whatever it was before.
    table = model.exit_zero.table.clone()
    distill_exit_zero(model, make_tokenizer(), data)
    torch.testing.assert_close(model.exit_zero.table, table, rtol=0, atol=1e-3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_minimum_is_one(multi_label: bool) -> None:
    answers = 2 * torch.randn(60, 3)
    features = sparse.csr_matrix(np.abs(np.random.default_rng(0).normal(size=(60, 12))).astype(np.float32))
    fit = module._Fit(features, answers, multi_label, seed=0)
    weights, bias = fit.run(lambda *_: None)
    assert fit.penalty in module._PENALTIES and 0 <= fit.agreement <= 1
    idf = torch.tensor(fit._idf)[:, None]
    scaled = (torch.tensor(weights).double() / idf).requires_grad_()
    offset = torch.tensor(bias).double().requires_grad_()
    logits = torch.tensor(features.toarray()).double() @ (scaled * idf) + offset
    if multi_label:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, answers.double().sigmoid()) * 3
    else:
        loss = torch.nn.functional.cross_entropy(logits, answers.double().softmax(-1))
    (loss + fit.penalty / 2 * scaled.square().sum()).backward()
    assert max(scaled.grad.abs().max(), offset.grad.abs().max()) < 1e-3


def test_multi_label(model: Any) -> None:
    data = make_multi_label_data(80)
    model.config.problem_type = "multi_label_classification"
    distill_exit_zero(model, make_tokenizer(), data, buckets=64)
    assert (logits_at(model, data, 0).sigmoid() - logits_at(model, data, -1).sigmoid()).abs().max() < 0.3


def test_calibration_switches_it_on_and_off(model: Any) -> None:
    tokenizer, data = make_tokenizer(), make_data(240)
    distill_exit_zero(model, tokenizer, data, buckets=256)
    records = record_exits(model, TokenisedDataset(data, tokenizer, 16))
    assert records.seen is not None and records.seen.all()
    records = replace(records, seen=None)  # the promise itself is not what is looked at here
    assert records.exit_layers == (0, 1, 2, 3) and records.logits.shape == (240, 4, 2)
    alone = simulate(records, ExitRule((0,), (1.0,)))
    assert set(alone.exit_layers) == {0} and alone.flops_speedup > 100 and alone.mean_exit_layer == 0
    for search in ("searched", "one_speed"):
        setting = calibrate(records, Objective(max_disagreement=0.1), search=search)
        assert 0 in setting.rule.layers and sum(setting.figures.exit_counts or ()) == setting.evidence.samples
        assert len(setting.figures.exit_counts or ()) == 4
    with torch.no_grad():
        model.exit_zero.table.neg_()  # what it is sure of is wrong now
        model.exit_zero.bias.neg_()
    spoilt = replace(record_exits(model, TokenisedDataset(data, tokenizer, 16)), seen=None)
    for search in ("searched", "one_speed"):
        assert 0 not in calibrate(spoilt, Objective(max_disagreement=0.1), search=search).rule.layers


def test_the_other_students_are_distilled_without_it(model: Any) -> None:
    tokenizer, data = make_tokenizer(), make_data(40)
    distill_exit_zero(model, tokenizer, data, buckets=64)
    before = snapshot(model)
    result = distill(model, tokenizer, TextData(data.texts, None), QUICK_DISTILLATION, dev=data)
    assert {name.split(".")[1] for name in changed(before, model)} == {"1", "2"}
    assert {name for name in result.epochs[0] if name.startswith("dev_accuracy_layer_")} == {
        "dev_accuracy_layer_1",
        "dev_accuracy_layer_2",
    }


def test_refusals(model: Any) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(ValueError, match="19 texts are too few"):
        distill_exit_zero(model, tokenizer, make_data(19))
    with pytest.raises(ValueError, match="power of 2"):
        distill_exit_zero(model, tokenizer, make_data(40), buckets=100)
    assert model.config.exit_layers == [1, 2, 3]
    with torch.no_grad():
        model.teacher_classifier.classifier.bias.fill_(torch.nan)
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="not finite"):
        distill_exit_zero(model, tokenizer, make_data(40))
