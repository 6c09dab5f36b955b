"""`fastplm.FastBERT` and `FastALBERT` and their pair versions, of the paper's authors (`fastplm` 1.0.0 on PyPI), which
`FastPLM(kernel_name, labels=...)` and `FastPLM_S2` make.

Segments count the [SEP]s: 1 up to the first, 2 behind it. `hosts/uer_models.py` has the rest.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from fastbert_kernels.engine.weights import ExitHead, PooledHeadWeights
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.parameters import Parameters, linear_parameters
from fastbert_kernels.hosts.uer_layers import LAYER_NORM, check_kinds
from fastbert_kernels.hosts.uer_models import (
    ENTROPY_FLOOR,
    Decision,
    attentive_head_parameters,
    check_methods,
    derived_encoder,
    is_a,
    text_and_pair_hosts,
)

_BERT, _ALBERT, _HEADS = "fastplm.fastbert", "fastplm.fastalbert", "fastplm.classifiers"
_NOT_SERVED = {
    (
        "fastplm.fastgpt",
        "FastGPT",
    ): "its tokens do not see those behind them, and the engine's attention looks both ways",
    ("fastplm.fastgcnn", "FastGCNN"): "its layers are gated convolutions, and the engine has attention layers",
}


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    for (module, name), reason in _NOT_SERVED.items():
        if is_a(model, module, name):
            raise ValueError(f"{type(model).__name__} cannot be patched: {reason}; the unpatched model serves it")
    pairs, albert = is_a(model, _BERT, "FastBERT_S2"), is_a(model, _ALBERT, "FastALBERT")
    suffix = "_S2" if pairs else ""
    check_methods(model, _BERT, forward=f"FastBERT{suffix}", _mask_transfer="FastBERT")
    check_methods(model, _ALBERT if albert else _BERT, _fast_infer=f"FastALBERT{suffix}" if albert else "FastBERT")
    if model.labels_num < 2:
        raise ValueError("a model with one label has nothing to decide and cannot be patched")
    _top_n(model)
    kernel = model.kernel
    kind = "albert_encoder.AlbertEncoder" if albert else "bert_encoder.BertEncoder"
    check_kinds(kernel.encoder, {"": f"encoders.{kind}"}, "the encoder")
    check_kinds(kernel.embedding, {"": "layers.embeddings.BertEmbedding", "layer_norm": LAYER_NORM}, "the embedding")
    # An ALBERT is one layer, used again and again.
    layers = [kernel.encoder.transformer] * kernel.encoder.layers_num if albert else list(kernel.encoder.transformer)
    return derived_encoder(
        model, kernel.embedding, layers, list(model.classifiers), _head_parameters, _head_weights, dtype, backend
    )


def _is_pooled(head: nn.Module) -> bool:
    """Or attentive; ValueError for neither."""
    kind = type(head).__qualname__ if type(head).__module__ == _HEADS else None
    if kind not in ("AttMiniClassifier", "DenseMiniClassifier"):
        raise ValueError(
            f"exit heads of the kind {type(head).__name__} cannot be patched, only AttMiniClassifier and "
            "DenseMiniClassifier; the unpatched model serves them"
        )
    return kind == "DenseMiniClassifier"


def _head_parameters(head: Any) -> Parameters:
    pooled = _is_pooled(head)
    if head.pooling in ("mean", "max", "last"):  # anything else is the first token to it
        raise ValueError(
            f"exit heads with pooling={head.pooling!r} cannot be patched: in this package that takes padding, too; the "
            "unpatched model serves them, as does pooling='first' patched"
        )
    if not pooled:
        return attentive_head_parameters(head)
    check_kinds(head, {}, "an exit head")
    return linear_parameters([head.output_layer_1, head.output_layer_2])


def _head_weights(head: Any, tensors: list[Tensor], dtype: torch.dtype) -> ExitHead:
    if _is_pooled(head):
        return PooledHeadWeights.cast(tensors[::2], tensors[1::2], pooling="first", activation="tanh", dtype=dtype)
    return fold_attentive_head(*tensors, num_attention_heads=head.self_atten.heads_num, dtype=dtype)


def _top_n(model: Any) -> int | None:
    """`uncertainty_N`, the number of classes that the uncertainty looks at; None for all."""
    number = model.args.uncertainty_N
    if number is not None and (not isinstance(number, int) or number < 1):
        raise ValueError(f"uncertainty_N must be None or a number from 1 on, not {number!r}")
    return number


def decision(model: Any, speed: float) -> Decision:
    """Leave at an entropy below the Speed, normalised with log N, over all classes or the `uncertainty_N` most likely.

    That number is what the entropy is divided by, also where the model has fewer classes: the engine, which divides by
    the logarithm of the classes there are, gets a larger threshold then. Over one class it is 0 / 0, and nobody leaves.
    """
    labels, number = model.labels_num, _top_n(model) or model.labels_num
    if number == 1 or not speed > ENTROPY_FLOOR / math.log(number):
        return 0.0, FULL_DEPTH
    if number >= labels:
        return speed * math.log(number) / math.log(labels), ENTROPY_RULE
    return speed, Rule(Criterion.TOP_K_ENTROPY, number)


HOST, PAIR_HOST = text_and_pair_hosts(
    ("fastplm.FastBERT, FastALBERT", "fastplm.FastBERT_S2, FastALBERT_S2"), _BERT, encoder, decision
)
