"""Where the encoder layers of the toolkit UER keep their weights, and what is checked before they are taken.

The FastBERT packages of the paper's authors bring copies of the toolkit along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert_kernels.engine.weights import LayerWeights
from fastbert_kernels.hosts.parameters import Parameters, linear_parameters

LAYER_NORM = "layers.layer_norm.LayerNorm"
_LAYER = {
    "": "layers.transformer.TransformerLayer",
    "self_attn": "layers.multi_headed_attn.MultiHeadedAttention",
    "layer_norm_1": LAYER_NORM,
    "feed_forward": "layers.position_ffn.PositionwiseFeedForward",
    "layer_norm_2": LAYER_NORM,
}


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


def check_kinds(module: nn.Module, kinds: dict[str, str], where: str) -> None:
    """ValueError unless the submodules are of the toolkit's own classes, and all that is linear in them is a
    `torch.nn.Linear`: a derived class may compute something else.

    Args:
        kinds: submodule -> class, named from the toolkit's package on.
        where: what the module is, for the message.
    """
    for name, kind in kinds.items():
        found = type(module.get_submodule(name))
        if not f"{found.__module__}.{found.__qualname__}".endswith(f"uer.{kind}"):
            raise ValueError(
                f"this model cannot be patched: {' of '.join(filter(None, [name, where]))} is a {found.__qualname__}, "
                f"not UER's {kind.rsplit('.', 1)[1]}; the unpatched model serves it"
            )
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and type(part) is not nn.Linear:
            raise ValueError(
                f"this model cannot be patched: {name} of {where} is a {type(part).__name__}, not a torch.nn.Linear; "
                "the unpatched model serves it"
            )


def attention_parameters(attention: nn.Module) -> Parameters:
    """Weights and biases of query, key, value and output."""
    linear = attention.get_submodule("linear_layers")
    return linear_parameters([*linear.children(), attention.get_submodule("final_linear")])


def norm_parameters(norm: nn.Module) -> Parameters:
    return [(norm, "gamma"), (norm, "beta")]


def layer_parameters(layer: nn.Module) -> Parameters:
    """Return what `layer_weights` takes, in its order; ValueError for a layer that is not UER's own."""
    check_kinds(layer, _LAYER, "an encoder layer")
    return [
        *attention_parameters(layer.get_submodule("self_attn")),
        *norm_parameters(layer.get_submodule("layer_norm_1")),
        *linear_parameters([layer.get_submodule(f"feed_forward.{name}") for name in ("linear_1", "linear_2")]),
        *norm_parameters(layer.get_submodule("layer_norm_2")),
    ]


def layer_weights(layer: nn.Module, tensors: list[Tensor]) -> LayerWeights:
    """The layer as the engine takes it.

    Args:
        tensors: the values of `layer_parameters(layer)`.
    """
    activation = _activation(layer.get_submodule("feed_forward"))
    eps, other = (layer.get_submodule(name).eps for name in ("layer_norm_1", "layer_norm_2"))
    if eps != other:
        raise ValueError(f"layers whose LayerNorms have different eps, {eps} and {other}, cannot be patched")
    return LayerWeights(
        layer.get_submodule("self_attn").heads_num,  # type: ignore[arg-type]
        eps,  # type: ignore[arg-type]
        _ACTIVATIONS[activation],
        activation,
        torch.cat(tensors[0:6:2]),
        torch.cat(tensors[1:6:2]),
        *tensors[6:],
        layer_norm="unbiased",
    )


def _activation(feed_forward: Any) -> str:
    """Return "gelu" (UER's, by the error function, which is that of layers without an attribute for it) or "relu"."""
    function = getattr(feed_forward, "act", None)
    if function is None or (function.__module__.endswith("uer.utils.act_fun") and function.__name__ == "gelu"):
        return "gelu"
    if function is F.relu:
        return "relu"
    raise ValueError(
        f"layers with the activation {getattr(function, '__name__', function)} cannot be patched; the unpatched model "
        "serves them"
    )
