"""The Triton compaction: interpreted on the CPU against the reference (tier 2)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton.language", reason="triton is not installed")

from triton_cases import DTYPES, compact, moved

from fastbert_kernels import reference
from fastbert_kernels.triton import configs
from fastbert_kernels.triton.compact import _place_kernel
from helpers.op_inputs import compaction_inputs, cu_seqlens_of
from helpers.triton_interpreter import INTERPRETING, interpreted_elsewhere

test_everything_interpreted_in_a_process_of_its_own = interpreted_elsewhere(__file__)


def assert_compacts_like_the_reference(inputs):
    wanted_results = [result.clone() for result in inputs[-3:]]
    want = reference.compact(*inputs[:-3], *wanted_results)
    got = compact(*inputs)
    tokens = int(want[5][1])
    assert got[0].dtype == want[0].dtype and got[0].shape == want[0].shape
    assert torch.equal(got[0][:tokens], want[0][:tokens])
    for one, other in zip(got[1:], want[1:], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    for one, other in zip(inputs[-3:], wanted_results, strict=True):
        assert torch.equal(one, other)


def assert_nothing_is_moved(inputs):
    assert compact(*inputs)[5].tolist() == [-1, -1]
    assert all((result == -7).all() for result in inputs[-3:])


@pytest.mark.usefixtures("poisoned_memory")
class TestCompact:
    __test__ = INTERPRETING

    @pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.float64])
    @pytest.mark.parametrize("pattern", ["all", "none", "first", "last", "alternate"])
    def test_patterns(self, dtype, pattern):
        lengths = [3, 1, 0, 7, 64, 2, 300, 5]
        keep = {
            "all": [1] * 8,
            "none": [0] * 8,
            "first": [1] + [0] * 7,
            "last": [0] * 7 + [1],
            "alternate": [1, 0] * 4,
        }[pattern]
        assert_compacts_like_the_reference(compaction_inputs(lengths, keep, dtype=dtype))

    @pytest.mark.parametrize(("lengths", "keep"), [([], []), ([5], [1]), ([5], [0]), ([0], [1])])
    def test_one_sample_and_none(self, lengths, keep):
        assert_compacts_like_the_reference(compaction_inputs(lengths, keep))

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        samples=st.lists(st.tuples(st.integers(0, 70), st.booleans()), max_size=20),
        width=st.sampled_from([1, 2, 3, 8, 33, 100]),
        labels=st.sampled_from([2, 3, 100, 1500]),
        dtype=st.sampled_from([*DTYPES, torch.int8]),
    )
    def test_any_batch(self, samples, width, labels, dtype):
        lengths, keep = [n for n, _ in samples], [k for _, k in samples]
        assert_compacts_like_the_reference(compaction_inputs(lengths, keep, width=width, dtype=dtype, labels=labels))

    def test_a_sample_longer_than_all_its_programs_copy_in_one_step(self):
        lengths = [1] * 9 + [700]
        assert_compacts_like_the_reference(compaction_inputs(lengths, [1] * 10, width=192))

    def test_more_samples_than_one_program_places(self, monkeypatch):
        monkeypatch.setattr(configs, "COMPACT", dataclasses.replace(configs.COMPACT, block_samples=64))
        lengths, keep = torch.randint(0, 3, (150,)).tolist(), torch.rand(150) < 0.6
        assert_compacts_like_the_reference(compaction_inputs(lengths, keep, width=2))

    @pytest.mark.parametrize(("batch", "size"), [(65_535, 8192), (65_536, 8192), (2100, configs.COMPACT.block_samples)])
    def test_places_of_a_large_batch(self, batch, size):
        """Of `size` samples by each program."""
        lengths, keep = torch.randint(0, 600, (batch,)), torch.rand(batch) < 0.5
        outputs = [torch.full((2 * batch + 2,), -9, dtype=torch.int32) for _ in range(6)]
        new_cu_seqlens, new_sample_index, new_speed, new_history, counts, destination = outputs
        numbers = torch.arange(2 * batch).int()
        arguments = (cu_seqlens_of(lengths.tolist()), keep, numbers, numbers, numbers)
        _place_kernel[(-(-batch // size),)](*arguments, *outputs, batch, int(lengths.sum()), batch, BLOCK_SAMPLES=size)
        kept = int(keep.sum())
        ends = lengths[keep].cumsum(0)
        assert counts[:2].tolist() == [kept, int(ends[-1])]
        assert new_cu_seqlens[0] == 0 and torch.equal(new_cu_seqlens[1 : kept + 1], ends.int())
        assert torch.equal(new_sample_index[:kept], keep.nonzero().flatten().int())
        assert torch.equal(new_speed[:kept], new_sample_index[:kept])
        assert torch.equal(new_history[: 2 * kept].view(-1, 2), numbers.view(-1, 2)[keep])
        assert torch.equal(destination[:batch][keep], (ends - lengths[keep]).int())
        assert (destination[:batch][~keep] == -1).all()

    def test_rows_that_start_in_the_middle_of_a_word(self):
        inputs = compaction_inputs([3, 2, 4], [1, 0, 1], dtype=torch.bfloat16)
        shifted = torch.empty(inputs[0].numel() + 1, dtype=torch.bfloat16)[1:].view_as(inputs[0])
        inputs[0] = shifted.copy_(inputs[0])
        assert_compacts_like_the_reference(inputs)

    def test_non_contiguous_rows(self):
        inputs = compaction_inputs([3, 2, 4], [1, 0, 1])
        inputs[0] = inputs[0].T.contiguous().T
        assert_compacts_like_the_reference(inputs)


class TestFarInMemory:
    """Rows beyond 2^31 elements and bytes."""

    __test__ = INTERPRETING

    def test_far_in_memory(self):
        inputs = compaction_inputs([0, 3], [0, 1], width=4096, dtype=torch.int8)
        distant = moved(inputs, 2**19)
        distant[1][0] = 0  # the sample that leaves has all rows before
        new_hidden, new_cu_seqlens, *_, counts = compact(*distant)
        assert counts.tolist() == [1, 3] and new_cu_seqlens.tolist() == [0, 3, 3]
        assert torch.equal(new_hidden[:3], inputs[0])

    @pytest.mark.parametrize("place", [-1, 11, 1 << 30])
    @pytest.mark.parametrize("keep", [0, 1])
    def test_a_bad_place_moves_nothing(self, place, keep):
        inputs = compaction_inputs([3, 5, 4, 2, 1], [1, 0, keep, 1, 0])
        inputs[3][2] = place
        assert_nothing_is_moved(inputs)

    @pytest.mark.parametrize("bounds", [[0, 3, 8, 12, 15], [-1, 3, 8, 12, 14], [0, 9, 8, 12, 14]])
    def test_bad_bounds_move_nothing(self, bounds):
        inputs = compaction_inputs([3, 5, 4, 2], [1, 0, 1, 1])
        inputs[1] = torch.tensor(bounds, dtype=torch.int32)
        assert_nothing_is_moved(inputs)

    def test_a_bad_value_far_from_the_last_block_is_found(self, monkeypatch):
        monkeypatch.setattr(configs, "COMPACT", dataclasses.replace(configs.COMPACT, block_samples=64))
        size = 67
        inputs = compaction_inputs([1] * size, [0] * size)
        inputs[3][1] = -5
        assert_nothing_is_moved(inputs)
