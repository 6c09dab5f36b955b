"""A cache on disk of what the frozen backbone computes, for distillation over several epochs.

One memory-mapped file holds the hidden states behind every student classifier, of valid tokens only: `[T, S, H]`, token
after token and sample after sample, so that a sample is one run of bytes. Two small ones hold the teacher's logits and
which samples are there. All are deleted as soon as every process has opened them: the system frees the space when the
last process closes them, whatever ends it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


@dataclass(frozen=True)
class CacheShape:
    """What a cache has to hold.

    Attributes:
        lengths: tokens of every one of the n samples; T in all.
        num_students: S.
        hidden_size: H.
        num_labels: N.
        dtype: of the hidden states; the logits are float32.
    """

    lengths: list[int]
    num_students: int
    hidden_size: int
    num_labels: int
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Return the space on the disk."""
        states = sum(self.lengths) * self.num_students * self.hidden_size * self.dtype.itemsize
        return states + len(self.lengths) * (self.num_labels * torch.float32.itemsize + torch.uint8.itemsize)


def check_cache_size(shape: CacheShape, folder: str | Path, limit_gb: float) -> None:
    """Raise `ValueError` when the cache is larger than `limit_gb` (10^9 bytes) or the free space of `folder`'s disk."""
    needed = shape.num_bytes / 1e9
    half = ", keep them in bfloat16 (half the space)" if shape.dtype == torch.float32 else ""
    contents = f"{needed:.3g} GB ({sum(shape.lengths)} tokens x {shape.num_students} exit layers x {shape.hidden_size})"
    if needed > limit_gb:
        raise ValueError(
            f"the frozen hidden states take {contents}, more than the limit of {limit_gb:g} GB; raise the limit{half}, "
            "shorten the texts (max_length), or train without the cache"
        )
    free = shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise ValueError(
            f"the frozen hidden states take {contents}, but the disk of {folder} has {free:.3g} GB free; choose "
            f"another folder{half}, shorten the texts (max_length), or train without the cache"
        )


class FrozenStates:
    """Hidden states and teacher's logits of the samples of a data set, filled and read batch by batch.

    Args:
        shape: what there is to hold.
        folder: where `reserve` has made the files.
    """

    def __init__(self, shape: CacheShape, folder: Path) -> None:
        self._lengths = torch.tensor(shape.lengths)
        self._offsets = self._lengths.cumsum(dim=0) - self._lengths
        self._states = _map(folder / "states", (sum(shape.lengths), shape.num_students, shape.hidden_size), shape.dtype)
        self._logits = _map(folder / "logits", (len(shape.lengths), shape.num_labels), torch.float32)
        self._known = _map(folder / "known", (len(shape.lengths),), torch.uint8)

    @classmethod
    def create(
        cls, shape: CacheShape, cache_dir: str | Path, limit_gb: float, accelerator: Accelerator
    ) -> FrozenStates:
        """Make an empty cache that all processes share; every process calls it.

        Raises:
            ValueError: too large (`check_cache_size`), or processes on several machines.
            OSError: `cache_dir` cannot be written to.
        """
        if int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)) != accelerator.num_processes:
            raise ValueError("the processes of several machines cannot share a cache on disk; train without it")
        folder: list[str] = [""]
        if accelerator.is_main_process:
            os.makedirs(cache_dir, exist_ok=True)
            check_cache_size(shape, cache_dir, limit_gb)
            folder = [tempfile.mkdtemp(prefix="fastbert-frozen-states-", dir=cache_dir)]
        try:
            if accelerator.is_main_process:
                _reserve(shape, Path(folder[0]))
            broadcast_object_list(folder)
            states = cls(shape, Path(folder[0]))
            accelerator.wait_for_everyone()
        finally:
            if accelerator.is_main_process:
                shutil.rmtree(folder[0])
        return states

    def knows(self, samples: torch.Tensor) -> bool:
        """Return True if every one of `samples`, int64 [B] on the CPU, is in the cache."""
        return bool(self._known[samples].all())

    def write(
        self,
        samples: torch.Tensor,
        attention_mask: torch.Tensor,
        hidden_states: list[torch.Tensor],
        teacher_logits: torch.Tensor,
    ) -> None:
        """Keep a batch.

        Args:
            samples: int64 [B] on the CPU.
            attention_mask: [B, L], non-zero where a token is valid.
            hidden_states: S tensors [B, L, H] on any device.
            teacher_logits: [B, N] on any device.
        """
        valid = torch.stack(hidden_states, dim=2)[attention_mask != 0]  # [tokens, S, H]
        self._states[self._rows(samples)] = valid.to("cpu", self._states.dtype)
        self._logits[samples] = teacher_logits.to("cpu", torch.float32)
        self._known[samples] = 1

    def read(self, samples: torch.Tensor, attention_mask: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return `hidden_states` (float32, zeros at padding) and `teacher_logits` of a batch, where its mask is."""
        device = attention_mask.device
        rows = self._states[self._rows(samples)].to(device)
        hidden = torch.zeros(*attention_mask.shape, *rows.shape[1:], device=device)
        hidden[attention_mask != 0] = rows.float()
        return list(hidden.unbind(dim=2)), self._logits[samples].to(device)

    def _rows(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the rows of every valid token of `samples`, in order."""
        lengths = self._lengths[samples]
        ends = lengths.cumsum(dim=0)
        shifts = self._offsets[samples] - (ends - lengths)
        return torch.arange(int(ends[-1])) + shifts.repeat_interleave(lengths)


def _reserve(shape: CacheShape, folder: Path) -> None:
    """Make the files at their full size, so that a disk that fills up later cannot end the process in mid-write."""
    sizes = {
        "states": sum(shape.lengths) * shape.num_students * shape.hidden_size * shape.dtype.itemsize,
        "logits": len(shape.lengths) * shape.num_labels * torch.float32.itemsize,
        "known": len(shape.lengths),
    }
    for name, size in sizes.items():
        with open(folder / name, "wb") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)


def _map(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = torch.Size(shape).numel()
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
