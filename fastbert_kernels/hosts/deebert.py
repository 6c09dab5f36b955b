"""DeeBERT-style models (Xin et al., ACL 2020) on a BERT or RoBERTa of Transformers, recognised by their structure.

Behind each layer there is a *highway*, a classifier of the first token, and behind the last also the model's own
classifier. A sample leaves where the entropy of its highway in nats is below the layer's threshold; who is not sure of
the last highway either is answered by the classifier, a second head behind the last layer. A threshold t in nats is the
Speed t / log N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels.engine.dtypes import EncoderDtype, hidden_dtype
from fastbert_kernels.engine.encoder import Encoder, prepare_encoder
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.engine.weights import PooledHeadWeights
from fastbert_kernels.hosts import guard
from fastbert_kernels.hosts.base import Host, OwnForward
from fastbert_kernels.hosts.bert_layers import activation_of, layer_parameters, layer_weights
from fastbert_kernels.hosts.derived import Derived
from fastbert_kernels.hosts.padding import PADDING_FIRST, ValidTokens, check_tokens
from fastbert_kernels.hosts.parameters import ParameterGroups, linear_parameters
from fastbert_kernels.hosts.structure import differences, differences_of_call, find, refuse, unknown_parameters

_BACKBONES = ("bert", "roberta")
_PACKAGES = ("transformers.", "torch.")  # where the classes of layers are defined


def matches(model: nn.Module) -> bool:
    return _backbone_name(model) is not None


def _backbone_name(model: nn.Module) -> str | None:
    for name in _BACKBONES:
        parts = (find(model, f"{name}.encoder.{part}") for part in ("layer", "highway"))
        if all(isinstance(part, nn.ModuleList) for part in parts):
            return name
    return None


def encoder(model: Any, dtype: EncoderDtype | None, backend: str) -> Derived[Encoder]:
    name = _backbone_name(model)
    backbone = getattr(model, str(name))
    layers, highways = list(backbone.encoder.layer), list(backbone.encoder.highway)
    refuse(model, HOST.name, _differences(model, f"{name}."))
    heads = [*(_linear_layers(highway) for highway in highways), [*_pooler(backbone), model.classifier]]
    own = {f"{name}.encoder.layer": backbone.encoder.layer}
    others = {f"{name}.encoder.highway": backbone.encoder.highway, "classifier": model.classifier}
    if getattr(backbone, "pooler", None) is not None:
        others[f"{name}.pooler"] = backbone.pooler
    changed = guard.differences(own, _PACKAGES, [*map(activation_of, layers)]) + guard.differences(others)
    refuse(model, HOST.name, changed)
    refuse(model, HOST.name, _differences_of_labels(heads))

    parts = ParameterGroups([*map(layer_parameters, layers)], [linear_parameters(head) for head in heads])

    def build(*tensors: Tensor) -> Encoder:
        of_layers, of_heads = parts.split(tensors)
        precision = hidden_dtype(dtype, tensors[0].dtype)
        return prepare_encoder(
            [
                *(layer_weights(layer, group) for layer, group in zip(layers, of_layers, strict=True)),
                None,
            ],
            [_head(group, precision) for group in of_heads],
            dtype,
            backend,
        )

    return Derived(model, parts.flat(), build, [*own.values(), *others.values()])


def _differences(model: Any, prefix: str) -> list[str]:
    backbone = getattr(model, prefix[:-1])
    layers, highways = len(backbone.encoder.layer), len(backbone.encoder.highway)
    found = differences(model, {"classifier": nn.Linear})
    if highways != layers:
        found.append(f"{prefix}encoder.highway has {highways} highways for {layers} layers")
    if not hasattr(backbone.encoder, "early_exit_entropy"):
        found.append(f"{prefix}encoder.early_exit_entropy is missing")
    if find(backbone, "embeddings") is None:
        found.append(f"{prefix}embeddings is missing")
    if getattr(backbone, "pooler", None) is not None:
        found += _differences_of_pooler(backbone.pooler, f"{prefix}pooler")
    for number, highway in enumerate(backbone.encoder.highway):
        where = f"{prefix}encoder.highway[{number}]"
        if type(highway) is nn.Linear:
            continue
        found += differences(highway, {"classifier": nn.Linear}, f"{where}.")
        if find(highway, "pooler") is not None:
            found += _differences_of_pooler(highway.pooler, f"{where}.pooler")
        found += unknown_parameters(highway, ("classifier.", "pooler.dense."), f"{where}.")
    known = (f"{prefix}{part}." for part in ("embeddings", "encoder.layer", "encoder.highway", "pooler"))
    return found + unknown_parameters(model, (*known, "classifier.")) + differences_of_call(model, forward)


def _differences_of_labels(heads: list[list[nn.Linear]]) -> list[str]:
    labels = sorted({head[-1].out_features for head in heads})
    if len(labels) > 1:
        return [f"highways and classifier have different numbers of labels, {' and '.join(map(str, labels))}"]
    return [] if labels[0] > 1 else ["with one label there is nothing to decide"]


def _differences_of_pooler(pooler: Any, where: str) -> list[str]:
    return differences(pooler, {"dense": nn.Linear, "activation": nn.Tanh}, f"{where}.")


def _linear_layers(highway: Any) -> list[nn.Linear]:
    return [highway] if isinstance(highway, nn.Linear) else [*_pooler(highway), highway.classifier]


def _pooler(module: Any) -> list[nn.Linear]:
    pooler = getattr(module, "pooler", None)
    return [] if pooler is None else [pooler.dense]


def _head(tensors: list[Tensor], dtype: torch.dtype) -> PooledHeadWeights:
    return PooledHeadWeights.cast(tensors[::2], tensors[1::2], pooling="first", activation="tanh", dtype=dtype)


@dataclass(frozen=True)
class _Thresholds:
    """Of the model as it is now: one for each layer, in nats."""

    values: list[float]
    labels: int

    @classmethod
    def of(cls, entropies: Any, layers: int, labels: int) -> _Thresholds:
        values = [float(value) for value in entropies]
        if len(values) != layers or any(map(math.isnan, values)):
            raise ValueError(
                f"early_exit_entropy must have a number for each of the {layers} layers, not {values}; "
                "set_early_exit_entropy or an assignment sets it"
            )
        return cls(values, labels)

    def rule(self) -> Rule:
        largest = math.log(self.labels)
        # No entropy is below 0, so there is nothing to ask. Above the largest, which rounding may exceed, everybody
        # leaves.
        speeds = (None if value <= 0 else math.inf if value > largest else value / largest for value in self.values)
        return Rule(layer_speeds=(*speeds, None))


def forward(
    model: Any,
    encoder: Encoder,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    head_mask: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    labels: Tensor | None = None,
    output_layer: int = -1,
    train_highway: bool = False,
) -> Any:
    """(loss with labels,) logits [B, N], (), (entropy in nats of the answers [B], []) and the exit layer: int64 [B], or
    an int for one text, which is all that the published code takes; that has what each highway said in the empty
    places."""
    unusual = any(argument is not None for argument in (position_ids, head_mask, inputs_embeds)) or any(
        getattr(model.config, name, False) for name in ("output_hidden_states", "output_attentions")
    )
    if unusual or input_ids is None or len(input_ids) == 0 or output_layer >= 0 or train_highway:
        return NotImplemented  # these look at every highway, or at what the packed engine does not have
    backbone = getattr(model, str(_backbone_name(model)))
    depth, count = len(backbone.encoder.layer), model.classifier.out_features
    thresholds = _Thresholds.of(backbone.encoder.early_exit_entropy, depth, count)

    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise OwnForward(f"an attention mask of shape {list(attention_mask.shape)}")
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    check_tokens(valid)
    if not bool(valid[:, 0].all()):
        raise OwnForward(PADDING_FIRST)
    batch = pack(model, encoder, input_ids, valid, token_type_ids)
    results = encoder.run(batch, thresholds.rule())
    logits = results.logits.to(model.classifier.weight.dtype)
    loss = () if labels is None else (F.cross_entropy(logits, labels),)
    layers = results.exit_layer.clamp(max=depth)
    exit_layer = layers if len(layers) > 1 else int(layers)
    return (*loss, logits, (), (_entropy(logits), []), exit_layer)


def pack(
    model: Any, encoder: Encoder, input_ids: Tensor, valid: Tensor, token_type_ids: Tensor | None = None
) -> PackedBatch:
    """Embed a padded batch and pack it.

    Args:
        input_ids: [B, L].
        valid: bool [B, L], False for padding; every sample has a token.
        token_type_ids: [B, L], or None for one segment.
    """
    tokens = ValidTokens.of(valid)
    embeddings = getattr(model, str(_backbone_name(model))).embeddings
    hidden = tokens.take(embeddings(input_ids=input_ids, token_type_ids=token_type_ids)).to(encoder.dtype)
    return PackedBatch.of(hidden, tokens.cu_seqlens, tokens.max_seqlen, math.inf)  # the thresholds are the layers'


def probe(model: Any, lengths: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs of `pack`: random texts of these lengths, or as long as the model allows."""
    longest = min(max(lengths), model.config.max_position_embeddings - 2)  # a RoBERTa begins to count at 2
    valid = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids = torch.randint(model.config.vocab_size, valid.shape, generator=generator)
    device = next(model.parameters()).device
    return ids.to(device), valid.to(device)


def _entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)


HOST = Host(name="DeeBERT on Transformers", matches=matches, encoder=encoder, forward=forward, pack=pack, probe=probe)
