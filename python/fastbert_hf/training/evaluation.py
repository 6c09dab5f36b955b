"""How good a model's answers are: accuracy, macro F1, and a pass over a data set at a Speed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastbert_hf.by_class import macro_f1
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.resolution import Speed
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.outputs import predictions_of
from fastbert_hf.passages import Answers, answers_of_texts


@dataclass(frozen=True)
class EvaluationResult:
    """What a model does on a data set; every tensor is on the CPU, in the order of the data, for n texts.

    A text of several passages has one answer, as `answers_of_texts` gives it.

    Attributes:
        accuracy: part of the texts whose prediction is their label; multi-label: whose classes are all right.
        macro_f1: mean over the classes of their F1, of classes that occur or are predicted.
        labels: int64 [n], class ids; multi-label [n, N] of 0 and 1.
        predictions: int64 [n], class ids; multi-label bool [n, N].
        exit_layers: int64 [n], in 1..L.
        uncertainties: float32 [n], at the exit.
        sample_exit_layers: int64 [s], of every sample of the data set: `exit_layers`, unless texts have passages.
    """

    accuracy: float
    macro_f1: float
    labels: torch.Tensor
    predictions: torch.Tensor
    exit_layers: torch.Tensor
    uncertainties: torch.Tensor
    sample_exit_layers: torch.Tensor


@torch.no_grad()
def evaluate(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    speed: Speed | None = None,
    batch_size: int = 32,
) -> EvaluationResult:
    """Run `model` in eval mode over `dataset`, in its order, on the device the model is on.

    Args:
        model: left in the mode it was in.
        dataset: tokenised samples with labels.
        speed: as in the model's `forward`, but `None` is full depth for a calibrated model too.
        batch_size: samples per forward pass.

    Raises:
        ValueError: an empty data set, one without labels, or a Speed that the model refuses.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to evaluate: the data set is empty")
    if "labels" not in dataset[0]:
        raise ValueError("nothing to compare with: the data set has no labels")
    was_training = model.training
    model.eval()
    labels, outputs = [], []
    try:
        for batch in dataset.batches(batch_size):
            inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            output = model(**inputs, speed=0.0 if speed is None else speed)
            labels.append(batch["labels"])
            outputs.append((output.logits.cpu(), output.uncertainty.cpu(), output.exit_layer.cpu()))
    finally:
        model.train(was_training)
    samples = Answers(*map(torch.cat, zip(*outputs, strict=True)))
    text_of_sample = torch.tensor(dataset.text_of_sample)
    answers = answers_of_texts(model, samples, text_of_sample, dataset.num_texts, 0.0 if speed is None else speed)
    predicted = predictions_of(answers.logits, is_multi_label(model))
    true = labels_of_texts(torch.cat(labels), text_of_sample, dataset.num_texts)
    scores = scores_of(predicted, true, model.num_labels)
    return EvaluationResult(
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        labels=true,
        predictions=predicted,
        exit_layers=answers.exit_layer,
        uncertainties=answers.uncertainty,
        sample_exit_layers=samples.exit_layer,
    )


def is_multi_label(model: FastBertForSequenceClassification) -> bool:
    """Return True if a sample may have any number of the model's classes instead of exactly one."""
    return model.config.problem_type == "multi_label_classification"


def labels_of_texts(labels: torch.Tensor, text_of_sample: torch.Tensor, num_texts: int) -> torch.Tensor:
    """Return the labels [num_texts, ...] of texts from those of their samples [s, ...]."""
    of_texts = labels.new_empty(num_texts, *labels.shape[1:])
    of_texts[text_of_sample] = labels
    return of_texts


def scores_of(predictions: torch.Tensor, labels: torch.Tensor, num_labels: int) -> dict[str, float]:
    """Return accuracy and macro F1 as `EvaluationResult` defines them.

    Args:
        predictions: int64 [n], or bool [n, N] for a multi-label model.
        labels: int64 [n], or [n, N] of 0 and 1.
        num_labels: N.
    """
    if labels.dim() == 1:
        classes = torch.arange(num_labels)
        predicted, true = predictions[:, None] == classes, labels[:, None] == classes
    else:
        predicted, true = predictions.bool(), labels.bool()
    return {
        "accuracy": (predicted == true).all(dim=1).double().mean().item(),
        "macro_f1": macro_f1(true, predicted),
    }
