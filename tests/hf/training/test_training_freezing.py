"""What the user froze: unchanged by every step, and frozen as before when it ends, however it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.training import distill, fine_tune, train_jointly
from helpers.training import QUICK, QUICK_DISTILLATION, changed, make_data, make_model, make_tokenizer, snapshot

STEPS: dict[str, tuple[Any, Any]] = {
    "fine_tune": (fine_tune, replace(QUICK, epochs=1)),
    "distil": (distill, replace(QUICK_DISTILLATION, epochs=1)),
    "train_jointly": (train_jointly, replace(QUICK, epochs=1)),
}
# By step, what it trains of a model with three layers.
TRAINED = {
    "fine_tune": ("backbone.", "heads.2."),
    "distil": ("heads.0.", "heads.1."),
    "train_jointly": ("backbone.", "heads."),
}


def freeze(model: FastBertForSequenceClassification) -> set[str]:
    """Freeze embeddings, a layer, one matrix, and a student classifier; return their names."""
    parts = [model.backbone.embeddings, model.layers[0], model.layers[2].output.dense, model.heads[0]]
    for part in parts:
        part.requires_grad_(False)
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def flags(model: FastBertForSequenceClassification) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("frozen_for_distillation", [False, True])
def test_what_is_frozen_stays_as_it_is(step: str, frozen_for_distillation: bool) -> None:
    model = make_model()
    frozen = freeze(model)
    if frozen_for_distillation:
        model.freeze_for_distillation()
    before, weights = flags(model), snapshot(model)
    function, settings = STEPS[step]
    function(model, make_tokenizer(), make_data(), settings)
    assert flags(model) == before and model.frozen_for_distillation == frozen_for_distillation
    trained = {name for name, _ in model.named_parameters() if name.startswith(TRAINED[step])} - frozen
    # The key's bias has no gradient: it drops out of the softmax.
    assert changed(weights, model) >= {name for name in trained if "key.bias" not in name}
    assert changed(weights, model) <= trained
    model.unfreeze()
    assert {name for name, flag in flags(model).items() if not flag} == frozen


@pytest.mark.parametrize("step", STEPS)
def test_what_is_frozen_stays_so_after_an_interruption(step: str, tmp_path: Path) -> None:
    model = make_model()
    freeze(model)
    before = flags(model)
    hook = model.heads[1].register_forward_hook(lambda *_: 1 / 0)
    last = model.heads[2].register_forward_hook(lambda *_: 1 / 0)
    function, settings = STEPS[step]
    with pytest.raises(ZeroDivisionError):
        function(model, make_tokenizer(), make_data(), settings, run_dir=tmp_path)
    assert flags(model) == before and not model.frozen_for_distillation
    hook.remove(), last.remove()
    with pytest.raises(ValueError, match=r"frozen parameters \['[a-z].* there and \[\] now"):
        function(make_model(), make_tokenizer(), make_data(), settings, run_dir=tmp_path, resume=True)
    weights = snapshot(model)
    function(model, make_tokenizer(), make_data(), settings, run_dir=tmp_path, resume=True)
    assert flags(model) == before and changed(weights, model)


@pytest.mark.parametrize("step", STEPS)
def test_a_model_that_is_frozen_as_a_whole_is_refused(step: str) -> None:
    model = make_model().requires_grad_(False)
    function, settings = STEPS[step]
    with pytest.raises(ValueError, match="every parameter that this step trains is frozen"):
        function(model, make_tokenizer(), make_data(), settings)
    assert not any(flags(model).values())


def test_unfreezing_gives_back_what_was_frozen_before() -> None:
    model = make_model()
    freeze(model)
    before = flags(model)
    model.unfreeze()
    assert flags(model) == before, "it was not frozen for distillation"
    model.freeze_for_distillation()
    model.freeze_for_distillation()
    assert {name for name, flag in flags(model).items() if flag} == {
        name for name in before if name.startswith("heads.1.")
    }
    model.heads[1].requires_grad_(False)  # no part of what is frozen for distillation
    model.unfreeze()
    assert flags(model) == before | {name: False for name in before if name.startswith("heads.1.")}
