"""From padded tensors of a host model to packed rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of calls that a model's own forward answers.
PADDING_FIRST = "padding at the first position, which the model reads its answer from (pad on the right)"


@dataclass(frozen=True)
class ValidTokens:
    """Where the tokens of a padded batch are.

    Attributes:
        rows: int64 [T], their places among the B x L of the batch, sample behind sample.
        cu_seqlens: int32 [B + 1].
        max_seqlen: L, an upper bound of the lengths.
    """

    rows: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, valid: Tensor) -> ValidTokens:
        """Find the tokens of a batch; on a GPU the host waits here, to learn T.

        Args:
            valid: bool [B, L], False for padding; every sample has a token (`check_tokens`).
        """
        lengths = valid.sum(dim=1)
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=valid.device)
        torch.cumsum(lengths, dim=0, out=cu_seqlens[1:])
        return cls(valid.flatten().nonzero().flatten(), cu_seqlens, valid.shape[1])

    def take(self, padded: Tensor) -> Tensor:
        """Return the rows [T, ...] of `padded` [B, L, ...] that are tokens."""
        return padded.flatten(0, 1)[self.rows]


def has_gaps(valid: Tensor) -> bool:
    """Return whether padding lies between tokens of a sample of `valid` [B, L]; on a GPU the host waits."""
    begins = valid[:, 1:] & ~valid[:, :-1]
    return bool((begins.sum(dim=1) + valid[:, 0] > 1).any())


def check_tokens(valid: Tensor) -> None:
    """Raise ValueError, which names the samples, where a row of `valid` [B, L] has no token."""
    if not bool((found := valid.any(dim=1)).all()):
        raise ValueError(f"no valid token in row(s) {(~found).nonzero().flatten().tolist()}")
