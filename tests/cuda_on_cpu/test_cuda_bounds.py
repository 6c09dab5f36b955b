"""Values that become addresses, in the CUDA kernels: what leaves the batch is not followed, and is told."""

from __future__ import annotations

import cpu_library
import head_cases
import pytest
import torch
from head_cases import BFLOAT16, FLOAT32
from test_cuda_compact import compact_inputs
from test_cuda_pooled_head import pooled_inputs

LENGTHS = [3, 5, 4, 2]
# cu_seqlens of four samples with 14 rows, and those of them whose bounds are none.
BAD_BOUNDS = [
    ([0, 3, 8, 12, 15], [3]),
    ([-1, 3, 8, 12, 14], [0]),
    ([0, 9, 8, 12, 14], [1]),
    ([0, 3, 1 << 30, 12, 14], [1, 2]),
    ([0, 3, -(1 << 31), 12, 14], [1, 2]),
    ([(1 << 31) - 1, -(1 << 31), 8, 12, 14], [0, 1]),
]


def check_bad_samples(run, bounds, bad):
    """They are answered like samples without tokens; the others as if nothing had been."""
    good_bounds = head_cases.prefix_sums(LENGTHS).tolist()
    told, good = run(torch.tensor(bounds, dtype=torch.int32)), run(torch.tensor(good_bounds, dtype=torch.int32))
    assert told.logits[bad].isnan().all() and told.uncertainty[bad].isnan().all() and told.keep[bad].all()
    assert told.history[bad].tolist() == [[-1, 0]] * len(bad)
    same = [sample for sample in range(4) if bounds[sample : sample + 2] == good_bounds[sample : sample + 2]]
    assert same and torch.equal(told.logits[same], good.logits[same])


@pytest.mark.parametrize(("bounds", "bad"), BAD_BOUNDS)
@pytest.mark.parametrize(("dtype", "activation"), [(FLOAT32, "tanh"), (BFLOAT16, "tanh"), (FLOAT32, "identity")])
def test_attentive_head_short(library, dtype, activation, bounds, bad):
    hidden, _, weights = head_cases.head_inputs(LENGTHS, dtype, 64, 64, 2, 3)
    decision = head_cases.random_decision(4)
    check_bad_samples(
        lambda cu_seqlens: library.attentive_head(hidden, cu_seqlens, weights, decision, (activation, "tanh")),
        bounds,
        bad,
    )


@pytest.mark.parametrize(("bounds", "bad"), BAD_BOUNDS)
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_pooled_head_short(library, pooling, bounds, bad):
    hidden, _, layers = pooled_inputs(LENGTHS, FLOAT32, [64, 3])
    decision = head_cases.random_decision(4)
    check_bad_samples(
        lambda cu_seqlens: library.pooled_exit_head(hidden, cu_seqlens, layers, pooling, "tanh", decision), bounds, bad
    )


def check_nothing_moves(library, batch, original_batch):
    out, results = library.compact(batch, 4, original_batch)
    assert out.pop("counts").tolist() == [-1, -1]
    for tensor in (*out.values(), *results.values()):
        untouched = cpu_library.poisoned(*tensor.shape, dtype=tensor.dtype)
        torch.testing.assert_close(tensor, untouched, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bounds", [bounds for bounds, _ in BAD_BOUNDS])
def test_compact_with_bad_bounds_short(library, bounds):
    batch, original_batch = compact_inputs(LENGTHS, [1, 0, 1, 1], 12, FLOAT32, 3)
    batch["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32)
    check_nothing_moves(library, batch, original_batch)


@pytest.mark.parametrize("index", [-1, 7, 1 << 30, -(1 << 31)])
@pytest.mark.parametrize("keep", [0, 1])
def test_compact_with_a_bad_place_short(library, index, keep):
    batch, original_batch = compact_inputs(LENGTHS, [1, 0, keep, 1], 12, FLOAT32, 3)
    batch["sample_index"][2] = index
    check_nothing_moves(library, batch, original_batch)


def test_compact_finds_a_bad_value_of_any_block_short(library):
    """Every block looks at the whole batch, also at samples that are not its own."""
    batch, original_batch = compact_inputs([1] * 3000, [1, 0] * 1500, 4, FLOAT32, 2)
    batch["sample_index"][2999] = original_batch
    out, _ = library.compact(batch, 4, original_batch)
    assert out["counts"].tolist() == [-1, -1]
