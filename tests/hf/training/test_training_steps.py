"""What all steps of training share: settings, precision, passages of long texts, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset
from fastbert_hf.training import (
    DISTILLATION,
    FINE_TUNING,
    DistillationSettings,
    LabelSettings,
    distill,
    evaluate,
    fine_tune,
    train_jointly,
)
from helpers.training import QUICK, QUICK_DISTILLATION, make_data, make_model, make_tokenizer


@pytest.mark.filterwarnings("ignore:uncertainty is not finite")
@pytest.mark.parametrize("step", [fine_tune, distill, train_jointly])
def test_a_run_that_diverges_is_an_error(step: Any) -> None:
    settings = replace(QUICK_DISTILLATION if step is distill else QUICK, learning_rate=1e30)
    with pytest.raises(ValueError, match="training diverged, .*; lower the learning rate"):
        step(make_model(), make_tokenizer(), make_data(), settings)


@pytest.mark.parametrize(("precision", "other"), [("fp32", "bf16"), ("bf16", "no")])
def test_the_precision_is_that_of_the_settings(precision: Any, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(QUICK, precision=precision, epochs=1)
    expected = fine_tune(make_model(), make_tokenizer(), make_data(), settings).losses
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", other)  # as `accelerate launch --mixed_precision` does
    assert fine_tune(make_model(), make_tokenizer(), make_data(), settings).losses == expected


def test_bf16_training_leaves_no_trace_on_the_model() -> None:
    model = make_model()
    result = fine_tune(model, make_tokenizer(), make_data(), replace(QUICK, precision="bf16"))
    assert result.losses[-1] < result.losses[0]
    distill(model, make_tokenizer(), make_data(), replace(QUICK_DISTILLATION, precision="bf16"))
    assert "forward" not in model.__dict__ and "_original_forward" not in model.__dict__
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    fresh = make_model()
    fresh.load_state_dict(model.state_dict())
    batch = next(TokenisedDataset(make_data(), make_tokenizer(), 16).batches(7))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, fresh.eval()(**batch).logits)


def test_errors() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    empty = ClassificationData([], None, [], ["bad", "good"])
    for step in (fine_tune, distill, train_jointly):
        with pytest.raises(ValueError, match="nothing to train on"):
            step(model, tokenizer, empty)  # type: ignore[operator]
    with pytest.raises(ValueError, match="empty"):
        evaluate(model, TokenisedDataset(empty, tokenizer, 16))
    with pytest.raises(ValueError, match="dev data is empty"):
        fine_tune(model, tokenizer, make_data(), dev=empty)
    with pytest.raises(ValueError, match="3 classes but the model has 2"):
        fine_tune(model, tokenizer, replace(make_data(), label_names=["a", "b", "c"]))
    with pytest.raises(ValueError, match="no labels"):
        fine_tune(model, tokenizer, TextData(["the film"], None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dev data has the classes good, bad but the training data bad, good"):
        fine_tune(model, tokenizer, make_data(), dev=replace(make_data(), label_names=["good", "bad"]))
    with pytest.raises(ValueError, match="no student"):
        distill(make_model(num_layers=1), tokenizer, make_data())
    with pytest.raises(ValueError, match="learns from labels"):
        distill(model, tokenizer, TextData(["the film"], None), replace(DISTILLATION, targets="mixed"))
    with pytest.raises(ValueError, match="run_dir"):
        fine_tune(model, tokenizer, make_data(), resume=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be above 0, got 0"),
        ("learning_rate", float("nan"), "learning_rate must be a finite number"),
        ("batch_size", 0, "batch_size must be an integer of at least 1, got 0"),
        ("batch_size", 2.0, "batch_size must be an integer"),
        ("warmup_fraction", 1.0, "warmup_fraction must be at least 0 and below 1"),
        ("weight_decay", -0.1, "weight_decay must be at least 0"),
        ("seed", True, "seed must be an integer"),
        ("seed", 2**32, "seed must be an integer of at least 0 and at most 4294967295, got 4294967296"),
        ("precision", "fp16", "precision must be one of fp32, bf16, got 'fp16'"),
        ("keep_checkpoints", 1, "keep_checkpoints must be an integer of at least 2"),
        ("best_by", "loss", "best_by must be one of accuracy, macro_f1"),
        ("label_smoothing", 1.0, "label_smoothing must be at least 0 and below 1"),
        ("objective", "mse", "objective must be one of kl, reverse_kl, ce"),
        ("temperature", 0, "temperature must be above 0"),
        ("targets", "none", "targets must be one of soft, hard, mixed"),
        ("stride", -1, "stride must be an integer of at least 0 and at most 127, got -1"),
        ("stride", 128, "stride must be an integer of at least 0 and at most 127, got 128"),
        ("hard_weight", 1.5, "hard_weight must be at least 0 and at most 1"),
        ("cache_limit_gb", 0, "cache_limit_gb must be above 0"),
        ("cache_dtype", "float16", "cache_dtype must be one of bfloat16, float32"),
    ],
)
def test_settings_are_checked(field: str, value: Any, message: str) -> None:
    kind = LabelSettings if hasattr(FINE_TUNING, field) else DistillationSettings
    with pytest.raises(ValueError, match=message):
        kind(**{field: value})


def test_defaults_differ_by_step() -> None:
    assert FINE_TUNING.learning_rate < DISTILLATION.learning_rate


def long_texts(size: int = 40) -> ClassificationData:
    """The one word that tells the class stands behind the eighth token, where texts are cut off below."""
    texts = [
        f"the film was {'very ' * (3 + i % 3)}{'good' if i % 2 else 'bad'}{' very' * (i % 4)}" for i in range(size)
    ]
    return ClassificationData(texts, None, [i % 2 for i in range(size)], ["bad", "good"])


def scores_by_text(model: Any, data: ClassificationData, head: int, stride: int) -> float:
    """Accuracy of an exit head, from passages of six words one at a time."""
    right = 0
    for text, label in zip(data.texts, data.label_ids, strict=True):
        words, step = text.split(), 6 - stride
        starts = range(0, max(len(words) - stride, 1), step)
        passages = [TextData([" ".join(words[start : start + 6])], None) for start in starts]
        batches = (next(TokenisedDataset(part, make_tokenizer(), 16).batches(1)) for part in passages)
        with torch.no_grad():
            every = [model(**batch, output_all_exits=True).all_logits[0, head] for batch in batches]
        right += int(torch.stack([logits.softmax(-1) for logits in every]).mean(0).argmax()) == label
    return right / len(data)


def test_long_texts_are_learned_in_passages_and_scored_as_texts() -> None:
    model, data, tokenizer = make_model(dropout=0.0), long_texts(), make_tokenizer()
    dev = long_texts(11)
    quick: dict[str, Any] = {"max_length": 8, "stride": 2}
    result = fine_tune(model, tokenizer, data, replace(QUICK, epochs=6, **quick), dev=dev)
    assert (model.config.trained_max_length, model.config.trained_stride, result.truncated) == (8, 2, 0)
    dataset = TokenisedDataset(dev, tokenizer, 8, stride=2)
    found = evaluate(model, dataset)
    assert found.accuracy == scores_by_text(model, dev, head=2, stride=2) == 1
    assert result.best_epoch is not None
    assert result.epochs[int(result.best_epoch) - 1]["dev_accuracy"] == found.accuracy
    assert evaluate(model, TokenisedDataset(dev, tokenizer, 8)).accuracy < 1  # cut off, the word is not there
    assert len(found.predictions) == len(found.uncertainties) == 11 < len(found.sample_exit_layers) == len(dataset)
    several = evaluate(model, dataset, speed=0.9)
    deepest = torch.zeros(11, dtype=torch.int64)
    for text, layer in zip(dataset.text_of_sample, several.sample_exit_layers.tolist(), strict=True):
        deepest[text] = max(int(deepest[text]), layer)
    assert torch.equal(several.exit_layers, deepest) and int(deepest.min()) < 3

    settings = replace(QUICK_DISTILLATION, epochs=1, **quick)
    epoch = distill(model, tokenizer, data, settings, dev=dev).epochs[0]
    for head in (0, 1):
        want = scores_by_text(model, dev, head, stride=2)
        assert epoch[f"dev_accuracy_layer_{head + 1}"] == pytest.approx(want)
