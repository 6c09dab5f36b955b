"""Calls that one recorded graph answers from their ids on: as the unpatched model, with few launches and one wait."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import fastbert_kernels
from fastbert_hf.exits.rule import ExitRule
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.hosts import fastbert_hf as host
from fastbert_kernels.hosts import transformers_classifiers
from helpers.families import VOCABULARY, make_backbone_config, random_model
from helpers.graphs import HostileRecorder, graphed
from helpers.launch_count import CountedRecorder, LaunchCount
from helpers.models import padded_batch, spread_model
from helpers.patched import run

MOST_LAUNCHES = 6


def patched(model, monkeypatch, recorder=None, warm_up="on demand", module=host):
    """The model with recorded loops in place of a GPU's, in its own precision; `module` is its host file."""

    def prepare(layers, heads, dtype, backend):
        plain = LayerLoop([TorchLayer(layer) for layer in layers], list(heads), "reference")
        own = HostileRecorder() if recorder is None else recorder
        return graphed(plain, own, on_demand=False, whole_depth_samples=8)[0]

    monkeypatch.setattr(module, "prepare_encoder", prepare)
    return fastbert_kernels.patch(copy.deepcopy(model), backend="reference", warm_up=warm_up)


def packing_is_wrong(*arguments):
    raise AssertionError("the call was packed in front of the encoder")


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra-small", "mpnet"])
def test_answers_are_those_of_the_unpatched_model(monkeypatch, kind):
    model = random_model(kind)
    fast = patched(model, monkeypatch)
    monkeypatch.setattr(host, "_run", packing_is_wrong)
    for lengths in ([17], [3, 9, 1]):
        for left in (False,) if kind == "mpnet" else (False, True):
            batch = padded_batch(lengths, VOCABULARY)
            if left:
                batch = {name: tensor.flip(1) for name, tensor in batch.items()}
            for options in ({}, {"speed": torch.linspace(0.2, 0.9, len(lengths))}):
                want, got = run(model, batch, **options), run(fast, batch, **options)
                assert torch.equal(got.exit_layer, want.exit_layer)
                torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(got.uncertainty, want.uncertainty, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_plain_classifiers(monkeypatch, kind):
    torch.manual_seed(0)
    config = make_backbone_config(kind, num_labels=3)
    model, count = AutoModelForSequenceClassification.from_config(config).eval(), LaunchCount(monkeypatch)
    fast = patched(model, monkeypatch, CountedRecorder(count), module=transformers_classifiers)
    monkeypatch.setattr(transformers_classifiers, "pack", packing_is_wrong)
    for lengths in ([17], [3, 9, 1]):
        batch = padded_batch(lengths, VOCABULARY)
        batch["input_ids"] = batch["input_ids"].clamp(min=2) * batch["attention_mask"] + 1 - batch["attention_mask"]
        for inputs in (batch, {"input_ids": batch["input_ids"].clamp(min=2)}):
            want = run(model, inputs).logits
            torch.testing.assert_close(run(fast, inputs).logits, want, rtol=1e-4, atol=1e-5)
            with torch.inference_mode(), count:
                count.launches = count.waits = 0
                fast(**inputs)
            assert count.launches <= MOST_LAUNCHES and count.waits == 1


def test_plain_classifiers_that_are_not_padded_on_the_right(monkeypatch):
    config = make_backbone_config("roberta", num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    fast = patched(model, monkeypatch, module=transformers_classifiers)
    ids = torch.tensor([[7, 8, 1, 9], [7, 8, 9, 1]])  # 1 is the id of padding, from which positions are counted
    for mask in (torch.ones_like(ids), torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]])):
        batch = {"input_ids": ids, "attention_mask": mask}
        torch.testing.assert_close(run(fast, batch).logits, run(model, batch).logits, rtol=1e-4, atol=1e-5)


def test_few_launches_and_one_wait(monkeypatch):
    count = LaunchCount(monkeypatch)
    model = patched(spread_model(), monkeypatch, CountedRecorder(count))
    batch = padded_batch([17, 4])
    types = torch.zeros_like(batch["input_ids"])
    calls = [
        ({"input_ids": batch["input_ids"]}, {}),
        (batch, {"speed": 0.5}),
        ({**batch, "token_type_ids": types}, {"speed": 0.5}),
        ({**batch, "token_type_ids": types}, {}),
    ]
    for inputs, options in calls:
        for _ in range(2):  # recorded, then replayed
            with torch.inference_mode(), count:
                count.launches = count.waits = 0
                model(**inputs, **options)
        assert count.launches <= MOST_LAUNCHES and count.waits == 1
    monkeypatch.setattr(host, "answer_at_once", lambda *arguments: None)
    with torch.inference_mode(), count:
        count.launches = count.waits = 0
        model(**batch, speed=0.5)
    assert count.launches > 30 and count.waits > 1  # the count counts


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", 97, "token id 97 in row 1, but the model knows 97 ids"),
        ("attention_mask", 3, "attention_mask must hold only 1"),
        ("attention_mask", 0, r"no valid token in row\(s\) \[1\]"),
        ("token_type_ids", 2, "token_type_ids has 2 in row 1"),
    ],
)
def test_faults_are_told_as_by_the_model(monkeypatch, name, value, message):
    model, batch = patched(spread_model(), monkeypatch), padded_batch([5, 5])
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    run(model, batch, speed=0.5)
    batch[name][1] = value
    with pytest.raises(ValueError, match=message):
        run(model, batch, speed=0.5)


def test_forms_are_checked_in_front(monkeypatch):
    model, batch = patched(spread_model(), monkeypatch), padded_batch([5, 5])
    run(model, batch)
    with pytest.raises(ValueError, match="attention_mask must have the shape of input_ids"):
        run(model, {**batch, "attention_mask": batch["attention_mask"][:1]})
    with pytest.raises(TypeError, match="input_ids must be int64 or int32"):
        run(model, {**batch, "input_ids": batch["input_ids"].float()})
    with pytest.raises(ValueError, match=r"speed must lie in \[0, 1\]"):
        run(model, batch, speed=2.0)
    with pytest.raises(ValueError, match="attention_mask must hold only 1"):
        run(model, {**batch, "attention_mask": batch["attention_mask"] * 0.5})


def test_a_nan_is_told(monkeypatch):
    model = spread_model()
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[7] = math.nan
    model, batch = patched(model, monkeypatch), padded_batch([5, 5])
    batch["input_ids"] = torch.full_like(batch["input_ids"], 3)
    batch["input_ids"][1, 2] = 7
    with pytest.warns(RuntimeWarning, match=r"not finite for sample\(s\) \[1\]"):
        output = run(model, batch, speed=0.5)
    assert output.logits[0].isfinite().all()


def test_embeddings_that_were_resized_are_seen(monkeypatch):
    model, batch = patched(spread_model(), monkeypatch), padded_batch([5, 3])
    run(model, batch, speed=0.5)
    model.resize_token_embeddings(120)
    batch["input_ids"][0, 0] = 110
    want = run(fastbert_kernels.unpatch(copy.deepcopy(model)), batch, speed=0.5)
    torch.testing.assert_close(run(model, batch, speed=0.5).logits, want.logits, rtol=1e-4, atol=1e-4)


def test_graphs_are_recorded_for_one_speed_and_for_the_calibrated_rule(monkeypatch):
    model = spread_model()
    assert host.usual_rules(model) == [Rule()]
    model.calibrated_setting = SimpleNamespace(rule=ExitRule((1, 3), (0.4, 0.6)), precision=None)
    assert host.usual_rules(model) == [Rule(), Rule(layer_speeds=(0.4, None, 0.6, None))]
    recorder = HostileRecorder()
    fast = patched(model, monkeypatch, recorder, warm_up=[(16, 2, 8)])
    recorded = len(recorder.recorded)
    monkeypatch.setattr(host, "_run", packing_is_wrong)
    for speed in (None, 0.0, 0.5):
        run(fast, padded_batch([5, 8]), speed=speed)
    assert len(recorder.recorded) == recorded and recorder.replayed
