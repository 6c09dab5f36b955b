"""Data that a step cannot train on or score, said before anything runs."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from fastbert_hf.data import ClassificationData, TextData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training.class_weights import class_weights_of
from fastbert_hf.training.evaluation import is_multi_label
from fastbert_hf.training.settings import LabelSettings


def check_texts(data: TextData) -> None:
    """Raise `ValueError` when there is nothing to train on."""
    if len(data) == 0:
        raise ValueError("nothing to train on: the data set is empty")


def check_labels(model: FastBertForSequenceClassification, data: TextData, what: str = "the data") -> None:
    """Raise `ValueError` unless `data` has labels of the model's kind, for as many classes."""
    if not isinstance(data, ClassificationData):
        raise ValueError(f"{what} has no labels; give labelled texts")
    if model.config.gives_scores:
        raise ValueError(
            f"{what} has classes for labels and the model gives scores (one output): it is not trained on labels here; "
            "distill its students on texts alone"
        )
    if len(data.label_names) != model.num_labels:
        raise ValueError(f"{what} has {len(data.label_names)} classes but the model has {model.num_labels}")
    if data.multi_label != is_multi_label(model):
        kinds = ["single-label", "multi-label"]
        raise ValueError(
            f"{what} is {kinds[data.multi_label]} but the model is {kinds[not data.multi_label]}; "
            "set problem_type in the model's configuration to match"
        )


def vocabulary_of(model: FastBertForSequenceClassification) -> int:
    """Return the number of token ids that `model` knows."""
    return cast(nn.Embedding, model.get_input_embeddings()).num_embeddings


def check_vocabulary(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, *data: TextData | None
) -> None:
    """Raise `ValueError` for texts of which `tokenizer` makes token ids that `model` does not know.

    Texts are tokenised only where the tokenizer has such ids at all.
    """
    known = vocabulary_of(model)
    if max(tokenizer.get_vocab().values(), default=0) < known:
        return
    for part in data:
        if part is not None:
            TokenisedDataset(part, tokenizer, model.config.max_position_embeddings).check_ids(known)


def check_dev(model: FastBertForSequenceClassification, data: TextData, dev: ClassificationData | None) -> None:
    """Raise `ValueError` unless `dev` can score a model that trains on `data`."""
    if dev is None:
        return
    if len(dev) == 0:
        raise ValueError("the dev data is empty; leave it out to train without scores")
    check_labels(model, dev, "the dev data")
    if isinstance(data, ClassificationData) and data.label_names != dev.label_names:
        raise ValueError(
            f"the dev data has the classes {', '.join(dev.label_names)} but the training data "
            f"{', '.join(data.label_names)}; read the dev data with the label_names of the training data"
        )


def check_labelled(
    model: FastBertForSequenceClassification,
    data: ClassificationData,
    settings: LabelSettings,
    dev: ClassificationData | None,
) -> None:
    """Raise `ValueError` for what a step that learns from labels cannot use, before anything is tokenised."""
    check_texts(data)
    check_labels(model, data)
    check_dev(model, data, dev)
    class_weights_of(settings, data)
