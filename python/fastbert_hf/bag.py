"""Exit zero: a hashed bag of tokens and of pairs of neighbours, the student classifier before the first encoder layer.

Of a text with the tokens w_1 .. w_n, special tokens included, it has the logits

    bias + (sum_i W[bucket(w_i)] + sum_i W[bucket(w_i, w_i+1)]) / sqrt(2 n - 1)

with one row of N numbers for each bucket: a linear classifier on hashed counts (Joulin et al. 2017, without the
narrow layer in between, which a table of N columns does not need). A text costs 2 n - 1 short rows and no product.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

DEFAULT_BUCKETS = 2**18
MOST_BUCKETS = 2**31  # of 32 bits that are mixed


class HashedBag(nn.Module):
    """Linear classifier on the hashed tokens and pairs of neighbours of a text; segments are not told apart.

    Fresh, it answers 0 for every class, whose uncertainty is 1, so that nobody leaves.

    Args:
        num_buckets: rows of the table, a power of 2.
        num_labels: N.
    """

    def __init__(self, num_buckets: int, num_labels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(num_buckets, num_labels))
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits of a padded batch.

        Args:
            input_ids: int64 or int32 [B, L].
            attention_mask: [B, L], non-zero where a token is valid; `None` when all are. Every row needs a valid token.

        Returns:
            [B, N]; float32, of float64 weights float64.
        """
        valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
        return self.of_packed(input_ids[valid], valid.sum(dim=1))

    def of_packed(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, N] of texts whose tokens lie one text behind the other.

        Args:
            input_ids: int64 or int32 [T].
            lengths: int64 [B], tokens of each text, at least 1.
        """
        grams, counts = hashed_grams(input_ids, lengths, self.table.shape[0])
        rows = functional.embedding(grams, self.table)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        every = torch.arange(len(grams), device=grams.device)
        sums = functional.embedding_bag(every, rows, counts.cumsum(0) - counts, mode="sum")
        return sums / counts.to(sums.dtype).sqrt()[:, None] + self.bias

    def extra_repr(self) -> str:
        return f"num_buckets={self.table.shape[0]}, num_labels={self.table.shape[1]}"


def hashed_grams(input_ids: torch.Tensor, lengths: torch.Tensor, num_buckets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the buckets of all tokens and pairs of neighbours, text behind text.

    Args:
        input_ids: int64 or int32 [T], the tokens of B texts.
        lengths: int64 [B], at least 1.
        num_buckets: a power of 2.

    Returns:
        int64 [2 T - B], of each text w_1, (w_1, w_2), w_2, .. w_n in turn; and how many those are, int64 [B].
    """
    ids = input_ids.long()
    grams = torch.stack([bucket(ids, None, num_buckets), bucket(ids, ids.roll(-1), num_buckets)], dim=1)  # [T, 2]
    is_gram = torch.ones_like(grams, dtype=torch.bool)
    is_gram[lengths.cumsum(0) - 1, 1] = False  # behind the last token of a text nothing of it follows
    return grams[is_gram], 2 * lengths - 1


def bucket(token: torch.Tensor, following: torch.Tensor | None, num_buckets: int) -> torch.Tensor:
    """Return the bucket of tokens, or of pairs of neighbours, int64 in 0..num_buckets - 1.

    All in integers of 32 bits without sign: with f = 0 for a token alone, else the id that follows plus 1,
    x = 0x9E3779B1 w + 0x85EBCA77 f, which is mixed so that every bit depends on every other (xor with itself shifted by
    15, times 0x2C1B3C6D, by 12, times 0x297A2D39, by 15); its lowest bits are the bucket.

    Args:
        token: int64, ids w.
        following: int64, ids of the tokens behind them; `None` for tokens alone.
        num_buckets: a power of 2, at most 2^31.
    """
    mixed = token * 0x9E3779B1
    if following is not None:
        mixed = mixed + (following + 1) * 0x85EBCA77
    mixed = mixed & _BITS
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39), (15, 1)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _BITS
    return mixed & (num_buckets - 1)


_BITS = 0xFFFFFFFF
