"""The families of encoders: where each has its parts, and what it calls the fields of its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import MODEL_MAPPING, PreTrainedConfig

SUPPORTED_BACKBONES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet")

# Position 0 of these is token padding_idx + 1 of the table.
POSITIONS_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "data2vec-text", "mpnet"})


def _with_bias(*modules: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module in modules for name in ("weight", "bias"))


@dataclass(frozen=True)
class Family:
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


_BERT = Family(
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
_DISTILBERT = Family(
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
_MPNET = Family(
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
FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_eps",
    "hidden_act",
    "max_position_embeddings",
)


def family_of(config: PreTrainedConfig) -> Family:
    return _FAMILIES.get(config.model_type, _BERT)


def read_field(config: PreTrainedConfig, name: str) -> Any:
    """A size or setting of the encoder layers by BERT's name for it, whatever the family calls it.

    Args:
        config: of a backbone that `check_backbone_config` lets pass.
        name: `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `intermediate_size`, `layer_norm_eps` or
            `hidden_act`.
    """
    family = family_of(config)
    if name in family.constants:
        return family.constants[name]
    return getattr(config, family.field_names.get(name, name))


def first_position(config: PreTrainedConfig) -> int:
    """Row of the position table that the first token of a sample takes: 0, or padding_idx + 1 in RoBERTa's family."""
    if config.model_type not in POSITIONS_BEHIND_PADDING:
        return 0
    padding_id = family_of(config).padding_id
    return (config.pad_token_id if padding_id is None else padding_id) + 1


def longest_input(config: PreTrainedConfig) -> int:
    """The longest input, in tokens, that the backbone has positions for."""
    return config.max_position_embeddings - first_position(config)


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    model_class: Any = MODEL_MAPPING[type(config)]  # of some types several classes, none of them with such a setting
    parameters = inspect.signature(model_class).parameters if inspect.isclass(model_class) else {}
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}
