"""Padded texts on their way into a recorded graph: their checks, positions, packing and embedding are a stage of it.

Whoever packs in front of a graph has to know the number of tokens, for which the host waits, and launches some fifty
small operations. Here a call copies its ids, mask and token types, B x L cells each, and a few numbers to a fixed
place. The rest has the shapes of the bucket, which has as many rows as there are cells: where fewer are tokens, dummies
own the others. A fault lets no sample in, so that no layer runs, and is read together with the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastbert_kernels.engine.buckets import MAX_SAMPLES, Bucket
from fastbert_kernels.engine.packed import PackedBatch

NUMBERS = 4  # in front of the Speeds: samples, length, whether there is a mask, whether there are token types


@dataclass(frozen=True)
class Entrance:
    """How token ids become what the first layer takes.

    Attributes:
        embed: (ids int64 [T], positions int64 [T], segments int64 [T], None where all are one) -> [T, H], on the
            device, without the host reading anything.
        tables: the parameters that `embed` reads. A graph reads them where they lie.
        vocabulary: number of token ids, from 0.
        num_segments: number of token types, from 0; with 1, `embed` gets none.
        first_position: row of the position table that the first token of a sample takes.
        longest: most tokens of a sample for which there are positions.
        from_the_left: whether it is a fault, too, where the tokens of a sample do not fill its row from the left
            without a gap.
        padding: id of padding over which positions do not count, masked or not, and whose own row is the one before
            `first_position`; -1 where they count columns.
    """

    embed: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    tables: tuple[Tensor, ...]
    vocabulary: int
    num_segments: int
    first_position: int
    longest: int
    from_the_left: bool = False
    padding: int = -1

    @property
    def key(self) -> tuple[object, ...]:
        """Return what is fixed in a recording: one with another key computes something else."""
        return (
            self.vocabulary,
            self.num_segments,
            self.first_position,
            self.longest,
            self.from_the_left,
            self.padding,
            *[(table.data_ptr(), table.dtype) for table in self.tables],
        )


@dataclass(frozen=True)
class PaddedCall:
    """A call with B texts, padded to L; B and L at least 1.

    Attributes:
        ids: integers [B, L].
        mask: integers or bool [B, L], 1 for tokens and 0 for padding; None where there is none.
        types: integers [B, L], or None for 0.
        speed: of all texts, or float32 [B] on any device.
    """

    ids: Tensor
    mask: Tensor | None
    types: Tensor | None
    speed: float | Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def bucket(self) -> Bucket | None:
        """Return the bucket for as many tokens as there are cells."""
        samples, length = self.ids.shape
        return Bucket.smallest(samples * length, samples, length)


@dataclass(frozen=True)
class EntryInputs:
    """What a call is copied to.

    Attributes:
        cells: int64 [3, T]; ids, mask and token types, row behind row, in the first B x L of T.
        control: int32 [NUMBERS + MAX_SAMPLES]; the numbers, and the bits of the samples' Speeds in float32.
    """

    cells: Tensor
    control: Tensor

    @classmethod
    def empty(cls, bucket: Bucket, device: torch.device) -> EntryInputs:
        """Make memory that holds a call with one sample of one token, id 0."""
        cells = torch.zeros(3, bucket.tokens, dtype=torch.int64, device=device)
        control = torch.zeros(NUMBERS + MAX_SAMPLES, dtype=torch.int32, device=device)
        control[:2] = 1
        return cls(cells, control)

    def load(self, call: PaddedCall) -> None:
        """Copy what of a call lies on the device: one launch where all of it is int64, else one for each."""
        count = call.ids.numel()
        given = [(row, tensor) for row, tensor in enumerate((call.ids, call.mask, call.types)) if tensor is not None]
        targets = [self.cells[row, :count] for row, _ in given]
        sources = [tensor.reshape(-1) for _, tensor in given]
        if all(source.dtype == torch.int64 for source in sources):
            torch._foreach_copy_(targets, sources)
        else:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        if isinstance(call.speed, Tensor) and call.speed.device.type != "cpu":
            self.control.view(torch.float32)[NUMBERS : NUMBERS + len(call)].copy_(call.speed)


def enter(inputs: EntryInputs, target: PackedBatch, bucket: Bucket, entrance: Entrance, fault: Tensor) -> None:
    """Check, pack and embed a call. All shapes are those of the bucket, and the host reads nothing.

    Args:
        inputs: the call.
        target: receives the batch in front of the first layer: real samples numbered from 1, none if there is a fault,
            and empty dummies behind them.
        bucket: its capacity.
        entrance: of the model.
        fault: int32 [1], receives whether an id or token type is outside its table, the mask holds something else than
            0 and 1, a sample has no token, or what the entrance says.
    """
    words, positions, segments = pack(inputs, target, bucket, entrance, fault)
    target.hidden.copy_(entrance.embed(words, positions, None if entrance.num_segments == 1 else segments))


def pack(
    inputs: EntryInputs, target: PackedBatch, bucket: Bucket, entrance: Entrance, fault: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Check and pack a call in plain PyTorch; arguments as of `enter`, and the rows of `target` stay as they are.

    Returns:
        Ids, positions and token types of the tokens, int64 [T] in range; of some token behind them.
    """
    device, size = inputs.cells.device, bucket.samples
    ids, mask, types = inputs.cells
    samples, length, masked, typed = inputs.control[:NUMBERS].long().unbind()
    cell = torch.arange(bucket.tokens, device=device)
    row = cell // length
    column = cell - row * length
    inside, marked, types = row < samples, mask != 0, types * typed
    valid = inside & (marked | (masked == 0))
    wrong = _outside(ids, entrance.vocabulary) | _outside(types, entrance.num_segments)
    wrong = inside & (wrong | (marked & (mask != 1) & (masked != 0)))

    ends = valid.cumsum(0)
    sample = torch.arange(size, device=device)
    before = torch.cat((ends.new_zeros(1), ends))  # tokens in front of a cell
    if entrance.from_the_left:
        wrong = wrong | (valid & (column != ends - 1 - before[row * length]))
    bounds = before[torch.cat((sample, sample[-1:] + 1)).minimum(samples) * length]  # [samples + 1]
    real = sample < samples
    has_fault = wrong.any() | (real & (bounds.diff() == 0)).any()
    fault.copy_(has_fault)
    target.cu_seqlens[: size + 1].copy_(bounds)
    target.cu_seqlens[size + 1 :].copy_(bounds[-1:].expand(target.cu_seqlens.shape[0] - size - 1))
    speeds = inputs.control.view(torch.float32)[NUMBERS : NUMBERS + size]
    for values, new in (
        (target.sample_index, (sample + 1).masked_fill(~real | has_fault, 0)),
        (target.speed, speeds.masked_fill(~real, 0.0)),
    ):
        values[:size].copy_(new)
        values[size:].zero_()

    # The cell of each packed row, the first one where there is no token; those that are none are put behind the rows.
    place = (ends - 1).masked_fill(~valid, bucket.tokens)
    cells = torch.zeros_like(before).scatter_(0, place, cell)[: bucket.tokens]
    by_ids = entrance.padding >= 0
    counts = (ids != entrance.padding).long()
    numbers = (counts.cumsum(0) - counts if by_ids else column)[cells]
    begins = numbers[bounds[:-1].clamp(max=bucket.tokens - 1)]  # of each sample the number of its first token
    positions = (numbers - begins[row[cells]]).clamp(0, entrance.longest - 1) + entrance.first_position
    if by_ids:
        positions = positions.masked_fill(counts[cells] == 0, entrance.first_position - 1)
    words, segments = ids[cells].clamp(0, entrance.vocabulary - 1), types[cells].clamp(0, entrance.num_segments - 1)
    return words, positions, segments


def _outside(numbers: Tensor, rows: int) -> Tensor:
    return (numbers < 0) | (numbers >= rows)
