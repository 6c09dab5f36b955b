"""Calls that code written for `BertForSequenceClassification` makes: its keywords, labels, `Trainer`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification
from helpers.families import make_model as make_family
from helpers.small_bert import NUM_LAYERS, assert_same, make_backbone_config, make_batch, make_model


@pytest.fixture(params=[False, True], ids=["unpatched", "patched"])
def either(request: pytest.FixtureRequest) -> FastBertForSequenceClassification:
    model = make_model()
    return fastbert_kernels.patch(model, backend="reference") if request.param else model


@torch.no_grad()
def test_tuples(either: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(3)
    labels = torch.tensor([0, 1, 2])
    output = either(ids, mask, speed=0.9)
    as_tuple = either(ids, mask, speed=0.9, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], output.logits) and len(as_tuple) == 3
    either.config.return_dict = False
    loss, logits, *_ = either(ids, mask, speed=0.9, labels=labels)
    assert loss == torch.nn.functional.cross_entropy(logits, labels)
    assert either(ids, mask, speed=0.9, labels=labels, return_dict=True).loss == loss


@pytest.mark.parametrize("speed", [0.0, 0.9])
@torch.no_grad()
def test_hidden_states_and_attentions(either: FastBertForSequenceClassification, speed: float) -> None:
    ids, mask = make_batch(3)
    bert = BertForSequenceClassification(make_backbone_config(num_labels=3)).eval()
    bert.bert.load_state_dict(either.backbone.state_dict(), strict=False)
    for model in (bert, either):
        model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    expected, output = bert(ids, mask, **asked), either(ids, mask, speed=speed, **asked)
    assert len(output.hidden_states) == NUM_LAYERS + 1 and len(output.attentions) == NUM_LAYERS
    for left, right in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(left[mask != 0], right[mask != 0], rtol=1e-4, atol=1e-5)
    for left, right in zip(output.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a patched model still is one
        plain = either(ids, mask, speed=speed)
    assert_same(output, plain)
    assert plain.hidden_states is None and output.all_logits is None
    either.config.output_hidden_states = True
    assert list(either(ids, mask, speed=speed)) == ["logits", "hidden_states", "uncertainty", "exit_layer"]
    empty = either(ids[:0], speed=speed, output_attentions=True)
    assert len(empty.hidden_states) == NUM_LAYERS + 1 and empty.attentions[0].shape == (0, 4, 12, 12)


@torch.no_grad()
def test_attentions_that_nobody_computes_are_refused(model: FastBertForSequenceClassification) -> None:
    with pytest.raises(ValueError, match="sdpa attention has no probabilities.*set_attn_implementation"):
        model(*make_batch(2), output_attentions=True)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra-small"])
@torch.no_grad()
def test_embeddings_and_positions_of_the_callers_own(family: str) -> None:
    model = make_family(family)
    ids, mask = make_batch(3)
    # RoBERTa's family counts no position for a token with the id of padding, which embeddings do not tell.
    ids[(ids == model.config.backbone_config.pad_token_id) & (mask == 1)] += 1
    expected = model(ids, mask, speed=0.9)
    positions = model.check_batch(ids, mask).position_ids
    for call in (model, fastbert_kernels.patch(model, backend="reference")):
        words = model.get_input_embeddings()(ids)
        assert_same(call(attention_mask=mask, inputs_embeds=words, speed=0.9), expected)
        assert_same(call(ids, mask, position_ids=positions, speed=0.9), expected)
        other = call(ids, mask, position_ids=positions[:1].flip(1), speed=0.9)
        assert not torch.allclose(other.logits, expected.logits)
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            call(ids, inputs_embeds=words)
        with pytest.raises(ValueError, match="rows of the backbone's table"):
            call(ids, mask, position_ids=positions + 1000)


@pytest.mark.parametrize("token", [50, -1, 10**12])
def test_token_ids_outside_the_vocabulary(either: FastBertForSequenceClassification, token: int) -> None:
    ids, mask = make_batch(3)
    ids[1, 2] = token
    for arguments in ((ids,), (ids, mask)):
        message = rf"token id {token} in row 1, but the model knows 50 ids.*resize_token_embeddings"
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            either(*arguments, speed=0.5)


@pytest.mark.parametrize("segment", [2, -1])
def test_token_types_outside_their_table(either: FastBertForSequenceClassification, segment: int) -> None:
    ids, mask = make_batch(3)
    segments = torch.zeros_like(ids)
    segments[1, 2] = segment
    with torch.no_grad(), pytest.raises(ValueError, match=rf"token_type_ids has {segment} in row 1, .* 2 segments"):
        either(ids, mask, token_type_ids=segments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "labels has 3, but the classes are 0 to 2"),
        ([0, -1, 1], "labels has -1"),
        ([0, 1], "one class id for each of 3 samples"),
        ([0.0, 1.0, 2.0], "give class ids"),
    ],
)
def test_labels_that_are_none(either: FastBertForSequenceClassification, labels: Any, message: str) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        either(*make_batch(3), labels=torch.tensor(labels))


@torch.no_grad()
def test_labels_of_other_forms(either: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(3)
    expected = either(ids, mask, labels=torch.tensor([0, 1, 2])).loss
    for labels in (torch.tensor([[0], [1], [2]]), torch.tensor([0, 1, 2]).int(), torch.eye(3)):
        torch.testing.assert_close(either(ids, mask, labels=labels).loss, expected)
    one = either(ids[:1], mask[:1], labels=torch.tensor([0])).loss
    torch.testing.assert_close(either(ids, mask, labels=torch.tensor([0, -100, -100])).loss, one)


def test_plain_trainer(model: FastBertForSequenceClassification, tmp_path: Path) -> None:
    ids, mask = make_batch(8)
    samples = [{"input_ids": ids[n], "attention_mask": mask[n], "labels": torch.tensor(n % 3)} for n in range(8)]
    arguments = TrainingArguments(
        str(tmp_path), report_to=[], max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        eval_dataset=samples,
        compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())},
    )
    trainer.train()
    scores = trainer.evaluate()
    predictions = trainer.predict(samples).predictions
    with torch.no_grad():
        logits = model.eval()(ids, mask).logits.numpy()
    np.testing.assert_allclose(predictions, logits, rtol=1e-4, atol=1e-5)
    assert scores["eval_accuracy"] == float((logits.argmax(-1) == np.arange(8) % 3).mean())
    assert not trainer.model_accepts_loss_kwargs  # Trainer itself divides the loss of accumulated batches
