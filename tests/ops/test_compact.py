"""compact: survivors in order, results in place, whatever leaves; against an independent per-sample loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert_kernels import ops
from helpers.accuracy import check_compaction
from helpers.op_inputs import compaction_inputs

BACKENDS = ["cpu", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("pattern", ["all", "none", "first", "last", "alternate"])
def test_patterns(poisoned_memory, backend, dtype, pattern):
    lengths = [3, 1, 0, 7, 64, 2, 300, 5]
    size = len(lengths)
    keep = {
        "all": [True] * size,
        "none": [False] * size,
        "first": [True] + [False] * (size - 1),
        "last": [False] * (size - 1) + [True],
        "alternate": [b % 2 == 0 for b in range(size)],
    }[pattern]
    check_compaction(compaction_inputs(lengths, keep, dtype=dtype), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.tuples(st.integers(0, 70), st.booleans()), max_size=40),
    width=st.sampled_from([1, 3, 8, 33]),
    labels=st.sampled_from([2, 3, 100]),
)
def test_any_batch(backend, samples, width, labels):
    check_compaction(
        compaction_inputs([n for n, _ in samples], [k for _, k in samples], width=width, labels=labels), backend
    )


def test_large_copies_are_shared_among_threads():
    """Over the size from which all threads copy."""
    lengths = torch.randint(1, 200, (300,)).tolist()
    check_compaction(compaction_inputs(lengths, (torch.rand(300) < 0.6).tolist(), width=64), "cpu")


def test_as_many_samples_as_are_promised():
    lengths = torch.randint(0, 3, (65_536,)).tolist()
    check_compaction(compaction_inputs(lengths, (torch.rand(65_536) < 0.5).tolist(), width=4), "cpu")


def test_rows_beyond_two_to_the_31_bytes():
    """Memory that is never touched costs nothing: of 2.3 GB only the last three rows are."""
    rows, width = 70_000, 32_768
    inputs = compaction_inputs([2, 3], [False, True], width=width, dtype=torch.int8)
    last = inputs[0][2:].clone()
    inputs[0] = torch.empty(rows, width, dtype=torch.int8)
    inputs[0][-3:] = last
    inputs[1] = torch.tensor([0, rows - 3, rows], dtype=torch.int32)
    hidden, _, _, _, _, counts = ops.compact(*inputs, backend="cpu")
    assert counts.tolist() == [1, 3] and torch.equal(hidden[:3], last)


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_rows(backend):
    inputs = compaction_inputs([3, 2, 4], [True, False, True])
    inputs[0] = inputs[0].T.contiguous().T
    check_compaction(inputs, backend)


@pytest.mark.parametrize(
    ("position", "replacement", "error", "message"),
    [
        (0, lambda x: x[0], ValueError, "hidden must be"),
        (1, lambda x: x.long(), TypeError, "cu_seqlens must be torch.int32"),
        (2, lambda x: x.int(), TypeError, "keep must be torch.bool"),
        (3, lambda x: x.long(), TypeError, "sample_index must be torch.int32"),
        (4, lambda x: x[:-1], ValueError, "speed must have shape"),
        (5, lambda x: x.long(), TypeError, "history must be torch.int32"),
        (6, lambda x: x[:, :-1], ValueError, "out_logits must have shape"),
        (7, lambda x: x.double(), TypeError, "uncertainty must be torch.float32"),
        (9, lambda x: x.T.contiguous().T, ValueError, "contiguous"),
        (11, lambda x: x.int(), TypeError, "out_exit_layer must be torch.int64"),
        (4, lambda x: x.to("meta"), ValueError, "move it there"),
    ],
)
def test_wrong_arguments_are_named(position, replacement, error, message):
    inputs = compaction_inputs([3, 2, 4], [True, False, True])
    inputs[position] = replacement(inputs[position])
    with pytest.raises(error, match=message):
        ops.compact(*inputs)


def test_opcheck():
    # All stay: it compares whole outputs, and rows after the last survivor's are undefined.
    torch.library.opcheck(torch.ops.fastbert.compact.default, tuple(compaction_inputs([3, 2, 4], [True, True, True])))


def test_fullgraph_without_recompiling():
    torch._dynamo.reset()
    inputs = compaction_inputs([3, 2, 4], [True, False, True])
    compiled = torch.compile(lambda *x: ops.compact(*x)[5] + 1, fullgraph=True, backend="aot_eager")
    assert compiled(*inputs).tolist() == [3, 8]
    assert (inputs[11] == 4).sum() == 1  # the result of the leaving sample was written through the graph
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(*inputs)
