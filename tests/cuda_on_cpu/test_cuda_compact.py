"""The CUDA compaction, run on the CPU, against its definition line by line."""

from __future__ import annotations

import functools

import cpu_library
import pytest
import torch
from head_cases import BFLOAT16, FLOAT16, FLOAT32, LENGTHS, SHORT_LENGTHS, prefix_sums
from hypothesis import given, settings
from hypothesis import strategies as st


def compact_inputs(
    lengths: list[int], keep: list[int], width: int, dtype: torch.dtype, labels: int, seed: int = 0
) -> tuple[dict[str, torch.Tensor], int]:
    generator = torch.Generator().manual_seed(seed)
    samples, rows = len(lengths), sum(lengths)
    original_batch = samples + 3
    batch = {
        "hidden": torch.randint(-100, 100, (rows, width), generator=generator).to(dtype),
        "cu_seqlens": prefix_sums(lengths),
        "keep": torch.tensor(keep, dtype=torch.uint8),
        "sample_index": torch.randperm(original_batch, generator=generator)[:samples].to(torch.int32),
        "speed": torch.rand(samples, generator=generator),
        "history": torch.randint(-1, 9, (samples, 2), generator=generator, dtype=torch.int32),
        "logits": torch.randn(samples, labels, generator=generator),
        "uncertainty": torch.rand(samples, generator=generator),
    }
    return batch, original_batch


def compact_reference(batch: dict[str, torch.Tensor], layer: int, original_batch: int):
    """csrc/compact.h, line by line, into poisoned outputs."""
    samples, labels = batch["logits"].shape
    starts = batch["cu_seqlens"].tolist()
    kept = [b for b in range(samples) if batch["keep"][b]]
    rows = [row for b in kept for row in range(starts[b], starts[b + 1])]
    sums = prefix_sums([starts[b + 1] - starts[b] for b in kept]).tolist()
    padding = [0] * (samples - len(kept))
    out = {
        "hidden": cpu_library.poisoned(*batch["hidden"].shape, dtype=batch["hidden"].dtype),
        "cu_seqlens": torch.tensor(sums + [len(rows)] * len(padding), dtype=torch.int32),
        "sample_index": torch.tensor([batch["sample_index"][b] for b in kept] + padding, dtype=torch.int32),
        "speed": torch.tensor([batch["speed"][b] for b in kept] + padding, dtype=torch.float32),
        "history": torch.cat([batch["history"][kept], torch.zeros(len(padding), 2, dtype=torch.int32)]),
        "counts": torch.tensor([len(kept), len(rows)], dtype=torch.int32),
    }
    out["hidden"][: len(rows)] = batch["hidden"][rows]
    results = {
        "logits": cpu_library.poisoned(original_batch, labels),
        "uncertainty": cpu_library.poisoned(original_batch),
        "exit_layer": cpu_library.poisoned(original_batch, dtype=torch.int64),
    }
    for b in set(range(samples)) - set(kept):
        index = batch["sample_index"][b]
        results["logits"][index] = batch["logits"][b]
        results["uncertainty"][index] = batch["uncertainty"][b]
        results["exit_layer"][index] = layer
    return out, results


def check_compact(library: cpu_library.CpuLibrary, batch: dict[str, torch.Tensor], original_batch: int) -> None:
    before = library.launches()
    actual = library.compact(batch, 3, original_batch)
    assert library.launches() - before == 1
    for got, wanted in zip(actual, compact_reference(batch, 3, original_batch), strict=True):
        for name, tensor in wanted.items():
            message = functools.partial("{}: {}".format, name)
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, equal_nan=True, msg=message)


PATTERNS = {"all": range(15), "none": [], "every third": range(0, 15, 3), "first": [0], "last": [14]}
WIDTHS = [(BFLOAT16, 768), (FLOAT32, 20), (FLOAT16, 6), (torch.int8, 7), (torch.int8, 4100)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("dtype", "width"), WIDTHS)
def test_short(library, pattern, dtype, width):
    lengths = LENGTHS + SHORT_LENGTHS
    keep = [200 * (i in PATTERNS[pattern]) for i in range(len(lengths))]  # any value but 0 keeps
    check_compact(library, *compact_inputs(lengths, keep, width, dtype, 3))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [1], [5000]])
@pytest.mark.parametrize("keep", [0, 1])
def test_few_samples(library, lengths, keep):
    check_compact(library, *compact_inputs(lengths, [keep] * len(lengths), 8, BFLOAT16, 2))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_samples(library, seed):
    """More samples than a window of threads in every block, many without tokens, in several orders of warps."""
    library.configure(seed=seed, multiprocessors=1)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (3000,), generator=generator).tolist()
    lengths[600:1500] = [0] * 900
    keep = torch.randint(0, 2, (3000,), generator=generator).tolist()
    check_compact(library, *compact_inputs(lengths, keep, 8, BFLOAT16, 40, seed))


@pytest.mark.parametrize(("dtype", "width"), [(torch.int8, 1), (FLOAT16, 8)])
def test_65536_samples(library, dtype, width):
    keep = [i % 5 // 4 for i in range(65536)]
    check_compact(library, *compact_inputs([1] * 65536, keep, width, dtype, 1))


def test_beyond_2_31_bytes(library):
    """Memory that nothing touches is only addresses, so 2 GiB of leaving rows cost nothing."""
    far = 2**19  # rows of 4 KiB
    batch, original_batch = compact_inputs([0, 0], [0, 1], 4096, torch.int8, 2)
    batch["hidden"] = torch.empty(far + 3, 4096, dtype=torch.int8)
    batch["hidden"][far:] = torch.arange(3 * 4096).remainder(101).view(3, 4096)
    batch["cu_seqlens"] = torch.tensor([0, far, far + 3], dtype=torch.int32)
    out, _ = library.compact(batch, 1, original_batch, poison_rows=False)
    assert out["counts"].tolist() == [1, 3]
    assert torch.equal(out["hidden"][:3], batch["hidden"][far:])


def test_takes_unaligned_rows(library):
    batch, original_batch = compact_inputs([3, 4, 5], [1, 0, 1], 16, torch.int8, 2)
    storage = torch.zeros(12 * 16 + 1, dtype=torch.int8)
    storage[1:] = batch["hidden"].flatten()
    batch["hidden"] = storage[1:].view(12, 16)
    check_compact(library, batch, original_batch)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 1)), max_size=40),
    width=st.integers(1, 40),
    dtype=st.sampled_from([FLOAT32, BFLOAT16, FLOAT16, torch.int8]),
    labels=st.sampled_from([2, 40, 1031]),
    seed=st.integers(0, 9),
)
def test_any_batch(built_library, samples, width, dtype, labels, seed):
    built_library.configure(seed=seed)
    lengths = [length for length, _ in samples]
    keep = [kept for _, kept in samples]
    check_compact(built_library, *compact_inputs(lengths, keep, width, dtype, labels, seed))


def test_the_device_is_restored(library):
    batch, original_batch = compact_inputs([3], [1], 4, FLOAT32, 2)
    library.compact(batch, 1, original_batch, device=library.new_device())
    assert library.device() == 0
