"""Backbones: how encoders are built, loaded and called.

A backbone is a text encoder of Transformers with BERT's embeddings (tokens, absolute positions, perhaps segments) and
post-LayerNorm layers called as `layer(hidden, mask)`. `backbone_families` knows where the
families have their parts, `backbone_faults` what is no backbone.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from fastbert_hf.backbone_families import family_of, without_pooler
from fastbert_hf.backbone_faults import fault_of_config, fault_of_structure, unsupported


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


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """The backbone that `config` describes, without pooler, with random weights.

    Raises:
        ValueError: it is not an encoder that FastBERT can put exit heads on.
    """
    reason = fault_of_config(config)
    if reason is not None:
        raise unsupported(config, reason)
    backbone = AutoModel.from_config(config, **without_pooler(config))
    reason = fault_of_structure(backbone)
    if reason is not None:
        raise unsupported(config, reason)
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
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, **without_pooler(config)
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
    return cast(nn.ModuleList, backbone.get_submodule(family_of(backbone.config).layers))


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
        position_ids: int64 [B, L], rows of the position table; see `backbone_families.first_position`.
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
    if not family_of(backbone.config).relative_positions:
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
    if family_of(backbone.config).relative_positions:
        return layer(hidden, layer_mask, output_attentions=True)
    found: list[torch.Tensor] = []
    # A layer keeps them to itself. Transformers' own hooks would stay, and a patched model give way to them for good.
    attention = layer.get_submodule(family_of(backbone.config).attention)
    handle = attention.register_forward_hook(lambda module, inputs, output: found.append(output[1]))
    try:
        return run_layer(layer, hidden, layer_mask), found[0]
    finally:
        handle.remove()
