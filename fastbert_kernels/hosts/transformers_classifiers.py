"""Classifiers of Transformers as they are, on BERT and backbones of its structure: every text runs to full depth.

The model's own pooler and classifier are a pooled head behind the last layer, the only one that the encoder has. A
model with one output, a score s, runs as one with the outputs s and 0, of which the first is the answer: the engine has
no head of one class, and softmax([s, 0]) is the sigmoid of s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels.engine.dtypes import EncoderDtype, hidden_dtype
from fastbert_kernels.engine.encoder import Encoder, prepare_encoder
from fastbert_kernels.engine.entrance import Entrance, PaddedCall
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import full_depth
from fastbert_kernels.engine.weights import PooledHeadWeights
from fastbert_kernels.hosts import guard
from fastbert_kernels.hosts.at_once import can_be_copied, entrance_of
from fastbert_kernels.hosts.backbones import Tokens, embed, embedding_differences
from fastbert_kernels.hosts.base import Host, OwnForward
from fastbert_kernels.hosts.bert_layers import (
    activation_name,
    activation_of,
    has_position_bias,
    layer_parameters,
    layer_weights,
)
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.padding import PADDING_FIRST, ValidTokens, has_gaps
from fastbert_kernels.hosts.parameters import ParameterGroups, linear_parameters
from fastbert_kernels.hosts.scores import scores
from fastbert_kernels.hosts.structure import differences, refuse

_PACKAGES = ("transformers.", "torch.")
# The arguments of `forward` that the fast path answers. Others are for the model's own, unless they are None or False.
_ANSWERED = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids", "labels", "return_dict"})


def matches(model: nn.Module) -> bool:
    from fastbert_hf.classifiers import is_plain_classifier

    return is_plain_classifier(type(model))


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    from fastbert_hf.backbones import layers_of
    from fastbert_hf.classifiers import plain_head

    head = plain_head(model)
    if head is None or not guard.is_code_of_its_package(type(model).forward):
        raise ValueError(f"{type(model).__name__} has a forward of its own, so it cannot be patched")
    backbone = model.base_model
    if type(backbone).__module__ != type(model).forward.__module__:
        raise ValueError(
            f"{type(model).__name__} on a {type(backbone).__name__} cannot be patched, only on its own kind of "
            "backbone; the unpatched model serves it"
        )
    if getattr(model.config, "is_decoder", False):
        raise ValueError("a decoder (is_decoder of its configuration) cannot be patched, only a model that is none")
    refuse(model, HOST.name, differences(model, {head.dense: nn.Linear, head.classifier: nn.Linear}))
    activation = _activation(model, head.activation)
    layers = list(layers_of(backbone))
    parts = dict(model.named_children())
    changed = guard.differences(parts, _PACKAGES, [*map(activation_of, layers)])
    refuse(model, HOST.name, changed + embedding_differences(backbone))
    linear = [model.get_submodule(path) for path in (head.dense, head.classifier)]
    of_layers = [layer_parameters(layer, backbone) for layer in layers]
    groups = ParameterGroups(of_layers, [linear_parameters(linear)])

    def build(*tensors: Tensor) -> Encoder:
        of_layers, (of_head,) = groups.split(tensors)
        weights, biases = of_head[::2], of_head[1::2]
        precision = hidden_dtype(dtype, tensors[0].dtype)
        last = PooledHeadWeights.cast(weights, biases, pooling="first", activation=activation, dtype=precision)
        return prepare_encoder(
            [layer_weights(layer, group, backbone) for layer, group in zip(layers, of_layers, strict=True)],
            [*[None] * (len(layers) - 1), last],
            dtype,
            backend,
        )

    return Derived(model, groups.flat(), build, parts.values())


def _activation(model: nn.Module, place: str) -> str:
    """Return the name of a head's activation, where a class calls it or has it as a module."""
    if "." not in place:
        return place
    module = model.get_submodule(place)
    name = "tanh" if type(module) is nn.Tanh else activation_name(module)
    if name not in ("tanh", "relu", "gelu"):
        raise ValueError(
            f"a head with the activation {name} ({place}) cannot be patched; the unpatched model serves it"
        )
    return name


def forward(model: Any, encoder: Encoder, *args: Any, **kwargs: Any) -> Any:
    """Answer a call of the model's own forward, at full depth.

    Args:
        model: a model of this host.
        encoder: of the model.
        *args: as the model takes them.
        **kwargs: as the model takes them.

    Returns:
        A `SequenceClassifierOutput` of the logits [B, N], in the dtype of the weights, and the loss where there are
        labels; a tuple of them where `return_dict` is False.

    Raises:
        OwnForward: a call that the packed engine does not answer.
    """
    names = _argument_names(type(model).forward)
    if len(args) > len(names) or not kwargs.keys().isdisjoint(names[: len(args)]):
        return NotImplemented  # the model's own forward says what is wrong
    call = dict(zip(names, args, strict=False), **kwargs)
    _refuse_unusual(model, call)
    ids, mask = call.get("input_ids"), call.get("attention_mask")
    if ids is None or ids.dim() != 2 or ids.numel() == 0 or ids.shape[1] > longest_input(model):
        return NotImplemented
    if mask is not None and mask.shape != ids.shape:
        raise OwnForward(f"an attention mask of shape {list(mask.shape)}")
    segments, positions = (
        None if given is None else given.expand_as(ids)
        for given in (call.get("token_type_ids"), call.get("position_ids"))
    )
    if segments is not None and _segment_count(model) < 2:
        if _segment_count(model) == 1 and bool((segments != 0).any()):
            return NotImplemented
        segments = None
    inputs = ids, mask, segments, positions
    last = getattr(model.classifier, "out_proj", model.classifier).weight  # [N, H]
    if (logits := _answer_at_once(model, encoder, *inputs)) is not None:
        return _output(model, logits.to(last.dtype), call.get("labels"), call.get("return_dict"))
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0
    if not bool(valid[:, 0].all()):
        raise OwnForward(PADDING_FIRST)
    if has_position_bias(model.base_model) and has_gaps(valid):
        raise OwnForward("padding between tokens, whose distance it changes")
    results = encoder.run(pack(model, encoder, ids, valid, segments, positions), full_depth(encoder.num_labels))
    return _output(model, results.logits.to(last.dtype), call.get("labels"), call.get("return_dict"))


def entrance(model: Any) -> Entrance | None:
    """Return how a model embeds padded texts. Such as are not padded on the right are packed by the host, who knows
    which of them the model's own forward has to answer."""
    words, padding = model.base_model.embeddings.word_embeddings, _padding_of_positions(model)
    if not isinstance(words, nn.Embedding):
        return None
    first, ids = (0, -1) if padding is None else (padding + 1, padding)
    sizes = words.num_embeddings, _segment_count(model), first, longest_input(model)
    return entrance_of(model.base_model, *sizes, from_the_left=True, padding=ids)


def _answer_at_once(
    model: Any, encoder: Encoder, ids: Tensor, mask: Tensor | None, segments: Tensor | None, positions: Tensor | None
) -> Tensor | None:
    """Return the logits of a call that one graph answers from its ids on, None for one that has to be packed."""
    if not encoder.takes_padded(*ids.shape) or positions is not None or not can_be_copied(mask):
        return None
    given = [tensor for tensor in (ids, mask, segments) if tensor is not None]
    if any(tensor.device != ids.device or tensor.is_floating_point() for tensor in given):
        return None
    if (way_in := entrance(model)) is None:
        return None
    call = PaddedCall(ids, mask, segments, 0.0)
    answered = encoder.answer_padded(call, way_in, full_depth(encoder.num_labels))
    return None if answered is None or answered.fault else answered.results.logits


def pack(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor,
    valid: Tensor,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> PackedBatch:
    """Embed a padded batch and pack it.

    Args:
        model: a model of this host.
        encoder: of the model.
        input_ids: [B, L].
        valid: bool [B, L], False for padding; every sample has a token.
        token_type_ids: [B, L], or None for one segment.
        position_ids: [B, L]; None counts as the model does.
    """
    where = ValidTokens.of(valid)
    if position_ids is not None:
        positions = where.take(position_ids)
    elif (padding := _padding_of_positions(model)) is None:
        positions = where.rows % input_ids.shape[1]
    else:  # counted over the ids that are not padding, whatever the mask says
        counted = input_ids != padding
        positions = where.take(counted.cumsum(dim=1) * counted + padding)
    segments = None if token_type_ids is None else where.take(token_type_ids)
    tokens = Tokens(where.take(input_ids), positions, segments, where.cu_seqlens, where.max_seqlen)
    return PackedBatch.of(embed(model.base_model, encoder, tokens), where.cu_seqlens, where.max_seqlen, 0.0)


def probe(model: Any, lengths: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs of `pack`: random texts of these lengths, or as long as the model allows."""
    valid = torch.arange(min(max(lengths), longest_input(model))) < torch.tensor(lengths)[:, None]
    ids = torch.randint(model.base_model.embeddings.word_embeddings.num_embeddings, valid.shape, generator=generator)
    return ids.to(model.device), valid.to(model.device)


def longest_input(model: Any) -> int:
    """Return the length of the longest input, in tokens, that the model has positions for."""
    padding = _padding_of_positions(model)
    rows: int = model.base_model.embeddings.position_embeddings.num_embeddings
    return rows if padding is None else rows - padding - 1


def _padding_of_positions(model: Any) -> int | None:
    """Return the id of padding where positions begin behind it, as in RoBERTa's family; None where they begin at 0."""
    from fastbert_hf.backbones import uncounted_id

    return uncounted_id(model.base_model)


def _segment_count(model: Any) -> int:
    table = getattr(model.base_model.embeddings, "token_type_embeddings", None)
    return 0 if table is None else table.num_embeddings


def _refuse_unusual(model: Any, call: Mapping[str, Any]) -> None:
    """Raise OwnForward for a call that wants more than the packed engine has."""
    for name in ("output_hidden_states", "output_attentions"):
        if call.get(name, getattr(model.config, name, False)):
            raise OwnForward(name)
    for name, value in call.items():
        if name not in _ANSWERED and value is not None and value is not False:
            raise OwnForward(name)
    if getattr(model.config, "is_decoder", False):
        raise OwnForward("is_decoder in the configuration")


def _output(model: Any, logits: Tensor, labels: Tensor | None, return_dict: bool | None) -> Any:
    from transformers.modeling_outputs import SequenceClassifierOutput

    output = SequenceClassifierOutput(loss=None if labels is None else _loss(model, logits, labels), logits=logits)
    wanted = model.config.return_dict if return_dict is None else return_dict
    return output if wanted else output.to_tuple()


def _loss(model: Any, logits: Tensor, labels: Tensor) -> Tensor | None:
    """Return the loss as all these classes of Transformers compute it, which note the kind of problem that they saw."""
    config, count = model.config, model.num_labels
    labels = labels.to(logits.device)
    if config.problem_type is None:
        of_classes = labels.dtype in (torch.long, torch.int)
        classification = "single_label_classification" if of_classes else "multi_label_classification"
        config.problem_type = "regression" if count == 1 else classification
    if config.problem_type == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze()) if count == 1 else F.mse_loss(logits, labels)
    if config.problem_type == "single_label_classification":
        return F.cross_entropy(logits.view(-1, count), labels.view(-1))
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    return None


@lru_cache
def _argument_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments of a model's forward by position."""
    _self, *parameters = inspect.signature(forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)


_NAME = (
    "classifiers of Transformers (BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, ERNIE, data2vec, MPNet)"
)
HOST = Host(_NAME, matches, encoder, forward, pack, probe, scores, entrance=entrance)
