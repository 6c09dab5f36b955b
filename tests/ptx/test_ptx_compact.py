"""The PTX of the CUDA compaction, executed, against the reference."""

from __future__ import annotations

import pytest
import torch
from compiled import Launcher
from ptx_interpreter import GlobalMemory

from cuda_on_cpu.cpu_library import CompactedBatch, PackedBatch, Results
from fastbert_kernels import reference
from helpers.op_inputs import compaction_inputs

pytestmark = pytest.mark.proof  # the first compiles the kernels
RESULTS = ("logits", "uncertainty", "exit_layer")


def run_compact(launcher: Launcher, inputs, *, multiprocessors=4, seed=None, offset=0) -> GlobalMemory:
    """Run what the launcher launches, and return the memory after it; nothing may speak against the launch."""
    *packed, layer = inputs[:9]
    hidden, _, _, _, speed, history, logits, _ = packed
    memory = GlobalMemory()
    samples, rows = len(speed), len(hidden)
    addresses = [
        memory.place(name, tensor, offset=offset if name == "hidden" else 0)
        for name, tensor in zip(PackedBatch.NAMES, packed, strict=True)
    ]
    shapes = [hidden.shape, (samples + 1,), (samples,), (samples,), history.shape, (2,)]
    dtypes = [hidden.dtype, torch.int32, torch.int32, torch.float32, torch.int32, torch.int32]
    out = [
        memory.allocate(f"out {name}", shape, dtype, offset=offset if name == "hidden" else 0)
        for name, shape, dtype in zip(CompactedBatch.NAMES, shapes, dtypes, strict=True)
    ]
    results = [
        memory.place(f"result {name}", tensor, is_input=False)
        for name, tensor in zip(Results.NAMES, inputs[9:], strict=True)
    ]
    (launch,) = launcher.ask(
        PackedBatch(*addresses, samples, rows, hidden.shape[1] * hidden.element_size(), logits.shape[1], layer),
        CompactedBatch(*out),
        Results(*results, len(inputs[-1])),
        multiprocessors=multiprocessors,
    )
    assert launcher.run(memory, launch, seed) == []
    return memory


def check_compact(launcher: Launcher, inputs, **options) -> None:
    memory = run_compact(launcher, inputs, **options)
    expected = [tensor.clone() for tensor in inputs[9:]]
    compacted = dict(zip(CompactedBatch.NAMES, reference.compact(*inputs[:9], *expected), strict=True))
    rows = int(compacted["counts"][1])
    assert torch.equal(memory.tensor("out hidden")[:rows], compacted.pop("hidden")[:rows])
    for name, tensor in compacted.items():
        assert memory.unwritten(f"out {name}") == 0
        assert torch.equal(memory.tensor(f"out {name}"), tensor), name
    for name, tensor in zip(RESULTS, expected, strict=True):
        assert torch.equal(memory.tensor(f"result {name}"), tensor), name


@pytest.mark.parametrize(
    ("lengths", "keep"),
    [
        ([3, 0, 5, 1], [True, False, True, False]),
        ([0, 0, 0], [True, False, True]),
        ([1], [True]),
        ([1], [False]),
        ([7, 9, 2, 40], [True] * 4),
    ],
)
def test_few_samples(compact, lengths, keep):
    check_compact(compact, compaction_inputs(lengths, keep))


@pytest.mark.parametrize(
    ("dtype", "width", "seed"), [(torch.bfloat16, 776, None), (torch.float16, 6, 1), (torch.int8, 13, None)]
)
def test_every_width_of_copies(compact, dtype, width, seed):
    inputs = compaction_inputs([3, 0, 20, 1], [True, False, True, True], width=width, dtype=dtype)
    check_compact(compact, inputs, seed=seed)


def test_rows_off_16_bytes(compact):
    check_compact(compact, compaction_inputs([3, 0, 5], [True, False, True], width=8), offset=4)


def test_more_samples_than_threads(compact):
    lengths, keep = [1 + i % 2 for i in range(300)], [i % 3 != 0 for i in range(300)]
    check_compact(compact, compaction_inputs(lengths, keep, width=4, labels=37), multiprocessors=1)


@pytest.mark.parametrize("bounds", [[0, 3, 8, 12, 15], [-1, 3, 8, 12, 14], [0, 9, 8, 12, 14], [0, 3, 1 << 30, 12, 14]])
def test_bad_bounds(compact, bounds):
    inputs = compaction_inputs([3, 5, 4, 2], [True, False, True, True])
    inputs[1] = torch.tensor(bounds, dtype=torch.int32)
    check_nothing_moves(compact, inputs)


@pytest.mark.parametrize("index", [-1, 9])
def test_bad_place(compact, index):
    inputs = compaction_inputs([3, 5, 4, 2], [True, False, True, True])
    inputs[3][1] = index
    check_nothing_moves(compact, inputs)


def check_nothing_moves(launcher: Launcher, inputs) -> None:
    memory = run_compact(launcher, inputs)
    assert memory.tensor("out counts").tolist() == [-1, -1]
    for name, tensor in zip(RESULTS, inputs[9:], strict=True):
        assert torch.equal(memory.tensor(f"result {name}"), tensor)
    for name in ("hidden", "cu_seqlens", "sample_index", "speed", "history"):
        tensor = memory.tensor(f"out {name}")
        assert memory.unwritten(f"out {name}") == tensor.numel() * tensor.element_size()
