"""The CUDA kernels, run on the CPU, against float64 references: layouts, masks, barriers, arithmetic, without a GPU."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys

import cpu_library
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(cpu_library.missing() is not None, reason=str(cpu_library.missing()))

SANITIZE = os.environ.get("FASTBERT_TEST_SANITIZE") == "1"
LENGTHS = [0, 1, 5, 63, 64, 65, 100, 129, 300, 512]
SHORT_LENGTHS = [7, 0, 33, 1, 130]
# What float32 arithmetic may cost whatever the dtype of the inputs, relative to the largest value.
FLOOR = 2e-6


@pytest.fixture(scope="module")
def library() -> cpu_library.CpuLibrary:
    return cpu_library.CpuLibrary(SANITIZE)


@pytest.fixture(autouse=True)
def default_machine(library: cpu_library.CpuLibrary) -> None:
    library.configure()


def prefix_sums(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)


def head_inputs(
    lengths: list[int], dtype: torch.dtype, hidden_size: int, narrow: int, heads: int, labels: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Every weight is representable in `dtype`, so the comparison in that dtype starts from the same numbers."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    weights = {
        "projection_weight": normal(narrow, hidden_size, scale=hidden_size**-0.5),
        "projection_bias": normal(narrow, scale=0.2).float(),
        "query": normal(heads, narrow, narrow, scale=2 / narrow).float(),
        "query_bias": normal(heads, narrow, scale=0.1).float(),
        "value": normal(heads * narrow, narrow, scale=3 * (heads * narrow) ** -0.5).float(),
        "value_bias": normal(narrow, scale=0.2).float(),
        "output_weight": normal(labels, narrow, scale=2 * narrow**-0.5).float(),
        "output_bias": normal(labels, scale=0.2).float(),
    }
    speed = torch.rand(len(lengths), generator=generator)
    return normal(sum(lengths), hidden_size), prefix_sums(lengths), speed, weights


def head_reference(
    hidden: torch.Tensor, cu_seqlens: torch.Tensor, weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The exit head in plain PyTorch, every operation in `dtype`: logits [B, N] and uncertainty [B]."""
    w = {name: tensor.to(dtype) for name, tensor in weights.items()}
    logits = []
    for begin, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        x = hidden[begin:end].to(dtype)
        z = torch.tanh(torch.nn.functional.linear(x, w["projection_weight"], w["projection_bias"]))  # [n, C]
        if end == begin:
            logits.append(torch.full_like(w["output_bias"], float("nan")))
            continue
        u = torch.matmul(z[0], w["query"]) + w["query_bias"]  # [h, C]
        context = torch.softmax(u @ z.T, dim=-1) @ z  # [h, C]
        t = torch.tanh(context.flatten() @ w["value"] + w["value_bias"])
        logits.append(torch.nn.functional.linear(t, w["output_weight"], w["output_bias"]))
    stacked = torch.stack(logits) if logits else torch.empty(0, len(w["output_bias"]), dtype=dtype)
    p = torch.softmax(stacked, dim=-1)
    return stacked, torch.special.entr(p).sum(-1) / math.log(stacked.shape[1])


def error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest absolute error; NaN where NaN is due counts as right."""
    assert torch.equal(actual.isnan(), exact.isnan())
    return (actual.double() - exact).nan_to_num(0).abs().max().item() if actual.numel() else 0.0


def check_head(library: cpu_library.CpuLibrary, lengths: list[int], dtype: torch.dtype, *sizes: int) -> None:
    """`sizes` are the hidden size, the narrow size, the heads and the labels."""
    hidden, cu_seqlens, speed, weights = head_inputs(lengths, dtype, *sizes)
    before = library.launches()
    logits, uncertainty, keep = library.exit_head(hidden, cu_seqlens, speed, weights)
    assert library.launches() - before == (1 if lengths else 0)
    exact = head_reference(hidden, cu_seqlens, weights, torch.float64)
    plain = head_reference(hidden, cu_seqlens, weights, dtype)
    for actual, wanted, rival in zip((logits, uncertainty), exact, plain, strict=True):
        floor = FLOOR * max(1.0, wanted.nan_to_num(0).abs().max().item() if wanted.numel() else 0.0)
        assert error(actual, wanted) <= 2 * error(rival, wanted) + floor
    assert torch.equal(keep.bool(), ~(uncertainty < speed))


FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = [FLOAT32, BFLOAT16, FLOAT16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", [64, 128, 256])
@pytest.mark.parametrize(("hidden_size", "heads", "labels"), [(64, 2, 3), (136, 3, 5)])
def test_head_of_every_length(library, dtype, narrow, hidden_size, heads, labels):
    check_head(library, LENGTHS, dtype, hidden_size, narrow, heads, labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("hidden_size", "narrow", "heads", "labels"),
    [(8, 128, 1, 2), (384, 64, 8, 100), (768, 128, 2, 2), (768, 256, 8, 5), (1024, 128, 3, 1000), (1024, 256, 2, 3)],
)
def test_head_of_every_size(library, dtype, hidden_size, narrow, heads, labels):
    check_head(library, [65, 0, 5, 130], dtype, hidden_size, narrow, heads, labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", [64, 128, 256])
def test_head_short(library, dtype, narrow):
    check_head(library, SHORT_LENGTHS, dtype, 72, narrow, 2, 3)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_head_in_any_order_of_warps_short(library, dtype, seed):
    hidden, cu_seqlens, speed, weights = head_inputs([129, 1, 40], dtype, 264, 128, 3, 40)
    wanted = library.exit_head(hidden, cu_seqlens, speed, weights)
    library.configure(seed=seed)
    for actual, expected in zip(library.exit_head(hidden, cu_seqlens, speed, weights), wanted, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("narrow", [64, 128, 256])
@pytest.mark.parametrize(("capability", "multiprocessors", "heads"), [(80, 1, 8), (80, 64, 1), (90, 1, 8), (90, 64, 1)])
def test_head_with_any_number_of_stages(library, narrow, capability, multiprocessors, heads):
    library.configure(multiprocessors=multiprocessors, capability=capability)
    check_head(library, [140, 20], BFLOAT16, 520, narrow, heads, 2)


@pytest.mark.parametrize("narrow", [64, 128, 256])
def test_matrix_loads_do_not_conflict(library, narrow):
    check_head(library, [70, 33], FLOAT16, 96, narrow, 2, 2)
    assert library.bank_conflicts() == 0


def test_two_blocks_fit_a_multiprocessor_when_there_are_enough_samples(library):
    library.configure(multiprocessors=2, capability=90)
    check_head(library, [4, 5, 6], BFLOAT16, 768, 128, 2, 2)
    reserved = 1024
    assert 2 * (library.shared_bytes() + reserved) <= cpu_library.SHARED_MEMORY[90][1]


def test_head_of_an_empty_batch(library):
    check_head(library, [], BFLOAT16, 64, 128, 2, 2)


def test_head_keeps_nan_and_infinity_to_their_sample(library):
    hidden, cu_seqlens, speed, weights = head_inputs([40, 130, 70, 20, 9], BFLOAT16, 64, 128, 2, 3)
    clean = library.exit_head(hidden, cu_seqlens, speed, weights)
    hidden[40 + 129, 5] = float("nan")
    hidden[40 + 130 + 3, 7] = float("inf")
    logits, uncertainty, keep = library.exit_head(hidden, cu_seqlens, speed, weights)
    assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1] == 1
    exact, _ = head_reference(hidden, cu_seqlens, weights, torch.float64)
    assert error(logits[2], exact[2]) < 0.05  # tanh takes the infinity
    for sample in (0, 3, 4):
        for actual, wanted in zip((logits, uncertainty, keep), clean, strict=True):
            assert torch.equal(actual[sample], wanted[sample])


def test_head_with_extreme_logits(library):
    """One class certain, one impossible, all alike: uncertainty 0, 0 log 0 = 0, and 1; an infinite logit gives NaN."""
    hidden, cu_seqlens, _, weights = head_inputs([10], FLOAT32, 64, 64, 1, 4)
    weights["output_weight"].zero_()
    infinity = float("inf")
    for bias, wanted in [
        ([200.0, 0.0, 0.0, 0.0], 0.0),
        ([-infinity, 0.0, 0.0, -infinity], 0.5),
        ([3.0, 3.0, 3.0, 3.0], 1.0),
        ([30.0, 0.0, 0.0, 0.0], 3 * math.exp(-30) * 31 / math.log(4)),
    ]:
        weights["output_bias"] = torch.tensor(bias)
        _, uncertainty, keep = library.exit_head(hidden, cu_seqlens, torch.tensor([0.0]), weights)
        assert uncertainty.item() == pytest.approx(wanted, abs=1e-6) and uncertainty.item() >= 0 and keep.item() == 1
    for bias in ([infinity, 0.0, 0.0, 0.0], [-infinity] * 4, [float("nan"), 0.0, 0.0, 0.0]):
        weights["output_bias"] = torch.tensor(bias)
        _, uncertainty, keep = library.exit_head(hidden, cu_seqlens, torch.tensor([2.0]), weights)
        assert uncertainty.isnan().all() and keep.item() == 1


def test_speed_is_a_strict_limit(library):
    hidden, cu_seqlens, _, weights = head_inputs([3] * 6, FLOAT32, 64, 64, 1, 2)
    _, uncertainty, _ = library.exit_head(hidden, cu_seqlens, torch.zeros(6), weights)
    above = torch.nextafter(uncertainty, torch.tensor(2.0))
    nan = torch.tensor(float("nan"))
    speed = torch.stack([uncertainty[0], above[1], nan, torch.tensor(-1.0), torch.tensor(2.0), above[5]])
    _, _, keep = library.exit_head(hidden, cu_seqlens, speed, weights)
    assert keep.tolist() == [1, 0, 1, 1, 0, 0]


def test_head_says_what_it_does_not_take(library):
    assert library.exit_head_unsupported(BFLOAT16) is None
    assert "float16" in library.exit_head_unsupported(torch.int8)
    for name, bad in [("hidden_size", 100), ("narrow_size", 96), ("num_heads", 9), ("num_heads", 0), ("num_labels", 1)]:
        reason = library.exit_head_unsupported(BFLOAT16, **{name: bad})
        assert reason is not None and name.split("_")[1].rstrip("s") in reason


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
def test_compact_short(library, pattern, dtype, width):
    lengths = LENGTHS + SHORT_LENGTHS
    keep = [200 * (i in PATTERNS[pattern]) for i in range(len(lengths))]  # any value but 0 keeps
    check_compact(library, *compact_inputs(lengths, keep, width, dtype, 3))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [1], [5000]])
@pytest.mark.parametrize("keep", [0, 1])
def test_compact_of_few_samples(library, lengths, keep):
    check_compact(library, *compact_inputs(lengths, [keep] * len(lengths), 8, BFLOAT16, 2))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_compact_of_many_samples(library, seed):
    """More samples than a window of threads in every block, many without tokens, in several orders of warps."""
    library.configure(seed=seed, multiprocessors=1)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (3000,), generator=generator).tolist()
    lengths[600:1500] = [0] * 900
    keep = torch.randint(0, 2, (3000,), generator=generator).tolist()
    check_compact(library, *compact_inputs(lengths, keep, 8, BFLOAT16, 40, seed))


def test_compact_of_65536_samples(library):
    keep = [i % 5 // 4 for i in range(65536)]
    check_compact(library, *compact_inputs([1] * 65536, keep, 1, torch.int8, 1))


def test_compact_beyond_2_31_bytes(library):
    """Memory that nothing touches is only addresses, so 2 GiB of leaving rows cost nothing."""
    far = 2**19  # rows of 4 KiB
    batch, original_batch = compact_inputs([0, 0], [0, 1], 4096, torch.int8, 2)
    batch["hidden"] = torch.empty(far + 3, 4096, dtype=torch.int8)
    batch["hidden"][far:] = torch.arange(3 * 4096).remainder(101).view(3, 4096)
    batch["cu_seqlens"] = torch.tensor([0, far, far + 3], dtype=torch.int32)
    out, _ = library.compact(batch, 1, original_batch, poison_rows=False)
    assert out["counts"].tolist() == [1, 3]
    assert torch.equal(out["hidden"][:3], batch["hidden"][far:])


def test_head_beyond_2_31_elements(library):
    hidden, cu_seqlens, speed, weights = head_inputs([9], BFLOAT16, 1024, 64, 1, 2)
    wanted = library.exit_head(hidden, cu_seqlens, speed, weights)
    far = 2**21 + 5
    distant = torch.empty(far + 9, 1024, dtype=BFLOAT16)
    distant[far:] = hidden
    for actual, expected in zip(library.exit_head(distant, cu_seqlens + far, speed, weights), wanted, strict=True):
        assert torch.equal(actual, expected)


def test_compact_takes_unaligned_rows(library):
    batch, original_batch = compact_inputs([3, 4, 5], [1, 0, 1], 16, torch.int8, 2)
    storage = torch.zeros(12 * 16 + 1, dtype=torch.int8)
    storage[1:] = batch["hidden"].flatten()
    batch["hidden"] = storage[1:].view(12, 16)
    check_compact(library, batch, original_batch)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 1)), max_size=40),
    width=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_compact_of_any_batch(library, samples, width, seed):
    library.configure(seed=seed)
    lengths = [length for length, _ in samples]
    keep = [kept for _, kept in samples]
    check_compact(library, *compact_inputs(lengths, keep, width, BFLOAT16, 2, seed))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=5),
    hidden_size=st.integers(1, 20).map(lambda n: 8 * n),
    narrow=st.sampled_from([64, 128, 256]),
    heads=st.integers(1, 8),
    labels=st.integers(2, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
)
def test_head_of_any_batch(library, lengths, hidden_size, narrow, heads, labels, dtype, seed):
    library.configure(seed=seed)
    check_head(library, lengths, dtype, hidden_size, narrow, heads, labels)


def test_launchers_restore_the_device(library):
    hidden, cu_seqlens, speed, weights = head_inputs([3], FLOAT32, 64, 64, 1, 2)
    library.exit_head(hidden, cu_seqlens, speed, weights, device=1)
    batch, original_batch = compact_inputs([3], [1], 4, FLOAT32, 2)
    library.compact(batch, 1, original_batch, device=1)
    assert library.device() == 0


@pytest.mark.skipif(SANITIZE, reason="this is the run under sanitizers")
def test_short_tests_under_sanitizers():
    """AddressSanitizer must be the first library of a process, hence another process."""
    names = ["libasan.so", "libubsan.so"]
    runtime = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    if not all(os.path.isabs(path) for path in runtime):
        pytest.skip("g++ has no sanitizer runtime")
    environment = os.environ | {
        "FASTBERT_TEST_SANITIZE": "1",
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", "-k", "short", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
