"""Backbones: the one place that knows the families of encoders, their names for things and how they are called.

A backbone is a text encoder of Transformers with BERT's embeddings (tokens, absolute positions, perhaps segments) and
post-LayerNorm layers called as `layer(hidden, mask)`. The families in `SUPPORTED_BACKBONES` are known by name; any
other type is judged by the parts of the model that `AutoModel` builds for it.
"""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

SUPPORTED_BACKBONES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet")

# Transformers' own. Others, which a configuration names like "owner/repository", it would fetch from the hub and run.
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")

# Position 0 of these is token padding_idx + 1 of the table.
_POSITIONS_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "data2vec-text", "mpnet"})


def _with_bias(*modules: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module in modules for name in ("weight", "bias"))


@dataclass(frozen=True)
class _Family:
    """Where a kind of backbone has its layers, and what the fields of its configuration are called."""

    layers: str
    attention: str  # within a layer; it returns the probabilities behind the states
    layer_parameters: frozenset[str]
    field_names: Mapping[str, str] = field(default_factory=dict)  # where they differ from BERT's
    constants: Mapping[str, Any] = field(default_factory=dict)  # what BERT's configuration has and this one has not
    # Attention adds what the distance of two tokens says, from a table of the encoder that all layers share. Layers of
    # that kind have eager attention only, and return its probabilities themselves.
    relative_positions: bool = False
    padding_id: int | None = None  # behind which positions count, where it is not the configuration's


_BERT = _Family(
    layers="encoder.layer",
    attention="attention.self",
    layer_parameters=_with_bias(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ),
)
_DISTILBERT = _Family(
    layers="transformer.layer",
    attention="attention",
    layer_parameters=_with_bias(
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
    ),
    field_names={"intermediate_size": "hidden_dim", "hidden_act": "activation"},
    constants={"layer_norm_eps": 1e-12},
)
_MPNET = _Family(
    layers="encoder.layer",
    attention="attention.attn",
    layer_parameters=_with_bias(
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
        "attention.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ),
    relative_positions=True,
    padding_id=1,
)
_FAMILIES = {"distilbert": _DISTILBERT, "mpnet": _MPNET}  # the others are like BERT, or not supported
_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_eps",
    "hidden_act",
    "max_position_embeddings",
)


def read_field(config: PreTrainedConfig, name: str) -> Any:
    """A size or setting of the encoder layers by BERT's name for it, whatever the family calls it.

    Args:
        config: of a backbone that `check_backbone_config` lets pass.
        name: `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `intermediate_size`, `layer_norm_eps` or
            `hidden_act`.
    """
    family = _family(config)
    if name in family.constants:
        return family.constants[name]
    return getattr(config, family.field_names.get(name, name))


def first_position(config: PreTrainedConfig) -> int:
    """Row of the position table that the first token of a sample takes: 0, or padding_idx + 1 in RoBERTa's family."""
    if config.model_type not in _POSITIONS_BEHIND_PADDING:
        return 0
    padding_id = _family(config).padding_id
    return (config.pad_token_id if padding_id is None else padding_id) + 1


def uncounted_id(backbone: PreTrainedModel) -> int | None:
    """Return the id of padding where positions count from it, as in RoBERTa's family; None where they begin at 0.

    Such a backbone goes by the ids: a token of this id counts as none, even in the middle of a text (a literal
    "<pad>"). Its own position is the row of this number, and that of the first other token is the next row.

    Args:
        backbone: of a supported kind. Its modules have the id they were made with, whatever its configuration was
            given since.
    """
    padding_id: int | None = getattr(backbone.embeddings, "padding_idx", None)
    return padding_id


def longest_input(config: PreTrainedConfig) -> int:
    """The longest input, in tokens, that the backbone has positions for."""
    return config.max_position_embeddings - first_position(config)


def check_backbone_config(config: PreTrainedConfig) -> None:
    """Raise `ValueError`, with the reason, unless `config` describes an encoder that FastBERT can put exit heads on."""
    try:
        reason = _fault_of_config(config)
        if reason is None and config.model_type not in SUPPORTED_BACKBONES:
            with torch.device("meta"):
                reason = _fault_of_structure(_build(config))
    except Exception as error:  # Transformers has hundreds of types, and any may fail in its own way
        reason = f"Transformers cannot build it here ({' '.join(str(error).split())})"
    if reason is not None:
        raise _unsupported(config, reason)


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """The backbone that `config` describes, without pooler, with random weights.

    Raises:
        ValueError: it is not an encoder that FastBERT can put exit heads on.
    """
    reason = _fault_of_config(config)
    if reason is not None:
        raise _unsupported(config, reason)
    backbone = _build(config)
    reason = _fault_of_structure(backbone)
    if reason is not None:
        raise _unsupported(config, reason)
    return backbone


def load_backbone(name_or_path: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A pretrained backbone in float32, without pooler.

    What the checkpoint has outside the embeddings and the encoder layers (the pooler, the head of a task or of
    pretraining) is dropped.

    Args:
        name_or_path: folder or hub name.
        config: its configuration, which `check_backbone_config` lets pass.

    Raises:
        RuntimeError: the checkpoint lacks parameters of the backbone, or has more of them than its configuration says.
        ValueError: its weights are a pickle that would have to run code to be loaded.
    """
    with pickles_refused(name_or_path):
        backbone, info = AutoModel.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, **_without_pooler(config)
        )
    if info["missing_keys"]:
        raise RuntimeError(f"{name_or_path} lacks parameters of the backbone: {sorted(info['missing_keys'])}")
    parts = tuple(f"{name}." for name, _ in backbone.named_children())
    # Old checkpoints hold the buffers position_ids and token_type_ids, which are made anew and not read.
    extra = sorted(
        key
        for key in info["unexpected_keys"]
        if key.removeprefix(f"{backbone.base_model_prefix}.").startswith(parts)
        and not key.endswith(("position_ids", "token_type_ids"))
    )
    if extra:
        raise RuntimeError(f"{name_or_path} has parameters that its config.json knows nothing of: {extra}")
    return backbone


@contextmanager
def pickles_refused(source: Any) -> Iterator[None]:
    """Say in our words that weights would have to run code to be loaded; PyTorch's suggest to let them."""
    try:
        yield
    except pickle.UnpicklingError:
        raise ValueError(
            f"{source}: the weights are a pickle with more than tensors, which can run code, so they are not loaded; "
            "save them as model.safetensors where they come from"
        ) from None


def layers_of(backbone: PreTrainedModel) -> nn.ModuleList:
    """The encoder layers, first to last."""
    return cast(nn.ModuleList, backbone.get_submodule(_family(backbone.config).layers))


def num_segments(backbone: PreTrainedModel) -> int:
    """Return how many segments the backbone tells apart; 1 in RoBERTa and DistilBERT, where `token_type_ids` are 0."""
    table = getattr(backbone.embeddings, "token_type_embeddings", None)
    return 1 if table is None else int(table.num_embeddings)


def vocabulary(backbone: PreTrainedModel) -> int | None:
    """Return the number of token ids that the backbone knows; `None` where its word embeddings do not say."""
    return getattr(backbone.get_input_embeddings(), "num_embeddings", None)


def embed(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor | None,
    position_ids: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """The input of the first layer, as the backbone's own forward computes it.

    Args:
        backbone: from `build_backbone`.
        input_ids: int64 or int32 [B, L]; `None` with `inputs_embeds`.
        position_ids: int64 [B, L], rows of the position table; see `first_position`.
        token_type_ids: int64 or int32 [B, L], or `None` for 0; not looked at by a backbone without segments.
        inputs_embeds: float [B, L, E] in place of rows of the word embeddings.

    Returns:
        Hidden states [B, L, H].
    """
    segments = {"token_type_ids": token_type_ids} if num_segments(backbone) > 1 else {}
    parts: Any = backbone
    words = {} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    hidden = parts.embeddings(input_ids=input_ids, position_ids=position_ids, **segments, **words)
    projection = getattr(parts, "embeddings_project", None)  # ELECTRA with embedding_size != hidden_size
    return hidden if projection is None else projection(hidden)


def make_layer_mask(backbone: PreTrainedModel, hidden: torch.Tensor, valid: torch.Tensor) -> Any:
    """Return the mask in whatever form the chosen attention implementation wants.

    Attention adds a mask to its scores, so that relative positions (MPNet) are part of it.

    Args:
        backbone: from `build_backbone`.
        hidden: the states that the layers will get, [B, L, H], B >= 1.
        valid: bool [B, L].
    """
    mask = create_bidirectional_mask(backbone.config, hidden, valid)
    if not _family(backbone.config).relative_positions:
        return mask
    encoder: Any = backbone.encoder
    bias = encoder.compute_position_bias(hidden[:1])  # [1, heads, L, L]
    return bias if mask is None else mask + bias


def run_layer(layer: nn.Module, hidden: torch.Tensor, layer_mask: Any) -> torch.Tensor:
    """Return the output [B, L, H] of one encoder layer for `hidden` [B, L, H] and the mask of `make_layer_mask`."""
    output = layer(hidden, layer_mask)
    return output[0] if isinstance(output, tuple) else output


def run_layer_with_attention(
    backbone: PreTrainedModel, layer: nn.Module, hidden: torch.Tensor, layer_mask: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one encoder layer as `run_layer` does, and also return its attention probabilities [B, heads, L, L].

    Raises:
        ValueError: the attention implementation does not compute probabilities.
    """
    kind = backbone.config._attn_implementation
    if kind != "eager":
        raise ValueError(
            f'{kind} attention has no probabilities to return; call model.set_attn_implementation("eager") first'
        )
    if _family(backbone.config).relative_positions:
        return layer(hidden, layer_mask, output_attentions=True)
    found: list[torch.Tensor] = []
    # A layer keeps them to itself. Transformers' own hooks would stay, and a patched model give way to them for good.
    attention = layer.get_submodule(_family(backbone.config).attention)
    handle = attention.register_forward_hook(lambda module, inputs, output: found.append(output[1]))
    try:
        return run_layer(layer, hidden, layer_mask), found[0]
    finally:
        handle.remove()


def fault_of_attention(config: PreTrainedConfig) -> str:
    """Return why the attention implementation that `config` names is not taken."""
    known = ", ".join(map(str, ATTENTION[1:]))
    return (
        f"its configuration names the attention {config._attn_implementation!r}, which is none of Transformers' own "
        f"({known}); take it out of config.json"
    )


def _family(config: PreTrainedConfig) -> _Family:
    return _FAMILIES.get(config.model_type, _BERT)


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModel.from_config(config, **_without_pooler(config))


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    model_class: Any = MODEL_MAPPING[type(config)]  # of some types several classes, none of them with such a setting
    parameters = inspect.signature(model_class).parameters if inspect.isclass(model_class) else {}
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def _unsupported(config: PreTrainedConfig, reason: str) -> ValueError:
    model_type = config.model_type
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        reason = f"it is a decoder ({reason})"
    return ValueError(
        f"backbone type {model_type!r} is not supported: {reason}; supported are {', '.join(SUPPORTED_BACKBONES)} and "
        "other encoders of text with BERT's embeddings and post-LayerNorm layers"
    )


def _fault_of_config(config: PreTrainedConfig) -> str | None:
    if type(config) not in MODEL_MAPPING:
        return "AutoModel does not know it"
    family, attention = _family(config), config._attn_implementation
    if attention not in ATTENTION:
        return fault_of_attention(config)
    if family.relative_positions and attention not in (None, "eager"):
        return f"its attention uses relative positions, which {attention} attention has no place for; take eager"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder with a decoder"
    if getattr(config, "is_decoder", False):
        return "is_decoder is set, and the backbone must be an encoder"
    if (
        getattr(config, "position_embedding_type", "absolute") not in (None, "absolute")
        or getattr(config, "relative_attention", False)
        or (hasattr(config, "relative_attention_num_buckets") and not family.relative_positions)
    ):
        return "its attention uses relative positions"
    missing = [
        name
        for name in _FIELDS
        if name not in family.constants and not hasattr(config, family.field_names.get(name, name))
    ]
    if missing:
        return f"its configuration has no {', '.join(missing)}"
    if config.model_type in _POSITIONS_BEHIND_PADDING and config.pad_token_id is None:
        return "its positions count from the padding token, and pad_token_id is not set"
    return None


def _fault_of_structure(backbone: PreTrainedModel) -> str | None:
    config = backbone.config
    family = _family(config)
    layers: Any = dict(backbone.named_modules()).get(family.layers)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return f"it has no encoder layers in {family.layers}"
    for layer in layers:
        reason = _fault_of_layer(layer, family)
        if reason is not None:
            return reason
    tables = {"word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"}
    embeddings: Any = getattr(backbone, "embeddings", None)
    own = _parameter_names(embeddings) if isinstance(embeddings, nn.Module) else set()
    missing = sorted(tables - own)
    if missing:
        return f"its embeddings lack {', '.join(missing)} (its positions are relative, or rotary, or its own)"
    extra = sorted(own - tables - {"token_type_embeddings.weight"})
    known: tuple[str, ...] = ("embeddings.", "embeddings_project.", f"{family.layers}.")
    if family.relative_positions:
        known += ("encoder.relative_attention_bias.",)
    extra += sorted(name for name in _parameter_names(backbone) if not name.startswith(known))
    if extra:
        return f"it has parts that the encoders of text do not share: {', '.join(extra[:3])}"

    if not backbone._supports_sdpa and not family.relative_positions:
        return "its attention is of its own kind, not the one that Transformers' encoders share"
    behind_padding = config.model_type in _POSITIONS_BEHIND_PADDING
    if (embeddings.position_embeddings.padding_idx is not None) != behind_padding:
        return "where its positions begin is not known"
    return None


def _fault_of_layer(layer: nn.Module, family: _Family) -> str | None:
    own = _parameter_names(layer)
    missing, extra = sorted(family.layer_parameters - own), sorted(own - family.layer_parameters)
    if {"attention.output.LayerNorm.weight", "output.LayerNorm.weight"} & set(missing) and any(
        re.search(r"(^|[._])(ln|layer_?norm)[._]", name, re.IGNORECASE) for name in extra
    ):
        return f"its layers are pre-LayerNorm ({', '.join(extra[:2])})"
    if missing or extra:
        return f"its layers are not BERT's (missing {missing[:3]}, in their place {extra[:3]})"
    for module in layer.modules():
        holds_parameters = any(True for _ in module.parameters(recurse=False))
        if holds_parameters and not isinstance(module, nn.Linear | nn.LayerNorm):
            return f"its layers are made of {type(module).__name__}, not of Linear and LayerNorm"
    return None


def _parameter_names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}
