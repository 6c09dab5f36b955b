"""What cannot be a backbone, and why.

The families in `SUPPORTED_BACKBONES` are known by name; any other type is judged by the parts of the model that
`AutoModel` builds for it.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from fastbert_hf.backbone_families import (
    FIELDS,
    POSITIONS_BEHIND_PADDING,
    SUPPORTED_BACKBONES,
    Family,
    family_of,
    without_pooler,
)

# Transformers' own. Others, which a configuration names like "owner/repository", it would fetch from the hub and run.
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def check_backbone_config(config: PreTrainedConfig) -> None:
    """Raise `ValueError`, with the reason, unless `config` describes an encoder that FastBERT can put exit heads on."""
    try:
        reason = fault_of_config(config)
        if reason is None and config.model_type not in SUPPORTED_BACKBONES:
            with torch.device("meta"):
                reason = fault_of_structure(AutoModel.from_config(config, **without_pooler(config)))
    except Exception as error:  # Transformers has hundreds of types, and any may fail in its own way
        reason = f"Transformers cannot build it here ({' '.join(str(error).split())})"
    if reason is not None:
        raise unsupported(config, reason)


def fault_of_attention(config: PreTrainedConfig) -> str:
    """Return why the attention implementation that `config` names is not taken."""
    known = ", ".join(map(str, ATTENTION[1:]))
    return (
        f"its configuration names the attention {config._attn_implementation!r}, which is none of Transformers' own "
        f"({known}); take it out of config.json"
    )


def unsupported(config: PreTrainedConfig, reason: str) -> ValueError:
    model_type = config.model_type
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        reason = f"it is a decoder ({reason})"
    return ValueError(
        f"backbone type {model_type!r} is not supported: {reason}; supported are {', '.join(SUPPORTED_BACKBONES)} and "
        "other encoders of text with BERT's embeddings and post-LayerNorm layers"
    )


def fault_of_config(config: PreTrainedConfig) -> str | None:
    if type(config) not in MODEL_MAPPING:
        return "AutoModel does not know it"
    family, attention = family_of(config), config._attn_implementation
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
        for name in FIELDS
        if name not in family.constants and not hasattr(config, family.field_names.get(name, name))
    ]
    if missing:
        return f"its configuration has no {', '.join(missing)}"
    if config.model_type in POSITIONS_BEHIND_PADDING and config.pad_token_id is None:
        return "its positions count from the padding token, and pad_token_id is not set"
    return None


def fault_of_structure(backbone: PreTrainedModel) -> str | None:
    config = backbone.config
    family = family_of(config)
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
    behind_padding = config.model_type in POSITIONS_BEHIND_PADDING
    if (embeddings.position_embeddings.padding_idx is not None) != behind_padding:
        return "where its positions begin is not known"
    return None


def _fault_of_layer(layer: nn.Module, family: Family) -> str | None:
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
