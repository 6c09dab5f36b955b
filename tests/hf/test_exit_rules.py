"""Exit rules and calibrated settings at inference, sample by sample against the definition."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification, predict
from fastbert_hf.calibration import ExitRule, Objective, calibrate, record_exits, simulate
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.exits.calibrated_setting import SETTING_FILE
from fastbert_hf.exits.uncertainty import uncertainty_by
from fastbert_hf.training import distil, evaluate
from training_support import QUICK_DISTILLATION, make_data, make_model, make_tokenizer

EXIT_LAYERS = [1, 3, 4, 5]
EVERYBODY_LEAVES = ExitRule((1, 3, 4), criterion="patience", patience=1)
RULES = [
    EVERYBODY_LEAVES,
    ExitRule((1, 3, 4), (0.2, 0.4, 0.6)),
    ExitRule((3,), (0.5,)),
    ExitRule((1, 4), (0.1, 0.3), "confidence"),
    ExitRule((1, 3, 4), (0.4, 0.4, 0.4), "top_k_entropy", top_k=2),
    ExitRule((1, 3, 4), (0.4, 0.1, 0.6), "top_k_entropy", top_k=3),
    *(ExitRule((1, 3, 4), criterion="patience", patience=p) for p in (2, 3)),
    ExitRule((1, 4), criterion="patience", patience=2),
]


@pytest.fixture(scope="module")
def model() -> FastBertForSequenceClassification:
    torch.manual_seed(1)
    model = make_model(num_layers=5, num_labels=4, exit_layers=EXIT_LAYERS, id2label=dict(enumerate("0123"))).eval()
    for parameter in model.backbone.parameters():
        parameter.data *= 3 if parameter.dim() == 2 else 1
    # Every class is predicted, with uncertainties all over [0, 1].
    probe = torch.randint(4, 10, (64, 9), generator=torch.Generator().manual_seed(0))
    for head in model.heads:
        head.classifier.weight.data = 3 * torch.randn_like(head.classifier.weight)
    means = model(probe, output_all_exits=True).all_logits.mean(dim=0)
    for head, mean in zip(model.heads, means, strict=True):
        head.classifier.bias.data -= mean
    return model


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 10, (64, 9), generator=generator)
    lengths = torch.randint(1, 10, (64,), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(9) < lengths[:, None]).long()}


def make_data_of_four() -> ClassificationData:
    """300 sentences of four classes."""
    return ClassificationData(make_data(300).texts, None, [i % 4 for i in range(300)], list("0123"))


def uncertainty_of(logits: list[float], criterion: str, top_k: int) -> float:
    """By the definition, in double precision."""
    if criterion == "top_k_entropy":
        logits = sorted(logits)[-top_k:]
    total = sum(math.exp(x) for x in logits)
    p = [math.exp(x) / total for x in logits]
    if criterion == "confidence":
        return 1 - max(p)
    return -sum(x * math.log(x) for x in p if x) / math.log(len(p))


def exit_of(all_logits: list[list[float]], rule: ExitRule) -> int:
    """The exit layer of one sample, from the logits of all exit heads."""
    thresholds = dict(zip(rule.layers, rule.speeds, strict=False))
    answers: list[int] = []
    for layer, logits in zip(EXIT_LAYERS, all_logits, strict=True):
        if layer not in rule.layers:
            continue
        answers.append(logits.index(max(logits)))
        if rule.criterion == "patience":
            streak = len(list(itertools.takewhile(lambda answer: answer == answers[-1], reversed(answers))))
            if streak >= rule.patience:
                return layer
        elif uncertainty_of(logits, rule.criterion, rule.top_k) < thresholds[layer]:
            return layer
    return EXIT_LAYERS[-1]


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_samples_leave_where_the_rule_says(model, batch, rule, patched) -> None:
    everything = model(**batch, speed=rule, output_all_exits=True)
    layers = [exit_of(logits, rule) for logits in everything.all_logits.double().tolist()]
    assert len(set(layers)) > 1 or rule == EVERYBODY_LEAVES, "the rule should tell samples apart"
    assert everything.exit_layer.tolist() == layers
    try:
        if patched:
            fastbert_kernels.patch(model)
        with torch.inference_mode():
            output = model(**batch, speed=rule)
    finally:
        fastbert_kernels.unpatch(model)
    assert output.exit_layer.tolist() == layers
    rows = range(len(layers))
    heads = [EXIT_LAYERS.index(layer) for layer in layers]
    torch.testing.assert_close(output.logits, everything.all_logits[rows, heads], rtol=1e-4, atol=1e-4)
    for row in rows:
        expected = uncertainty_of(everything.all_logits[row, heads[row]].double().tolist(), rule.criterion, rule.top_k)
        assert output.uncertainty[row].item() == pytest.approx(expected, abs=1e-4)


def test_heads_that_are_not_asked_are_not_run(model, batch) -> None:
    asked = []
    hooks = [
        head.register_forward_hook(lambda *_, layer=layer: asked.append(layer))
        for layer, head in zip(EXIT_LAYERS, model.heads, strict=True)
    ]
    model(**batch, speed=ExitRule((3,), (1e-9,)))
    model(**batch, speed=[0, 1e-9, 0])
    model(**batch, speed=0)
    for hook in hooks:
        hook.remove()
    assert asked == [3, 5, 3, 5, 5]


def test_patience_starts_anew_after_an_answer_that_is_not_a_number(model, batch) -> None:
    from fastbert_hf.exits.decision import ExitDecision

    resolved = model.resolve_speed(ExitRule((1, 3, 4), criterion="patience", patience=2), None, 3)
    decision = ExitDecision(resolved, multi_label=False)
    sure, nan = [5.0, 0.0, 0.0, 0.0], [math.nan] * 4
    leaves = []
    for layer, logits in ((1, [sure, sure, nan]), (3, [nan, sure, nan]), (4, [sure, sure, sure])):
        leaves.append(decision.leaves(layer, torch.tensor(logits), torch.arange(3))[1].tolist())
    assert leaves == [[False] * 3, [False, True, False], [False, True, False]]


@pytest.fixture(scope="module")
def calibrated(model, tmp_path_factory):
    """A folder with a model, its tokenizer and its calibrated setting."""
    folder = tmp_path_factory.mktemp("calibrated")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    records = record_exits(model, TokenisedDataset(make_data_of_four(), tokenizer, 16))
    setting = calibrate(records, Objective(min_speedup=1.3), criterion="entropy")
    setting.save(folder)
    return folder, records, setting


def test_setting_is_the_default_of_the_loaded_model(calibrated, batch, recwarn) -> None:
    folder, _, setting = calibrated
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not recwarn.list and loaded.calibrated_setting == setting
    by_default, by_rule, full = loaded(**batch), loaded(**batch, speed=setting.rule), loaded(**batch, speed=0)
    assert torch.equal(by_default.exit_layer, by_rule.exit_layer) and torch.equal(by_default.logits, by_rule.logits)
    assert (full.exit_layer == 5).all() and not torch.equal(full.exit_layer, by_default.exit_layer)
    assert (loaded.train()(**batch).exit_layer == 5).all()


def test_setting_is_used_by_predict_and_pipeline(calibrated) -> None:
    folder, records, setting = calibrated
    loaded, tokenizer = FastBertForSequenceClassification.from_pretrained(folder), make_tokenizer()
    texts = make_data(300).texts
    expected = simulate(records, setting.rule)
    # In other batches than those of the records, rounding may move what is at its Speed to the last digit.
    heads = [EXIT_LAYERS.index(layer) for layer in setting.rule.layers]
    speeds = torch.tensor(setting.rule.speeds)
    far = ((uncertainty_by(records.logits[:, heads], "entropy") - speeds).abs() > 1e-5).all(dim=1)
    assert setting.rule.criterion == "entropy" and far.sum() > 250
    found = predict(loaded, tokenizer, texts).exit_layer
    assert found[far].tolist() == expected.exit_layers[far.numpy()].tolist()
    answers = pipeline("text-classification", model=loaded, tokenizer=tokenizer)(texts[:40])
    found = torch.tensor([int(answer["label"]) for answer in answers])
    assert found[far[:40]].tolist() == expected.predictions[:40][far[:40].numpy()].tolist()


def test_speedup_is_the_linear_knob(calibrated, batch) -> None:
    folder, records, setting = calibrated
    loaded = FastBertForSequenceClassification.from_pretrained(folder)
    for wanted in (1.1, 1.3):
        speed = setting.speed_for_speedup(wanted)
        assert torch.equal(loaded(**batch, speedup=wanted).exit_layer, loaded(**batch, speed=speed).exit_layer)
        reached = simulate(records, ExitRule.one_speed((1, 3, 4), speed)).flops_speedup
        assert reached == pytest.approx(wanted, rel=0.1)
    dataset = TokenisedDataset(make_data_of_four(), make_tokenizer(), 16)
    assert (evaluate(loaded, dataset).exit_layers == 5).all(), "None is full depth there"
    assert predict(loaded, make_tokenizer(), make_data(5).texts, speedup=1.3).exit_layer.shape == (5,)


def test_speedup_that_is_not_to_be_had_is_refused(model, calibrated, batch) -> None:
    with pytest.raises(ValueError, match="calibrate this one first"):
        model(**batch, speedup=2.0)
    loaded = FastBertForSequenceClassification.from_pretrained(calibrated[0])
    with pytest.raises(ValueError, match="no Speed gives a FLOPs speed-up of 50"):
        loaded(**batch, speedup=50)
    with pytest.raises(ValueError, match="either speed or speedup"):
        loaded(**batch, speed=0.5, speedup=2.0)
    with pytest.raises(ValueError, match="no Speed gives"):
        predict(loaded, make_tokenizer(), ["good"], speedup=0.1)


def test_saving_the_model_saves_its_setting(calibrated, tmp_path) -> None:
    folder, _, setting = calibrated
    FastBertForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path)
    assert (tmp_path / SETTING_FILE).read_text() == (folder / SETTING_FILE).read_text()
    assert FastBertForSequenceClassification.from_pretrained(tmp_path).calibrated_setting == setting


def test_setting_for_other_weights_is_left_out_with_a_warning(calibrated, tmp_path, batch) -> None:
    folder, _, _ = calibrated
    other = FastBertForSequenceClassification.from_pretrained(folder)
    other.heads[0].classifier.bias.data[0] += 1
    other.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="made for other weights"):
        loaded = FastBertForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.calibrated_setting is None and (loaded(**batch).exit_layer == 5).all()
    with pytest.warns(UserWarning, match="another dtype"):
        FastBertForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)


def test_training_drops_the_setting(calibrated) -> None:
    loaded = FastBertForSequenceClassification.from_pretrained(calibrated[0])
    distil(loaded, make_tokenizer(), make_data_of_four(), replace(QUICK_DISTILLATION, epochs=1))
    assert loaded.calibrated_setting is None


def test_broken_setting_is_an_error_with_its_path(calibrated, tmp_path) -> None:
    FastBertForSequenceClassification.from_pretrained(calibrated[0]).save_pretrained(tmp_path)
    (tmp_path / SETTING_FILE).write_text("{")
    with pytest.raises(ValueError, match=f"{SETTING_FILE} is not a calibration that can be read"):
        FastBertForSequenceClassification.from_pretrained(tmp_path)
