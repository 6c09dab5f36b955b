from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast, Trainer

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf import training as training_module
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.training import (
    DISTILLATION,
    FINE_TUNING,
    DistillationTrainer,
    TrainingSettings,
    distil,
    distillation_loss,
    evaluate,
    fine_tune,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "the", "film", "was", "very"]
QUICK = TrainingSettings(epochs=2, learning_rate=2e-3, batch_size=8, max_length=16)

State = dict[str, torch.Tensor]


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def make_data(size: int = 60) -> ClassificationData:
    """Sentences of several lengths whose class is one word of theirs; 60 is no multiple of the batch size 8."""
    texts = [f"{'very ' * (i % 5)}the film was {'good' if i % 2 else 'bad'} {'very ' * (i % 3)}" for i in range(size)]
    return ClassificationData(texts, None, [i % 2 for i in range(size)], ["bad", "good"])


def make_model(num_layers: int = 3) -> FastBertForSequenceClassification:
    torch.manual_seed(0)
    backbone = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    return FastBertForSequenceClassification(FastBertConfig(backbone, num_labels=2, head_hidden_size=16))


def snapshot(module: torch.nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: State, module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture(scope="module")
def fine_tuned() -> FastBertForSequenceClassification:
    model = make_model()
    fine_tune(model, make_tokenizer(), make_data(), replace(QUICK, epochs=8))
    return model


def test_fine_tuning_learns_and_leaves_students_alone() -> None:
    model, data = make_model(), make_data()
    before = snapshot(model)
    result = fine_tune(model, make_tokenizer(), data, replace(QUICK, epochs=8))
    assert result.losses[-1] < 0.5 * result.losses[0] and len(result.losses) == 8
    assert evaluate(model, TokenisedDataset(data, make_tokenizer(), 16)).accuracy == 1.0
    names = changed(before, model)
    assert any(name.startswith("backbone.encoder.layer.0") for name in names)
    assert {name for name in names if name.startswith("heads.")} == {
        name for name in before if name.startswith("heads.2.")
    }
    assert not model.training and not model.frozen_for_distillation


def test_every_batch_is_used_and_the_last_step_still_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    sizes: list[int] = []

    class Recorder(Trainer):
        def training_step(self, model, inputs, *args, **kwargs):
            assert self.optimizer is not None
            rates.append(self.optimizer.param_groups[0]["lr"])
            sizes.append(len(inputs["input_ids"]))
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(training_module, "Trainer", Recorder)
    result = fine_tune(make_model(), make_tokenizer(), make_data(), QUICK)
    assert result.steps == len(rates) == 16  # ceil(60 / 8) batches, twice
    assert sum(sizes) == 120 and sorted(set(sizes)) == [4, 8]
    assert max(rates) == pytest.approx(QUICK.learning_rate)
    # The first step of a warm-up starts from 0; no later one does.
    assert all(rate > 0 for rate in rates[1:])


def test_weight_decay_reaches_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    decay: dict[str, float] = {}

    class Recorder(Trainer):
        def train(self, *args, **kwargs):
            names = {parameter: name for name, parameter in model.named_parameters()}
            for group in self.create_optimizer().param_groups:
                decay.update({names[parameter]: group["weight_decay"] for parameter in group["params"]})
            return super().train(*args, **kwargs)

    monkeypatch.setattr(training_module, "Trainer", Recorder)
    fine_tune(model, make_tokenizer(), make_data(8), replace(QUICK, epochs=1, weight_decay=0.2))
    assert decay.keys() == dict(model.named_parameters()).keys()
    for name, value in decay.items():
        exempt = name.endswith("bias") or "LayerNorm" in name
        assert value == (0.0 if exempt else 0.2), name


def test_distillation_trains_students_only(fine_tuned: FastBertForSequenceClassification) -> None:
    model, data, tokenizer = copy.deepcopy(fine_tuned), make_data(), make_tokenizer()
    before = snapshot(model)
    batch = next(TokenisedDataset(data, tokenizer, 16).batches(60))
    del batch["labels"]
    with torch.no_grad():
        loss_before = distillation_loss(model(**batch, output_all_exits=True).all_logits)
    result = distil(model, tokenizer, data, replace(QUICK, epochs=4))
    with torch.no_grad():
        loss_after = distillation_loss(model(**batch, output_all_exits=True).all_logits)
    assert loss_after < 0.5 * loss_before
    assert result.losses[-1] < result.losses[0]
    students = {name for name in before if name.startswith(("heads.0.", "heads.1."))}
    # The bias of the keys adds the same to every score of a softmax, so its gradient is rounding error or 0.
    assert changed(before, model) <= students
    assert changed(before, model) >= {name for name in students if not name.endswith("key.bias")}
    assert not model.training and not model.frozen_for_distillation
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_distillation_does_not_look_at_labels(fine_tuned: FastBertForSequenceClassification) -> None:
    data = make_data()
    flipped = replace(data, label_ids=[1 - label for label in data.label_ids])
    results = []
    for version in (data, flipped):
        model = copy.deepcopy(fine_tuned)
        results.append((distil(model, make_tokenizer(), version, QUICK).losses, snapshot(model)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


def test_teacher_is_in_eval_mode_while_students_train(
    fine_tuned: FastBertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: set[tuple[bool, bool, bool]] = set()
    calls: list[int] = []

    class Recorder(DistillationTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            modes.add((model.training, model.backbone.training, model.teacher_classifier.training))
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(training_module, "DistillationTrainer", Recorder)
    model = copy.deepcopy(fine_tuned)
    model.backbone.encoder.layer[0].register_forward_hook(lambda *_: calls.append(1))
    result = distil(model, make_tokenizer(), make_data(), QUICK)
    assert modes == {(True, False, False)}
    assert len(calls) == result.steps  # the backbone runs once per batch


def test_distillation_keeps_a_frozen_model_frozen(fine_tuned: FastBertForSequenceClassification) -> None:
    model = copy.deepcopy(fine_tuned)
    model.freeze_for_distillation()
    distil(model, make_tokenizer(), make_data(8), replace(QUICK, epochs=1))
    assert model.frozen_for_distillation
    fine_tune(model, make_tokenizer(), make_data(8), replace(QUICK, epochs=1))
    assert not model.frozen_for_distillation


def test_distillation_loss_is_the_sum_of_divergences() -> None:
    logits = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits.detach(), dim=-1)
    teacher = p[:, -1]
    expected = sum((teacher * (teacher / p[:, i]).log()).sum(-1).mean() for i in range(3))
    loss = distillation_loss(logits)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, -1].abs().max() == 0 and logits.grad[:, :-1].abs().min() > 0
    assert distillation_loss(logits[:, -1:].expand(-1, 4, -1)).item() == pytest.approx(0.0, abs=1e-12)


def test_same_seed_same_result(fine_tuned: FastBertForSequenceClassification) -> None:
    losses = [fine_tune(make_model(), make_tokenizer(), make_data(), QUICK).losses for _ in range(2)]
    assert losses[0] == losses[1]
    assert fine_tune(make_model(), make_tokenizer(), make_data(), replace(QUICK, seed=1)).losses != losses[0]


def test_bf16_training_leaves_no_trace_on_the_model() -> None:
    model = make_model()
    result = fine_tune(model, make_tokenizer(), make_data(), replace(QUICK, precision="bf16"))
    assert result.losses[-1] < result.losses[0]
    assert "forward" not in model.__dict__ and "_original_forward" not in model.__dict__
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    fresh = make_model()
    fresh.load_state_dict(model.state_dict())
    batch = next(TokenisedDataset(make_data(), make_tokenizer(), 16).batches(7))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, fresh.eval()(**batch).logits)


def test_checkpoints_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    fine_tune(make_model(), make_tokenizer(), make_data(8), replace(QUICK, epochs=1))
    assert list(tmp_path.rglob("*.safetensors")) == [] and list((tmp_path / "cwd").iterdir()) == []
    fine_tune(make_model(), make_tokenizer(), make_data(8), QUICK, checkpoint_dir=str(tmp_path / "saved"))
    assert len(list((tmp_path / "saved").glob("checkpoint-*/model.safetensors"))) == 2


def test_evaluate(fine_tuned: FastBertForSequenceClassification) -> None:
    dataset = TokenisedDataset(make_data(13), make_tokenizer(), 16)
    fine_tuned.train()
    full = evaluate(fine_tuned, dataset, batch_size=5)
    assert fine_tuned.training  # as it was before
    fine_tuned.eval()
    assert full.exit_layers.tolist() == [3] * 13 and full.accuracy == 1.0
    adaptive = evaluate(fine_tuned, dataset, speed=1.0, batch_size=4)
    assert adaptive.exit_layers.tolist() == [1] * 13
    batch = next(dataset.batches(13))
    labels = batch.pop("labels")
    with torch.no_grad():
        output = fine_tuned(**batch, speed=1.0)
    assert torch.equal(adaptive.predictions, output.logits.argmax(-1))
    torch.testing.assert_close(adaptive.uncertainties, output.uncertainty, rtol=1e-5, atol=1e-5)
    assert adaptive.accuracy == pytest.approx((output.logits.argmax(-1) == labels).double().mean().item())


def test_errors(fine_tuned: FastBertForSequenceClassification) -> None:
    empty = ClassificationData([], None, [], ["bad", "good"])
    with pytest.raises(ValueError, match="empty"):
        fine_tune(fine_tuned, make_tokenizer(), empty)
    with pytest.raises(ValueError, match="empty"):
        distil(fine_tuned, make_tokenizer(), empty)
    with pytest.raises(ValueError, match="empty"):
        evaluate(fine_tuned, TokenisedDataset(empty, make_tokenizer(), 16))
    with pytest.raises(ValueError, match="3 classes but the model has 2"):
        fine_tune(fine_tuned, make_tokenizer(), replace(make_data(), label_names=["a", "b", "c"]))
    with pytest.raises(ValueError, match="no student"):
        distil(make_model(num_layers=1), make_tokenizer(), make_data())


def test_defaults_differ_by_step() -> None:
    assert FINE_TUNING.learning_rate < DISTILLATION.learning_rate
