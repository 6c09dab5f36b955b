"""The exit head of the paper and the uncertainty computed from its logits."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class AttentiveHead(nn.Module):
    """Exit head after one encoder layer (Liu et al. 2020, section 3.1, as its authors coded it).

    For the n valid tokens `X` of a sample: `Z = tanh(projection(X))`; multi-head self-attention over `Z` with
    biases and neither residual nor LayerNorm; the first valid token; `tanh(dense(.))`; `classifier(.)`.

    Args:
        hidden_size: H, the width of the backbone.
        head_hidden_size: C, the width inside the head.
        num_attention_heads: h; must divide C.
        num_labels: N.
    """

    def __init__(self, hidden_size: int, head_hidden_size: int, num_attention_heads: int, num_labels: int) -> None:
        super().__init__()
        if head_hidden_size % num_attention_heads:
            raise ValueError(
                f"head_hidden_size ({head_hidden_size}) must be divisible by num_attention_heads "
                f"({num_attention_heads})"
            )
        self.num_attention_heads = num_attention_heads
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
        batch_size = hidden.shape[0]
        projected = torch.tanh(self.projection(hidden))  # [B, L, C]
        if attention_mask is None:
            first_token = projected[:, 0]  # [B, C]
            key_mask = None
        else:
            valid = attention_mask != 0
            # With left padding the first valid token is not at index 0; argmax returns the first of equal maxima.
            first_token = projected[torch.arange(batch_size, device=hidden.device), valid.int().argmax(dim=1)]
            key_mask = valid[:, None, None, :]

        # Only the first token's attention output is used below, so only its query is needed. Keys and values are
        # those of every token, as in the paper.
        query = self._split_heads(self.query(first_token).unsqueeze(1))  # [B, h, 1, C/h]
        key = self._split_heads(self.key(projected))  # [B, h, L, C/h]
        value = self._split_heads(self.value(projected))
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        context = context.transpose(1, 2).reshape(batch_size, -1)  # [B, C]
        return self.classifier(torch.tanh(self.dense(self.attention_output(context))))

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)


def normalised_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Uncertainty `u = -sum_c p_c log p_c / log N` of `p = softmax(logits)` (Liu et al. 2020, section 3.3).

    `0 log 0` counts as 0. A row with NaN or +inf logits has the uncertainty NaN.

    Args:
        logits: float [..., N], N >= 2.

    Returns:
        float32 [...], in [0, 1] or NaN.

    Raises:
        ValueError: N < 2.
    """
    num_labels = logits.shape[-1]
    if num_labels < 2:
        raise ValueError(f"the entropy is normalised by log N, which needs N >= 2 classes, got N = {num_labels}")
    log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(dim=-1)
    # Rounding can push a uniform distribution just above 1; clamp leaves NaN alone.
    return (entropy / math.log(num_labels)).clamp(0.0, 1.0).float()
