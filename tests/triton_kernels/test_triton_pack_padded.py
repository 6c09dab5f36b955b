"""The kernel that packs padded texts, interpreted: as the same in plain PyTorch, bit by bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("triton.language", reason="triton is not installed")

from fastbert_kernels.engine.buckets import Bucket
from fastbert_kernels.engine.entrance import NUMBERS, Entrance, EntryInputs, pack
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.triton.pack_padded import pack_padded, takes
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere

test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)

LIMITS = {"vocabulary": 50, "num_segments": 2, "first_position": 2, "longest": 40}
ANYWHERE = Entrance(lambda *tokens: None, (), **LIMITS)
FROM_THE_LEFT = dataclasses.replace(ANYWHERE, from_the_left=True, padding=0)


def inputs_of(bucket, samples, length, masked, typed):
    """A call whose cells behind it hold anything, as after a longer one."""
    inputs = EntryInputs.empty(bucket, torch.device("cpu"))
    count = samples * length
    inputs.cells[0] = torch.randint(-9, 90, (bucket.tokens,))
    inputs.cells[1] = torch.randint(-1, 3, (bucket.tokens,))
    inputs.cells[2] = torch.randint(-1, 3, (bucket.tokens,))
    inputs.cells[0, :count] = torch.randint(50, (count,))
    inputs.cells[1, :count] = torch.randint(2, (count,)) if masked else torch.randint(-1, 3, (count,))
    inputs.cells[2, :count] = torch.randint(2, (count,)) if typed else torch.randint(-1, 3, (count,))
    if masked:
        inputs.cells[1, torch.arange(samples) * length + torch.randint(length, (samples,))] = 1
    inputs.control[:NUMBERS] = torch.tensor([samples, length, masked, typed])
    inputs.control.view(torch.float32)[NUMBERS:] = torch.rand(inputs.control.shape[0] - NUMBERS)
    return inputs


def empty_batch(bucket):
    slots = bucket.slots
    integers = [torch.full((size,), -77, dtype=torch.int32) for size in (slots + 1, slots)]
    return PackedBatch(torch.empty(0), integers[0], integers[1], torch.full((slots,), torch.nan), bucket.max_seqlen)


def assert_same(inputs, bucket, entrance=ANYWHERE):
    want_batch, got_batch = empty_batch(bucket), empty_batch(bucket)
    want_fault, got_fault = torch.full((1,), -7, dtype=torch.int32), torch.full((1,), -7, dtype=torch.int32)
    want = pack(inputs, want_batch, bucket, entrance, want_fault)
    filled = got_batch.cu_seqlens, got_batch.sample_index, got_batch.speed
    speeds = inputs.control.view(torch.float32)[NUMBERS : NUMBERS + bucket.samples]
    rules = {"from_the_left": entrance.from_the_left, "padding": entrance.padding}
    got = pack_padded(inputs.cells, inputs.control[:NUMBERS], speeds, filled, got_fault, **LIMITS, **rules)
    assert torch.equal(got_fault, want_fault)
    for name in ("cu_seqlens", "sample_index", "speed"):
        assert torch.equal(getattr(got_batch, name), getattr(want_batch, name)), name
    tokens = int(want_batch.cu_seqlens[-1])
    for one, other, most in zip(got, want, (50, 42, 2), strict=True):
        assert torch.equal(one[:tokens], other[:tokens]) and one.min() >= 0 and one.max() < most
    return bool(want_fault)


@pytest.mark.usefixtures("poisoned_memory")
class TestInterpreted:
    __test__ = INTERPRETING

    @pytest.mark.parametrize(("masked", "typed"), [(False, False), (True, False), (False, True), (True, True)])
    def test_as_in_plain_pytorch(self, masked, typed):
        for samples, length in ((1, 1), (1, 40), (3, 20), (8, 8), (2, 33), (8, 40), (7, 9)):
            bucket = Bucket.smallest(samples * length, samples, length)
            assert takes(bucket.tokens, bucket.samples)
            assert not assert_same(inputs_of(bucket, samples, length, masked, typed), bucket)

    @pytest.mark.parametrize(("row", "value"), [(0, 50), (0, -1), (1, 2), (1, -1), (2, 2), (2, -1), (1, None)])
    def test_faults(self, row, value):
        bucket = Bucket.smallest(15, 3, 5)
        inputs = inputs_of(bucket, 3, 5, True, True)
        cells = inputs.cells.clone()
        if value is None:
            cells[row, 5:10] = 0
        else:
            cells[row, 7] = value
        assert assert_same(dataclasses.replace(inputs, cells=cells), bucket)
        cells = inputs.cells.clone()
        cells[row, 15:] = 77  # behind the call
        assert not assert_same(dataclasses.replace(inputs, cells=cells), bucket)

    @pytest.mark.parametrize(
        ("row", "mask", "fault"),
        [
            ([7, 8, 9, 0, 0], [1, 1, 1, 0, 0], False),
            ([7, 8, 9, 4, 4], [1, 1, 1, 1, 1], False),
            ([7, 8, 9, 0, 0], [1, 1, 1, 1, 0], True),  # a token with the id of padding
            ([7, 8, 9, 0, 0], [0, 1, 1, 0, 0], True),
            ([7, 8, 9, 0, 0], [1, 0, 1, 0, 0], True),
        ],
    )
    def test_tokens_that_begin_at_the_left(self, row, mask, fault):
        bucket = Bucket.smallest(15, 3, 5)
        inputs = EntryInputs.empty(bucket, torch.device("cpu"))
        inputs.control[:NUMBERS] = torch.tensor([3, 5, 1, 0])
        good = [[7, 8, 0, 0, 0], [1, 1, 0, 0, 0]]
        for cells, (first, second) in enumerate(zip(good, (row, mask), strict=True)):
            inputs.cells[cells, :15] = torch.tensor([*first, *second, *first])
        assert assert_same(inputs, bucket, FROM_THE_LEFT) == fault
        assert not assert_same(inputs, bucket)
