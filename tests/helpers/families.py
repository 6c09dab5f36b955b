"""Tiny backbones of every supported family, and of types that are supported for their structure."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from fastbert_hf import FastBertConfig, FastBertForSequenceClassification

NUM_LAYERS = 4
VOCABULARY = 50
PADDING_ID = 1  # RoBERTa's; below every id of `make_batch`
LONGEST = 24

# Name of the case: model type and what is special about it.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "roberta": ("roberta", {"max_position_embeddings": LONGEST + 2, "type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", {"max_position_embeddings": LONGEST + 2, "type_vocab_size": 1}),
    "camembert": ("camembert", {"max_position_embeddings": LONGEST + 2, "type_vocab_size": 1}),
    "electra-small": ("electra", {"embedding_size": 12}),
    "electra-base": ("electra", {"embedding_size": 32}),
    "distilbert": ("distilbert", {"hidden_dim": 64, "activation": "relu"}),
    "distilbert-sinusoidal": ("distilbert", {"hidden_dim": 64, "sinusoidal_pos_embds": True}),
    "ernie": ("ernie", {}),
    "data2vec-text": ("data2vec-text", {"max_position_embeddings": LONGEST + 2, "type_vocab_size": 1}),
    "bert-generation": ("bert-generation", {}),
    "mpnet": ("mpnet", {"max_position_embeddings": LONGEST + 2}),
}
WITH_SEGMENTS = ("bert", "electra-small", "electra-base", "ernie")
_ACTIVATIONS = {"first": "tanh", "mean": "gelu", "max": "relu"}
HEADS = {
    "attentive": {},
    **{
        f"{pooling}, {layers} dense": {
            "head_type": "pooled",
            "head_pooling": pooling,
            "head_num_dense_layers": layers,
            "head_activation": activation,
        }
        for pooling, activation in _ACTIVATIONS.items()
        for layers in (0, 1, 2)
    },
    "first, students mean": {"head_type": "pooled", "student_pooling": "mean"},
}


def make_backbone_config(family: str, **changes: Any) -> PreTrainedConfig:
    model_type, special = FAMILIES[family]
    fields: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        pad_token_id=PADDING_ID,
        initializer_range=0.3,
    )
    if model_type != "distilbert":
        fields["intermediate_size"] = 64
    return AutoConfig.for_model(model_type, **(fields | special | changes))


def make_model(family: str, **settings: Any) -> FastBertForSequenceClassification:
    torch.manual_seed(0)
    config = FastBertConfig(make_backbone_config(family), **({"num_labels": 3, "head_hidden_size": 16} | settings))
    return FastBertForSequenceClassification(config).eval()


def random_model(family, *, longest=160, activation="gelu", **settings):
    """Every parameter random, uncertainties all over [0, 1], and an epsilon of LayerNorm that would be missed."""
    model_type, special = FAMILIES[family]
    first_position = special.get("max_position_embeddings", LONGEST) - LONGEST
    changes = {"vocab_size": 97, "max_position_embeddings": longest + first_position}
    if model_type == "distilbert":
        changes |= {"activation": activation}
    else:
        changes |= {"hidden_act": activation, "layer_norm_eps": 1e-2}
    backbone = make_backbone_config(family, **changes)
    config = FastBertConfig(backbone, head_hidden_size=64, **({"num_labels": 3} | settings))
    torch.manual_seed(0)
    model = FastBertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                gain = 6.0 if "classifier" in name else 1.0
                parameter.normal_(0, gain / parameter.shape[-1] ** 0.5)
            else:
                parameter.normal_(1.0 if "norm.weight" in name.lower() else 0.0, 0.1)
    return model


def make_batch(batch_size: int = 5, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids above `PADDING_ID` with padding on the right; lengths run from `length` down."""
    ids = torch.randint(PADDING_ID + 1, VOCABULARY, (batch_size, length), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(length) < (length - torch.arange(batch_size) % length)[:, None]).long()
    return ids.where(mask == 1, PADDING_ID), mask


def speed_that_divides(model: FastBertForSequenceClassification, ids: torch.Tensor, mask: torch.Tensor) -> float:
    """A Speed at which half of the samples leave before the last layer, half way between two uncertainties."""
    with torch.no_grad():
        students = model(ids, mask, output_all_exits=True).all_uncertainty[:, :-1]
    surest = students.min(dim=1).values.sort().values
    middle = len(surest) // 2
    return surest[middle - 1 : middle + 1].mean().item()
