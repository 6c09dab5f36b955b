"""`FastBertModel` of github.com/BitVoyage/FastBERT, recognised by its structure, since it is in no package.

Its exit heads attend to padding like to any other position, so that a sample's answer depends on the length of its
batch. That is kept: every sample keeps its padding on the way through the encoder, whose layers mask it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.dtypes import EncoderDtype
from fastbert_kernels.engine.encoder import Encoder
from fastbert_kernels.engine.host_layers import HostEncoder
from fastbert_kernels.hosts.base import Host
from fastbert_kernels.hosts.bert_layers import BERT
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.heads import AttentiveHead
from fastbert_kernels.hosts.host_path import HostPath, run_padded
from fastbert_kernels.hosts.structure import differences, differences_of_call, find, refuse, unknown_parameters

# An attribute of the model: True answers a sample that is sure at no layer with zeros, as the unpatched model does.
ZERO_UNDECIDED = "fastbert_zero_undecided"

LAYERS, HEADS = "graph.layers", "graph.layer_classifiers"
_HEAD = {
    "dense_narrow": nn.Linear,
    "selfAttention.query": nn.Linear,
    "selfAttention.key": nn.Linear,
    "selfAttention.value": nn.Linear,
    "dense_prelogits": nn.Linear,
    "dense_logits": nn.Linear,
}
_LAYER = dict.fromkeys(
    (BERT.query, BERT.key, BERT.value, BERT.attention_output, BERT.intermediate, BERT.output), nn.Linear
)


def matches(model: nn.Module) -> bool:
    heads = find(model, HEADS)
    return (
        isinstance(find(model, LAYERS), nn.ModuleList)
        and isinstance(heads, nn.ModuleDict)
        and all(find(head, "selfAttention") is not None for head in heads.values())
    )


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    layers, heads = list(model.graph.layers), list(model.graph.layer_classifiers.values())
    found = [] if find(model, "embeddings") is not None else ["embeddings is missing"]
    if len(heads) != len(layers):
        found.append(f"{HEADS} has {len(heads)} heads for {len(layers)} layers")
    for number, layer in enumerate(layers):
        found += differences(layer, _LAYER, f"{LAYERS}[{number}].")
    for number, head in enumerate(heads):
        prefix = f"{HEADS}[{number}]."
        found += differences(head, _HEAD, prefix)
        found += unknown_parameters(head, tuple(f"{name}." for name in _HEAD), prefix)
        if not isinstance(getattr(head.selfAttention, "num_attention_heads", None), int):
            found.append(f"{prefix}selfAttention.num_attention_heads is missing")
    # The last head has a second name.
    found += unknown_parameters(model, ("embeddings.", f"{LAYERS}.", f"{HEADS}.", "graph.layer_classifier."))
    found += differences_of_call(model, forward)
    refuse(model, HOST.name, found)
    return HostPath(model, layers, [_describe(head) for head in heads], _call_layer, dtype, backend, heads).encoder()


def _describe(head: Any) -> AttentiveHead:
    attention = head.selfAttention
    return AttentiveHead(
        projection=head.dense_narrow,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        attention_output=None,
        dense=head.dense_prelogits,
        classifier=head.dense_logits,
        num_attention_heads=attention.num_attention_heads,
        narrow_activation="identity",
        mlp_activation="identity",
    )


def _call_layer(layer: nn.Module, hidden: Tensor, valid: Tensor) -> Tensor:
    return layer(hidden, (1.0 - valid[:, None, None].to(hidden.dtype)) * -10000.0)


def forward(
    model: Any,
    encoder: HostEncoder,
    input_ids: Tensor,
    token_type_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    inference: bool = False,
    inference_speed: float = 0.5,
    labels: Tensor | None = None,
    training_stage: int = 0,
) -> Any:
    """Probabilities [B, N]; the number of the last layer that ran, from 0; uncertainties [B, N], a sample's all along
    its row, zeros where no layer was sure."""
    if not inference or input_ids.shape[0] == 0:
        return NotImplemented  # the loss of a training step, or nothing to do
    if token_type_ids is None:
        token_type_ids = torch.zeros_like(input_ids)
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    hidden = model.embeddings(input_ids, token_type_ids)
    results = run_padded(encoder, hidden, valid != 0, inference_speed, keep_padding=True)
    probabilities = results.logits.softmax(dim=-1)
    sure = (results.uncertainty < inference_speed)[:, None]
    if getattr(model, ZERO_UNDECIDED, False):
        probabilities = probabilities.where(sure, 0)
    uncertainties = results.uncertainty[:, None].where(sure, 0).expand_as(probabilities).contiguous()
    return probabilities, int(results.exit_layer.max()) - 1, uncertainties


HOST = Host(name="FastBertModel of BitVoyage/FastBERT", matches=matches, encoder=encoder, forward=forward)
