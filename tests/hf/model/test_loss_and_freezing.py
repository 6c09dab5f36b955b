"""What training asks of the model: losses, gradients, frozen parts."""

from __future__ import annotations

import pytest
import torch

from fastbert_hf import FastBertForSequenceClassification
from helpers.small_bert import make_batch, make_model


def test_loss_is_the_cross_entropy_of_the_returned_logits(model: FastBertForSequenceClassification) -> None:
    ids, mask = make_batch(4)
    labels = torch.tensor([0, 2, 1, 1])
    for arguments in ({}, {"speed": 0.9}, {"output_all_exits": True}):
        output = model(ids, mask, labels=labels, **arguments)
        assert output.to_tuple()[0] is output.loss
        torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    model(ids, mask, labels=labels).loss.backward()
    assert model.backbone.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.teacher_classifier.parameters())
    assert all(p.grad is None for p in model.student_classifiers.parameters())


def test_freezing(model: FastBertForSequenceClassification) -> None:
    assert not model.frozen_for_distillation
    model.freeze_for_distillation()
    model.train()
    assert model.frozen_for_distillation and model.training
    assert not any(module.training for module in model.backbone.modules())
    assert not model.teacher_classifier.training and model.student_classifiers[0].training
    ids, mask = make_batch(3)
    first, second = (model(ids, mask, output_all_exits=True) for _ in range(2))
    assert torch.equal(first.all_logits, second.all_logits)  # dropout is off
    first.all_logits.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is None for p in model.teacher_classifier.parameters())
    assert all(p.grad is not None for p in model.student_classifiers.parameters())

    model.unfreeze()
    assert not model.frozen_for_distillation
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not torch.equal(model(ids, mask).logits, model(ids, mask).logits)  # dropout is back


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    ids, mask = make_batch(3)
    gradients = []
    for checkpointing in (False, True):
        model = make_model()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for layer in model.backbone.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model(ids, mask, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append(model.backbone.encoder.layer[0].output.dense.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_loss_of_scores() -> None:
    model = make_model(problem_type="regression", num_labels=1)
    ids, mask = make_batch(4)
    labels = torch.tensor([0.5, -1.0, 2.0, 0.0])
    output = model(ids, mask, labels=labels)
    torch.testing.assert_close(output.loss, (output.logits[:, 0] - labels).square().mean())
    assert torch.equal(model(ids, mask, labels=labels[:, None]).loss, output.loss)
    for wrong in (labels.long(), labels[:2]):
        with pytest.raises(ValueError, match=r"labels of a model with one output must be floating point \[4\]"):
            model(ids, mask, labels=wrong)


def test_multi_label_loss() -> None:
    model = make_model(problem_type="multi_label_classification")
    ids, mask = make_batch(4)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    output = model(ids, mask, labels=labels)
    p = output.logits.double().sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-6)
    for wrong in (labels.long(), labels[:, :2], torch.tensor([0, 1, 2, 0])):
        with pytest.raises(ValueError, match=r"labels of a multi-label model must be floating point \[4, 3\]"):
            model(ids, mask, labels=wrong)
