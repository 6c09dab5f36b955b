"""Adoption: a fine-tuned classifier of Transformers becomes a FastBERT, whose full depth is the classifier itself."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from fastbert_hf import backbone_faults, backbones
from fastbert_hf.classifiers import PlainHead, plain_head
from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.heads import PooledHead
from fastbert_hf.modeling import FastBertForSequenceClassification

_REFUSED = "cannot be adopted"
# Classes of activations that compute what a pooled head's does.
_ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu", "GELUActivation": "gelu"}
# What checkpoints of classifiers have beside the classifier, which no forward of theirs reads.
_NOT_READ = re.compile(
    r"(^|\.)(pooler|lm_head|cls|discriminator_predictions|vocab_\w+)\.|(^|\.)(position|token_type)_ids$"
)
# Random texts on which the answers before and after are compared: how many, and the tokens of the longest.
_TEXTS, _TOKENS = 4, 24
# What differs at most, over the largest logit: rounding. In 16 bits the order of a few operations may differ.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}
_ROUNDING_16 = 0.05


def adopt(
    classifier: str | Path | PreTrainedModel,
    *,
    exit_layers: Sequence[int] | None = None,
    student_pooling: str = "mean",
) -> FastBertForSequenceClassification:
    """Put student classifiers on a fine-tuned classifier of Transformers, for which no labels are needed.

    Embeddings, encoder layers, pooler and classifier stay as they are: full depth answers as the original does. The
    students are heads of the same kind, dense layer and classifier, and begin as copies of it, but look at the mean of
    all tokens: the first one was trained to sum up a text for the last layer only.
    `training.distill` trains them on texts alone (Liu et al. 2020, section 3.2, step 2).

    Args:
        classifier: folder or hub name of a saved classifier, or the model itself, which is copied.
        exit_layers: layers that get a head, as in `FastBertConfig`; `None` means all. The last one alone: no student,
            so that every text runs to full depth.
        student_pooling: of the students: "mean", "max", or "first" for that of the classifier.

    Returns:
        A model with the classifier's labels and kind of problem, in its precision (a saved one in float32), in eval
        mode.

    Raises:
        TypeError: `classifier` is none of these, such as a wrapper of a model.
        ValueError: a model that cannot be adopted, with the reason; the pickle of one that would run code.
        RuntimeError: the checkpoint has no classifier, only a backbone.
    """
    if not isinstance(classifier, str | Path | PreTrainedModel):
        kind = f"{type(classifier).__module__}.{type(classifier).__qualname__}"
        raise TypeError(
            f"classifier must be a folder, a name on the hub or a model of Transformers, not a {kind}; of a wrapper, "
            "give the model in it"
        )
    model: Any = classifier if isinstance(classifier, PreTrainedModel) else _load(str(classifier))
    head = _head_of(model)
    dense, last = (_linear(model, path) for path in (head.dense, head.classifier))
    if last.out_features != model.num_labels or len(model.config.id2label) != model.num_labels:
        raise ValueError(
            f"this {type(model).__name__} {_REFUSED}: its {head.classifier} has {last.out_features} outputs, and its "
            f"configuration names {len(model.config.id2label)} classes; set config.id2label to what is there"
        )
    backbone_config = _config_of_backbone(model)
    config = FastBertConfig(
        backbone_config=backbone_config,
        head_type="pooled",
        head_hidden_size=dense.out_features,
        head_pooling="first",
        head_num_dense_layers=1,
        head_activation=_activation_of(model, head),
        exit_layers=exit_layers,
        student_pooling=student_pooling,
        id2label=model.config.id2label,
        problem_type="regression" if model.num_labels == 1 else model.config.problem_type,
    )
    adopted: Any = FastBertForSequenceClassification(config)
    adopted = adopted.to(last.weight.dtype)  # before numbers are copied, which are not to be rounded
    _copy_weights(model.base_model, adopted.backbone, type(model).__name__)
    for exit_head in adopted.heads:
        exit_head.dense[0].load_state_dict(dense.state_dict())
        exit_head.classifier.load_state_dict(last.state_dict())
    adopted = adopted.to(last.weight.device).eval()
    _check_same_answers(model, adopted)
    return adopted


def export_classifier(model: FastBertForSequenceClassification) -> PreTrainedModel:
    """Return the plain classifier of Transformers that a FastBERT is at full depth, with copies of its weights.

    Args:
        model: adopted, or with heads of that kind.

    Raises:
        ValueError: the teacher classifier is not of the kind that the backbone's classifier in Transformers has.
    """
    config = copy.deepcopy(model.config.backbone_config)
    # Of a score, the original's stays: by it Transformers' pipeline decides whether to take the sigmoid.
    if not (model.config.gives_scores and config.num_labels == 1):
        config.problem_type = model.config.problem_type
    config.id2label, config.label2id = model.config.id2label, model.config.label2id
    plain: Any = AutoModelForSequenceClassification.from_config(config)
    plain = plain.to(model.dtype)  # before numbers are copied, which are not to be rounded
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
    return plain.to(model.device).eval()


def _load(name_or_path: str) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type == FastBertConfig.model_type:
        raise ValueError(f"{name_or_path} is a FastBERT already; `fastbert distill` trains its students on")
    backbone_faults.check_backbone_config(config)
    with backbones.pickles_refused(name_or_path):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True
        )
    if info["missing_keys"]:
        raise RuntimeError(
            f"{name_or_path} has no trained classifier to adopt: it lacks {', '.join(sorted(info['missing_keys']))}. "
            "`fastbert train --backbone` makes a classifier of a backbone, from labelled texts"
        )
    unknown = sorted(name for name in info["unexpected_keys"] if not _NOT_READ.search(name))
    if unknown:
        raise ValueError(
            f"{name_or_path} {_REFUSED}: its weights have {', '.join(unknown[:3])}, of which a {type(model).__name__} "
            "of Transformers knows nothing, so that it would answer otherwise than the model that was saved"
        )
    return model


def _config_of_backbone(model: Any) -> Any:
    """Return a copy of the backbone's configuration, which says what the modules of the model do now."""
    config = copy.deepcopy(model.base_model.config)
    # RoBERTa's family counts positions from it; a configuration may have been given another one since.
    padding_id = backbones.uncounted_id(model.base_model)
    if padding_id is not None:
        config.pad_token_id = padding_id
    return config


def _check_same_answers(model: Any, adopted: FastBertForSequenceClassification) -> None:
    """Raise `ValueError` where full depth does not give some random texts the logits that the original gives them."""
    kind, modes = type(model).__name__, [(module, module.training) for module in model.modules()]
    texts = _random_texts(adopted)
    # With autograd on, whoever accelerates the model leaves the answer to its own modules, and may say so.
    autograd = not any(parameter.is_inference() for parameter in model.parameters())
    try:
        model.eval()
        with torch.inference_mode(not autograd), torch.set_grad_enabled(autograd), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            want = model(**texts, return_dict=True).logits.detach()
    finally:
        for module, training in modes:
            module.training = training
    if not bool(want.isfinite().all()):
        raise ValueError(
            f"this {kind} {_REFUSED}: its answers to random texts are not finite numbers; look for NaN or infinity in "
            "its weights"
        )
    with torch.no_grad():
        got = adopted(**texts, speed=0.0).logits
    difference, largest = float((got - want).abs().max()), max(1.0, float(want.abs().max()))
    if not difference <= _ROUNDING.get(adopted.dtype, _ROUNDING_16) * largest:
        raise ValueError(
            f"this {kind} {_REFUSED}: without its modules' own code it answers otherwise (a logit differs by "
            f"{difference:.2g}), so something in it is not as its configuration says: a hook, a forward, an activation "
            "or another part that was changed"
        )


def _random_texts(model: FastBertForSequenceClassification) -> dict[str, torch.Tensor]:
    """Return a padded batch: ids, mask and, where the backbone has segments, those."""
    generator = torch.Generator().manual_seed(0)
    length = min(_TOKENS, model.config.max_position_embeddings)
    ids = torch.randint(model.config.vocab_size, (_TEXTS, length), generator=generator)
    padding = model.config.backbone_config.pad_token_id or 0
    ids[0, length // 2] = padding  # a token that RoBERTa's family counts no position for
    lengths = torch.linspace(length, 1, _TEXTS).round()[:, None]
    mask = (torch.arange(length) < lengths).long()
    texts = {"input_ids": ids.where(mask == 1, padding), "attention_mask": mask}
    if backbones.num_segments(model.backbone) > 1:
        texts["token_type_ids"] = torch.randint(2, mask.shape, generator=generator) * mask
    return {name: tensor.to(model.device) for name, tensor in texts.items()}


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
    backbone_faults.check_backbone_config(model.base_model.config)
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

    state, expected = without_pooler(source.state_dict()), without_pooler(target.state_dict())
    differing = sorted(state.keys() ^ expected.keys())
    if differing:
        raise ValueError(
            f"{kind} {_REFUSED}: its backbone has or lacks {', '.join(differing[:3])}; merge adapters first"
        )
    sizes = [f"{name} {list(value.shape)}" for name, value in state.items() if value.shape != expected[name].shape]
    if sizes:
        raise ValueError(
            f"{kind} {_REFUSED}: its configuration describes other sizes than {', '.join(sizes[:3])}; set them in it"
        )
    target.load_state_dict(state, strict=False)
