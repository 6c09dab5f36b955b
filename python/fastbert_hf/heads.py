"""Exit heads: the branches that can let a sample out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

from fastbert_hf.bag import HashedBag

if TYPE_CHECKING:
    from fastbert_hf.configuration import FastBertConfig  # which imports the names of poolings and activations

POOLINGS = ("first", "mean", "max")
ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
}
ATTENTIVE_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "identity": nn.Identity(),
}


class AttentiveHead(nn.Module):
    """Exit head after one encoder layer (Liu et al. 2020, section 3.1, as its authors coded it).

    For the n valid tokens `X` of a sample: `Z = tanh(projection(X))`; multi-head self-attention over `Z` with
    biases and neither residual nor LayerNorm; the first valid token; `tanh(dense(.))`; `classifier(.)`.

    Args:
        hidden_size: H, the width of the backbone.
        head_hidden_size: C, the width inside the head.
        num_attention_heads: h; must divide C.
        num_labels: N.
        activation: behind `projection` and `dense`: "tanh", the paper's, or "identity" for none.

    Raises:
        ValueError: h does not divide C, or an unknown activation.
    """

    def __init__(
        self,
        hidden_size: int,
        head_hidden_size: int,
        num_attention_heads: int,
        num_labels: int,
        *,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        if activation not in ATTENTIVE_ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ATTENTIVE_ACTIVATIONS)}")
        if head_hidden_size % num_attention_heads:
            raise ValueError(
                f"head_hidden_size ({head_hidden_size}) must be divisible by num_attention_heads "
                f"({num_attention_heads})"
            )
        self.num_attention_heads = num_attention_heads
        self.activation = activation
        self.projection = nn.Linear(hidden_size, head_hidden_size)
        self.query = nn.Linear(head_hidden_size, head_hidden_size)
        self.key = nn.Linear(head_hidden_size, head_hidden_size)
        self.value = nn.Linear(head_hidden_size, head_hidden_size)
        self.attention_output = nn.Linear(head_hidden_size, head_hidden_size)
        self.dense = nn.Linear(head_hidden_size, head_hidden_size)
        self.classifier = nn.Linear(head_hidden_size, num_labels)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of a padded batch.

        Args:
            hidden: output of the encoder layer, float [B, L, H].
            attention_mask: [B, L], non-zero where a token is valid; `None` when all are. Every row needs a valid
                token.

        Returns:
            Logits [B, N] in the dtype of the computation.
        """
        activation = ATTENTIVE_ACTIVATIONS[self.activation]
        projected = activation(self.projection(hidden))  # [B, L, C]
        if attention_mask is None:
            first_token = projected[:, 0]  # [B, C]
            key_mask = None
        else:
            valid = attention_mask != 0
            first_token = _first_valid(projected, valid)
            key_mask = valid[:, None, None, :]

        # Only the first token's attention output is used below, so only its query is needed. Keys and values are
        # those of every token, as in the paper.
        query = self._split_heads(self.query(first_token).unsqueeze(1))  # [B, h, 1, C/h]
        key = self._split_heads(self.key(projected))  # [B, h, L, C/h]
        value = self._split_heads(self.value(projected))
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        context = context.transpose(1, 2).flatten(1)  # [B, C]
        return self.classifier(activation(self.dense(self.attention_output(context))))

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"num_attention_heads={self.num_attention_heads}, activation={self.activation!r}"


class PooledHead(nn.Module):
    """Exit head that pools and classifies: pool(X), then (Linear, activation) up to twice, then Linear.

    `pooling="first"` without dense layers is the linear highway of DeeBERT (Xin et al. 2020, section 3.1); with one
    dense layer and tanh it is BERT's pooler and classifier.

    Args:
        hidden_size: H, the width of the backbone.
        head_hidden_size: C, the width of the dense layers.
        num_labels: N.
        pooling: "first", "mean" or "max", over the valid tokens of a sample.
        num_dense_layers: dense layers before the classifier.
        activation: behind every dense layer: "tanh", "relu" or "gelu".

    Raises:
        ValueError: unknown pooling or activation.
    """

    def __init__(
        self,
        hidden_size: int,
        head_hidden_size: int,
        num_labels: int,
        *,
        pooling: str = "first",
        num_dense_layers: int = 1,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        self.pooling = pooling
        self.activation = activation
        widths = [hidden_size, *[head_hidden_size] * num_dense_layers]
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.classifier = nn.Linear(widths[-1], num_labels)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, N] of a padded batch; arguments as in `AttentiveHead.forward`."""
        features = self._pool(hidden, None if attention_mask is None else attention_mask != 0)  # [B, H]
        for layer in self.dense:
            features = ACTIVATIONS[self.activation](layer(features))
        return self.classifier(features)

    def _pool(self, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        if self.pooling == "first":
            return hidden[:, 0] if valid is None else _first_valid(hidden, valid)
        if self.pooling == "max":
            if valid is not None:
                hidden = hidden.masked_fill(~valid[:, :, None], -math.inf)
            return hidden.amax(dim=1)
        if valid is None:
            return hidden.mean(dim=1)
        # Filled, not multiplied with 0: padding may hold NaN. Summed in float32: 16 bits lose tokens of long rows.
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.masked_fill(~valid[:, :, None], 0.0).sum(dim=1, dtype=wide)
        return (total / valid.sum(dim=1, keepdim=True)).to(hidden.dtype)

    def extra_repr(self) -> str:
        return f"pooling={self.pooling!r}, activation={self.activation!r}"


def _first_valid(states: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The first valid token [B, C] of every row of `states` [B, L, C]; with left padding it is not at index 0."""
    rows = torch.arange(states.shape[0], device=states.device)
    return states[rows, valid.int().argmax(dim=1)]  # argmax returns the first of equal maxima


def make_head(config: FastBertConfig, layer: int) -> nn.Module:
    """Return a fresh exit head for behind `layer` (0: before the first) of a model."""
    num_labels = cast(int, config.num_labels)
    if layer == 0:
        return HashedBag(config.exit_zero_buckets, num_labels)
    if config.head_type == "attentive":
        return AttentiveHead(
            config.hidden_size,
            config.head_hidden_size,
            config.head_num_attention_heads,
            num_labels,
            activation=config.head_activation,
        )
    is_student = layer < config.exit_layers[-1]
    return PooledHead(
        config.hidden_size,
        config.head_hidden_size,
        num_labels,
        pooling=(config.student_pooling if is_student else None) or config.head_pooling,
        num_dense_layers=config.head_num_dense_layers,
        activation=config.head_activation,
    )
