"""Launch configurations of the Triton kernels per architecture: a small table instead of autotuning.

How the numbers were chosen, by counting and by what the compiler reports (no measurement yet). A thread holds
`block_tokens * C / (32 * num_warps)` accumulators: mostly 64 with 16-bit operands, and 32 in float32, where the
operands take registers too. Longer tiles read the projection weights less often (each tile reads all of them from the
level 2 cache), shorter ones waste less on short samples: the mean length decides, where both are listed. The hidden
states and weights under way take `(num_stages - 1) * (block_tokens + C) * block_hidden` elements of shared memory at
least. Every entry is compiled ahead of time by the tests, which assert that no register spills (with the newest Triton;
an older assembler keeps a few in memory) and that shared memory fits; in float32 that depends on details, since the
assembler would rather spill a few bytes than give up a second program per multiprocessor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

NARROW_SIZES = (64, 128, 256)
MAX_TOP_K_LABELS = 8192  # the top-k entropy holds all logits of a sample in registers
SHORT = 64  # a mean length up to this takes the short tile


@dataclass(frozen=True)
class AttentiveHeadConfig:
    """The launch of an attentive head."""

    block_tokens: int  # rows of a tile of hidden states
    block_hidden: int  # step of the projection along H
    block_rows: int  # rows of a query or value matrix, or of output weights, per step
    num_warps: int
    num_stages: int  # steps of the projection under way


@dataclass(frozen=True)
class CompactConfig:
    """The two launches of a compaction."""

    block_samples: int  # samples that one program of the first launch places
    block_words: int  # words of at most 4 bytes that one step of the second launch copies
    num_warps: int


@dataclass(frozen=True)
class PooledExitHeadConfig:
    """The launch of a pooled head."""

    block_tokens: int  # rows of a tile of hidden states
    block_columns: int  # columns of it
    block: int  # rows and columns of a tile of weights; labels per step
    num_warps: int


@dataclass(frozen=True)
class TileConfig:
    """The launch of an element-wise kernel."""

    block_rows: int
    block_columns: int
    num_warps: int


# [architecture][16-bit hidden states?, C] = (tile for short samples, tile for longer ones)
_AMPERE = {
    (True, 64): (AttentiveHeadConfig(64, 64, 32, 4, 4),) * 2,
    (True, 128): (AttentiveHeadConfig(64, 64, 32, 4, 3),) * 2,
    (True, 256): (AttentiveHeadConfig(64, 64, 16, 8, 3),) * 2,
    (False, 64): (AttentiveHeadConfig(64, 16, 16, 4, 3),) * 2,
    (False, 128): (AttentiveHeadConfig(32, 16, 32, 4, 3),) * 2,
    (False, 256): (AttentiveHeadConfig(32, 16, 32, 8, 2),) * 2,
}
# Matrix instructions that read both operands from shared memory leave registers for tiles of 128 tokens.
_HOPPER = {
    **_AMPERE,
    (True, 64): (AttentiveHeadConfig(64, 64, 32, 4, 4), AttentiveHeadConfig(128, 64, 32, 4, 3)),
    (True, 128): (AttentiveHeadConfig(64, 64, 32, 4, 3), AttentiveHeadConfig(128, 64, 32, 8, 3)),
    (False, 128): (AttentiveHeadConfig(64, 16, 32, 8, 3),) * 2,
}
_BLACKWELL = {**_HOPPER, (True, 64): (AttentiveHeadConfig(64, 64, 16, 4, 4), AttentiveHeadConfig(128, 64, 32, 4, 3))}
# By compute capability; all others use sm_80's, which fit the 99 KB of shared memory of the smaller GPUs.
ATTENTIVE_HEAD = {80: _AMPERE, 90: _HOPPER, 100: _BLACKWELL}
DEFAULT = 80

# The kernel that does not project the tokens, on all architectures. It takes block_hidden rows of the projection
# weights at a time, too. [16-bit hidden states?, C]
LINEAR_ATTENTIVE_HEAD = {
    (True, 64): AttentiveHeadConfig(64, 64, 16, 4, 3),
    (True, 128): AttentiveHeadConfig(64, 64, 16, 4, 3),
    (True, 256): AttentiveHeadConfig(64, 32, 16, 8, 3),
    (False, 64): AttentiveHeadConfig(32, 32, 32, 8, 3),
    (False, 128): AttentiveHeadConfig(32, 32, 32, 8, 3),
    (False, 256): AttentiveHeadConfig(32, 32, 16, 8, 3),
}

# Copying and vector-matrix products need bytes under way and nothing else: one entry serves all architectures.
POOLED_EXIT_HEAD = PooledExitHeadConfig(block_tokens=16, block_columns=256, block=64, num_warps=4)
COMPACT = CompactConfig(block_samples=1024, block_words=4096, num_warps=4)

# Of the encoder layer, on all architectures. A thread holds 16 or 32 elements: 16-byte accesses, several under way, and
# registers for half of the threads that a multiprocessor can have, or more. Where the warps just span a row of 16-bit
# elements the bias stays in the registers that need it, else it goes through shared memory.
BIAS_ACTIVATION = TileConfig(block_rows=4, block_columns=512, num_warps=2)
# A row has to fit into a tile; the narrowest is taken.
WHOLE_ROWS = (
    TileConfig(2, 512, 2),
    TileConfig(2, 1024, 4),
    TileConfig(1, 2048, 4),
    TileConfig(1, 4096, 8),
    TileConfig(1, 8192, 16),
)


def attentive_head(hidden: Tensor, batch: int, narrow: int) -> AttentiveHeadConfig:
    """Return the configuration for `hidden` [T, H] of `batch` samples on its device."""
    table = ATTENTIVE_HEAD.get(_capability(hidden.device), ATTENTIVE_HEAD[DEFAULT])
    short, long = table[hidden.element_size() == 2, narrow]
    return short if short == long or hidden.shape[0] <= SHORT * batch else long


def linear_attentive_head(hidden: Tensor, narrow: int) -> AttentiveHeadConfig:
    """Return the configuration of the kernel that does not project the tokens, for `hidden` [T, H]."""
    return LINEAR_ATTENTIVE_HEAD[hidden.element_size() == 2, narrow]


def whole_rows(hidden_size: int) -> TileConfig | None:
    """Return the configuration for rows of `hidden_size` elements, or None where no tile is wide enough."""
    for config in WHOLE_ROWS:
        if hidden_size <= config.block_columns:
            return config
    return None


@cache
def _capability(device: torch.device) -> int:
    if device.type != "cuda":
        return DEFAULT
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
