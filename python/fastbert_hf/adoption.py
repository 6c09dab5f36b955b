"""Adoption: a fine-tuned classifier of Transformers becomes a FastBERT, whose full depth is the classifier itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from fastbert_hf import backbones
from fastbert_hf.classifiers import PlainHead, plain_head
from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.heads import PooledHead
from fastbert_hf.modeling import FastBertForSequenceClassification

_REFUSED = "cannot be adopted"
# Classes of activations that compute what a pooled head's does.
_ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu", "GELUActivation": "gelu"}


def adopt(
    classifier: str | Path | PreTrainedModel, *, exit_layers: Sequence[int] | None = None
) -> FastBertForSequenceClassification:
    """Put student classifiers on a fine-tuned classifier of Transformers, for which no labels are needed.

    Embeddings, encoder layers, pooler and classifier stay as they are: full depth answers as the original does. The
    students are heads of the same kind, dense layer and classifier on the first token, and begin as copies of it.
    `training.distill` trains them on texts alone (Liu et al. 2020, section 3.2, step 2).

    Args:
        classifier: folder or hub name of a saved classifier, or the model itself, which is copied.
        exit_layers: layers that get a head, as in `FastBertConfig`; `None` means all.

    Returns:
        A model with the classifier's labels and kind of problem, in its precision (a saved one in float32), in eval
        mode.

    Raises:
        ValueError: a model that cannot be adopted, with the reason; the pickle of one that would run code.
        RuntimeError: the checkpoint has no classifier, only a backbone.
    """
    model: Any = classifier if isinstance(classifier, PreTrainedModel) else _load(str(classifier))
    head = _head_of(model)
    dense, last = (_linear(model, path) for path in (head.dense, head.classifier))
    config = FastBertConfig(
        backbone_config=copy.deepcopy(model.base_model.config),
        head_type="pooled",
        head_hidden_size=dense.out_features,
        head_pooling="first",
        head_num_dense_layers=1,
        head_activation=_activation_of(model, head),
        exit_layers=exit_layers,
        id2label=model.config.id2label,
        problem_type="regression" if model.num_labels == 1 else model.config.problem_type,
    )
    adopted: Any = FastBertForSequenceClassification(config)
    _copy_weights(model.base_model, adopted.backbone, type(model).__name__)
    for exit_head in adopted.heads:
        exit_head.dense[0].load_state_dict(dense.state_dict())
        exit_head.classifier.load_state_dict(last.state_dict())
    return adopted.to(last.weight.dtype).to(last.weight.device).eval()


def export_classifier(model: FastBertForSequenceClassification) -> PreTrainedModel:
    """Return the plain classifier of Transformers that a FastBERT is at full depth, with copies of its weights.

    Args:
        model: adopted, or with heads of that kind.

    Raises:
        ValueError: the teacher classifier is not of the kind that the backbone's classifier in Transformers has.
    """
    config = copy.deepcopy(model.config.backbone_config)
    config.id2label, config.label2id = model.config.id2label, model.config.label2id
    config.problem_type = model.config.problem_type
    plain: Any = AutoModelForSequenceClassification.from_config(config)
    head, teacher = plain_head(plain), model.teacher_classifier
    if (
        head is None
        or not isinstance(teacher, PooledHead)
        or (teacher.pooling, len(teacher.dense)) != ("first", 1)
        or teacher.activation != _activation_of(plain, head)
        or teacher.dense[0].weight.shape != _linear(plain, head.dense).weight.shape
    ):
        raise ValueError(
            f"the teacher classifier of this model is not what a {type(plain).__name__} has, so that it cannot be one; "
            "adopted models can"
        )
    _copy_weights(model.backbone, plain.base_model, type(plain).__name__)
    _linear(plain, head.dense).load_state_dict(teacher.dense[0].state_dict())
    _linear(plain, head.classifier).load_state_dict(teacher.classifier.state_dict())
    return plain.to(model.dtype).to(model.device).eval()


def _load(name_or_path: str) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type == FastBertConfig.model_type:
        raise ValueError(f"{name_or_path} is a FastBERT already; `fastbert distill` trains its students on")
    backbones.check_backbone_config(config)
    with backbones.pickles_refused(name_or_path):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True
        )
    if info["missing_keys"]:
        raise RuntimeError(
            f"{name_or_path} has no trained classifier to adopt: it lacks {', '.join(sorted(info['missing_keys']))}. "
            "`fastbert train --backbone` makes a classifier of a backbone, from labelled texts"
        )
    return model


def _head_of(model: Any) -> PlainHead:
    """Return where the classifier's head is.

    Raises:
        ValueError: the model cannot be adopted.
    """
    kind = type(model).__name__
    head = plain_head(model)
    if head is None:
        raise ValueError(
            f"{kind} {_REFUSED}: its head is not known. Known are the ...ForSequenceClassification of BERT, RoBERTa, "
            "XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, ERNIE, data2vec and MPNet in Transformers"
        )
    backbones.check_backbone_config(model.base_model.config)
    if model.num_labels > 1 and model.config.problem_type == "regression":
        raise ValueError(
            f"this {kind} {_REFUSED}: it gives {model.num_labels} scores, and early exits are for one. "
            "fastbert_kernels.patch(model) runs it as it is, at full depth"
        )
    return head


def _linear(model: Any, path: str) -> nn.Linear:
    module = model.get_submodule(path)
    if type(module) is not nn.Linear or module.bias is None:
        raise ValueError(
            f"{type(model).__name__} {_REFUSED}: its {path} is no torch.nn.Linear with a bias, but {module}; merge "
            "adapters first"
        )
    return module


def _activation_of(model: Any, head: PlainHead) -> str:
    if "." not in head.activation:
        return head.activation
    module = model.get_submodule(head.activation)
    name = _ACTIVATIONS.get(type(module).__name__)
    if name is None:
        raise ValueError(
            f"{type(model).__name__} {_REFUSED}: the activation of its head ({head.activation}) is {module}, and heads "
            f"have one of {', '.join(sorted(_ACTIVATIONS.values()))}"
        )
    return name


def _copy_weights(source: nn.Module, target: nn.Module, kind: str) -> None:
    """Copy the parameters of one backbone to another; either may have a pooler, which is left out."""

    def without_pooler(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value for name, value in state.items() if not name.startswith("pooler.")}

    state = without_pooler(source.state_dict())
    differing = sorted(state.keys() ^ without_pooler(target.state_dict()).keys())
    if differing:
        raise ValueError(
            f"{kind} {_REFUSED}: its backbone has or lacks {', '.join(differing[:3])}; merge adapters first"
        )
    target.load_state_dict(state, strict=False)
