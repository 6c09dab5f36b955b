"""Where the post-LayerNorm encoder layers of Transformers keep their weights: BERT's names, which RoBERTa, XLM-RoBERTa,
CamemBERT, ELECTRA and others share, DistilBERT's and MPNet's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels.engine.weights import GELU_BY_TANH, LayerWeights
from fastbert_kernels.hosts.guard import attention_of, is_as_its_class
from fastbert_kernels.hosts.parameters import Parameters, linear_parameters
from fastbert_kernels.hosts.structure import find

# Ways of Transformers to compute the same attention.
_SAME_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


@dataclass(frozen=True)
class LayerNames:
    """Names within a layer: of the attention, of its Linear layers and LayerNorms, in the order in which data meets
    them, and of the activation."""

    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str
    activation: str

    def modules(self) -> tuple[str, ...]:
        _, *modules, _ = dataclasses.astuple(self)
        return tuple(modules)

    def parameters(self) -> set[str]:
        return {f"{module}.{name}" for module in self.modules() for name in ("weight", "bias")}


_FAMILIES = {  # BERT, DistilBERT, MPNet
    "attention": ("attention.self", "attention", "attention.attn"),
    "query": ("attention.self.query", "attention.q_lin", "attention.attn.q"),
    "key": ("attention.self.key", "attention.k_lin", "attention.attn.k"),
    "value": ("attention.self.value", "attention.v_lin", "attention.attn.v"),
    "attention_output": ("attention.output.dense", "attention.out_lin", "attention.attn.o"),
    "attention_norm": ("attention.output.LayerNorm", "sa_layer_norm", "attention.LayerNorm"),
    "intermediate": ("intermediate.dense", "ffn.lin1", "intermediate.dense"),
    "output": ("output.dense", "ffn.lin2", "output.dense"),
    "output_norm": ("output.LayerNorm", "output_layer_norm", "output.LayerNorm"),
    "activation": ("intermediate.intermediate_act_fn", "ffn.activation", "intermediate.intermediate_act_fn"),
}
BERT, DISTILBERT, MPNET = _LAYERS = tuple(
    LayerNames(**dict(zip(_FAMILIES, names, strict=True))) for names in zip(*_FAMILIES.values(), strict=True)
)
_POSITION_TABLE = "encoder.relative_attention_bias"  # of MPNet, within a backbone


def names_of(layer: nn.Module) -> LayerNames:
    """Return the names of a layer.

    Raises:
        ValueError: it has other parameters than these, or other modules than Linear and LayerNorm hold them, so that
            it may compute something else.
    """
    found = {name for name, _ in layer.named_parameters()}
    names = max(_LAYERS, key=lambda each: len(found & each.parameters()))
    if found != names.parameters():
        strange = found - names.parameters()
        raise ValueError(
            f"layers of the kind {type(layer).__name__} cannot be patched: their parameters are not those of a BERT, "
            f"DistilBERT or MPNet layer{f' (unknown: {sorted(strange)})' if strange else ''}; the unpatched model "
            "serves them"
        )
    for name in names.modules():
        module = layer.get_submodule(name)
        expected = nn.LayerNorm if name in (names.attention_norm, names.output_norm) else nn.Linear
        if type(module) is not expected:  # a class derived from Linear may compute something else
            raise ValueError(
                f"layers whose {name} is a {type(module).__name__} cannot be patched, it must be a "
                f"torch.nn.{expected.__name__}; the unpatched model serves them"
            )
    return names


def has_position_bias(backbone: nn.Module) -> bool:
    """Return whether the attention of a backbone's layers depends on the distances between tokens, as MPNet's does."""
    return find(backbone, _POSITION_TABLE) is not None


def layer_parameters(layer: nn.Module, backbone: nn.Module | None = None) -> Parameters:
    """List what `layer_weights` takes, in its order.

    Args:
        layer: as `names_of` lets it pass.
        backbone: whose layer it is; layers of MPNet share a table of relative positions that belongs to it.

    Raises:
        ValueError: a layer of MPNet without its backbone.
    """
    names = names_of(layer)
    parameters = linear_parameters([layer.get_submodule(name) for name in names.modules()])
    if names is MPNET:
        table = None if backbone is None else find(backbone, _POSITION_TABLE)
        if table is None:
            raise ValueError(
                "layers of MPNet are patched as part of a backbone of MPNet only, which has their table of relative "
                "positions; the unpatched model serves them"
            )
        parameters.append((table, "weight"))
    return parameters


def layer_weights(layer: nn.Module, tensors: list[Tensor], backbone: nn.Module | None = None) -> LayerWeights:
    """Describe the layer as the engine takes it, with the numbers that its modules hold.

    Args:
        layer: as `names_of` lets it pass.
        tensors: the values of `layer_parameters(layer, backbone)`.
        backbone: as of `layer_parameters`.

    Raises:
        ValueError: the engine's layer has no place for one of these numbers.
    """
    names = names_of(layer)
    eps, other = (
        cast(nn.LayerNorm, layer.get_submodule(name)).eps for name in (names.attention_norm, names.output_norm)
    )
    if eps != other:
        raise ValueError(f"layers whose LayerNorms have different eps, {eps} and {other}, cannot be patched")
    activation = activation_of(layer)
    return LayerWeights(
        _attention_heads(layer.get_submodule(names.attention), tensors[0]),
        eps,
        activation,
        activation_name(activation),
        torch.cat(tensors[0:6:2]),
        torch.cat(tensors[1:6:2]),
        *tensors[6:16],
        position_bias=_position_bias(backbone, tensors[16]) if names is MPNET else None,
    )


def _position_bias(backbone: Any, table: Tensor) -> Tensor:
    """Return what MPNet's attention adds at each distance from query to key, [heads, 2P - 1] for its P positions.

    Args:
        backbone: its own function says in which bucket a distance lies.
        table: [buckets, heads].
    """
    reach = backbone.embeddings.position_embeddings.num_embeddings - 1
    distances = torch.arange(-reach, reach + 1, device=table.device)
    return table[backbone.encoder.relative_position_bucket(distances)].t().contiguous()


def activation_of(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what the layer calls between its two feed-forward products: a module, or a function."""
    owner, _, name = names_of(layer).activation.rpartition(".")
    return getattr(layer.get_submodule(owner), name)


def activation_name(activation: Callable[[Tensor], Tensor]) -> str:
    """Name an activation as Transformers does where native code computes the same; any other has the name of its kind,
    which no native code knows, so that it is called itself."""
    kind: Any = type(activation)
    if not isinstance(activation, nn.Module):
        known: dict[object, str] = {F.relu: "relu", torch.relu: "relu", F.gelu: "gelu"}
        return known.get(activation, getattr(activation, "__qualname__", kind.__qualname__))
    if is_as_its_class(activation):
        if kind is nn.ReLU:
            return "relu"
        if kind is nn.GELU and activation.approximate in ("none", "tanh"):
            return "gelu" if activation.approximate == "none" else GELU_BY_TANH
        if kind.__module__ == "transformers.activations":
            inner: Any = getattr(activation, "act", None)
            plain = getattr(inner, "__func__", None)
            if kind.__qualname__ == "GELUActivation" and (inner is F.gelu or plain is kind._gelu_python):
                return "gelu"
            if kind.__qualname__ in _GELUS_BY_TANH and inner is None:
                return GELU_BY_TANH
            if kind.__qualname__ == "GELUTanh" and (_is_gelu_by_tanh(inner) or plain is kind._gelu_tanh_python):
                return GELU_BY_TANH
    return f"{kind.__module__}.{kind.__qualname__}"


_GELUS_BY_TANH = ("NewGELUActivation", "FastGELUActivation")  # of Transformers: gelu_new and gelu_fast, one formula


def _is_gelu_by_tanh(function: Any) -> bool:
    return isinstance(function, partial) and (function.func, function.args, function.keywords) == (
        F.gelu,
        (),
        {"approximate": "tanh"},
    )


def _attention_heads(attention: Any, query_weight: Tensor) -> int:
    """Return the number of heads by which a self-attention divides its width."""
    width, size = query_weight.shape[0], getattr(attention, "attention_head_size", None)
    if type(size) is not int or size < 1 or width % size or width != query_weight.shape[1]:
        raise ValueError(
            f"attention of {tuple(query_weight.shape)} by heads of {size} cannot be patched: the heads must divide the "
            "hidden size; the unpatched model serves it"
        )
    if not math.isclose(scaling := getattr(attention, "scaling", size**-0.5), size**-0.5, rel_tol=1e-6):
        raise ValueError(
            f"attention that scales its scores by {scaling} instead of {size**-0.5:.6g} (one over the root of a head's "
            "size) cannot be patched; the unpatched model serves it"
        )
    if getattr(attention, "is_causal", False) or getattr(attention, "is_decoder", False):
        raise ValueError("attention that looks back only (causal) cannot be patched; the unpatched model serves it")
    chosen, function = attention_of(getattr(attention, "config", None))
    if chosen not in (None, *_SAME_ATTENTION) or not _is_of_transformers(function):
        raise ValueError(
            f"attn_implementation={chosen!r} may compute something else than attention and cannot be patched; known "
            f"are {', '.join(_SAME_ATTENTION)} of Transformers itself"
        )
    return width // size


def _is_of_transformers(function: Any) -> bool:
    return function is None or getattr(function, "__module__", "").startswith("transformers.")
