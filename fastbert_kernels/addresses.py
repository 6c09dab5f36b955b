"""Numbers in tensors that say where memory is read or written: checked before PyTorch follows them.

The compiled CPU kernels make the same checks in C++, in the same words (csrc/binding/tensor.cpp). The kernels on a GPU
make none, since reading a number there is to wait for the device (docs/architecture.md).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor


def check_bounds(cu_seqlens: Tensor, tokens: int) -> int:
    """Return where the last sample ends.

    Args:
        cu_seqlens: [B + 1] int32.
        tokens: rows of the hidden states.

    Raises:
        ValueError: they do not begin with 0, decrease, or end behind the last row.
    """
    bounds = cu_seqlens.tolist()
    for entry, (before, bound) in enumerate(pairwise([0, *bounds])):
        if bound < before or bound > tokens or (entry == 0 and bound != 0):
            raise ValueError(
                f"cu_seqlens must begin with 0, not decrease and end within the {tokens} rows of hidden, but entry "
                f"{entry} is {bound}"
            )
    return int(bounds[-1])


def check_rows(name: str, values: Tensor, rows: int) -> None:
    """Raise IndexError where one of `values`, integers of any shape, is none of 0..rows - 1."""
    if values.numel() == 0:
        return
    lowest, highest = (int(value) for value in values.aminmax())
    if lowest < 0 or highest >= rows:
        raise IndexError(f"{name} must lie in 0..{rows - 1}, but they go from {lowest} to {highest}")
