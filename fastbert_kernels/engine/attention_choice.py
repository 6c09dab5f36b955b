"""Which kernel computes the attention of a packed batch on a GPU: by dtype, head size and batch, and by what was
measured on the machine at hand. The one place that chooses; `engine.attention` has the ways themselves."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from fastbert_kernels.measured_once import MeasuredOnce

VARIABLE = "FASTBERT_ATTENTION"

VARLEN = "varlen"  # FlashAttention on the packed rows
DENSE = "dense"  # scaled_dot_product_attention on a view, where all samples are equally long
PADDED = "padded"  # the same on rows that are gathered for it, with a mask
WAYS = (VARLEN, DENSE, PADDED)  # in the order in which they are taken where nothing was measured

# Tokens and length of the samples of the batches that are measured: small ones, of which launches are the most, and
# large ones.
SHAPES = ((1024, 128), (1024, 512), (16384, 128), (16384, 512))
_ROUNDS, _CALLS = 3, 10

Shape = tuple[int, int]
# (way, shape) -> a call that computes the attention of such a batch
MakeCall = Callable[[str, Shape], Callable[[], object]]
Clock = Callable[[Callable[[], object]], float]  # -> seconds of a call


@dataclass(frozen=True, eq=False)
class AttentionChoice:
    """How to choose for the layers of one encoder.

    Attributes:
        times: shape, of `SHAPES` -> way -> seconds; empty where nothing was measured.
        wanted: the way to take wherever it can be taken, or None.
    """

    times: Mapping[Shape, Mapping[str, float]]
    wanted: str | None = None

    def way(
        self, tokens: int, samples: int, longest: int, dtype: torch.dtype, head_size: int, *, biased: bool = False
    ) -> str:
        """Return the way for a batch.

        Args:
            tokens: T.
            samples: B.
            longest: an upper bound of their lengths.
            dtype: of the rows.
            head_size: of query, key and value.
            biased: whether something is added to the scores.
        """
        possible = [PADDED]
        cells = samples * longest
        if tokens == cells:  # so every sample has the length of the bound
            possible.insert(0, DENSE)
        if not biased and varlen_takes(dtype, head_size):
            possible.insert(0, VARLEN)
        if self.wanted is not None and self.wanted in possible:
            return self.wanted
        if not self.times:
            return possible[0]
        measured = self.times.get(_nearest(tokens, tokens / max(1, samples)), {})
        known = [way for way in possible if way in measured]
        if not known:
            return possible[0]
        return min(known, key=lambda way: measured[way] * (tokens if way == VARLEN else cells))

    def as_dict(self) -> dict[str, dict[str, float]] | str | None:
        """Return the times in microseconds, for people, or the way that was wanted; None where there is neither."""
        if self.wanted is not None:
            return self.wanted
        if not self.times:
            return None
        return {
            f"{tokens} tokens in samples of {length}": {way: round(1e6 * value, 1) for way, value in times.items()}
            for (tokens, length), times in self.times.items()
        }


UNMEASURED = AttentionChoice({})


def varlen_takes(dtype: torch.dtype, head_size: int) -> bool:
    """Return whether the FlashAttention kernels have such heads; only `scaled_dot_product_attention` pads other sizes,
    and only it adds to the scores."""
    return dtype in (torch.float16, torch.bfloat16) and head_size % 8 == 0 and head_size <= 256


def _nearest(tokens: int, length: float) -> Shape:
    """Return the one of `SHAPES` whose times hold for such a batch."""
    return (1024 if tokens < 4096 else 16384), (128 if length <= 256 else 512)


# By device, dtype, number and size of heads.
_measured: MeasuredOnce[tuple[torch.device, torch.dtype, int, int], AttentionChoice] = MeasuredOnce()


def choice_for(
    device: torch.device,
    dtype: torch.dtype,
    num_heads: int,
    head_size: int,
    make_call: MakeCall,
    clock: Clock | None = None,
) -> AttentionChoice:
    """Return the choice for layers with such heads.

    The first call for a device and kind of heads measures, some 50 ms by count; the same answer is given from then on.
    The environment variable FASTBERT_ATTENTION, one of `WAYS`, takes the place of the measurement. On a CPU there is
    nothing to choose.

    Args:
        device: of the weights.
        dtype: of the rows.
        num_heads: of a layer.
        head_size: of query, key and value.
        make_call: makes what is timed.
        clock: None takes that of the device.

    Raises:
        ValueError: the environment variable is something else.
    """
    if (wanted := os.environ.get(VARIABLE)) is not None and wanted not in WAYS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(WAYS)}, not {wanted!r}; unset it to have them measured")
    if device.type != "cuda" or not torch.cuda.is_available():
        return UNMEASURED
    if wanted is not None:
        return AttentionChoice({}, wanted)

    def measured() -> AttentionChoice:
        ways = [way for way in WAYS if way != VARLEN or varlen_takes(dtype, head_size)]
        return AttentionChoice(measure(ways, make_call, partial(_device_seconds, device) if clock is None else clock))

    return _measured.get((device, dtype, num_heads, head_size), measured)


def measure(ways: list[str], make_call: MakeCall, clock: Clock) -> dict[Shape, dict[str, float]]:
    """Measure ways on batches of samples that are equally long; one that fails there is left out.

    Args:
        ways: of `WAYS`.
        make_call: makes what is timed.
        clock: times it.

    Returns:
        shape -> way -> seconds.
    """
    times: dict[Shape, dict[str, float]] = {shape: {} for shape in SHAPES}
    for shape in SHAPES:
        for way in ways:
            try:
                seconds = clock(make_call(way, shape))
            except RuntimeError:  # no kernel, or no memory, for such rows
                continue
            if 0 < seconds < math.inf:
                times[shape][way] = seconds
    return times


def _device_seconds(device: torch.device, call: Callable[[], object]) -> float:
    """Return what one of many calls in a row takes: work or, where that is more, the host."""
    for _ in range(3):  # kernels are loaded, and libraries choose theirs
        call()
    best = math.inf
    for _ in range(_ROUNDS):
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - begin) / _CALLS)
    return best
