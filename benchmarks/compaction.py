"""Compaction of a packed batch against boolean-mask indexing, as public codes shrink a padded batch.

    python benchmarks/compaction.py [--device cpu|cuda] [--rounds 30]

Both drop the same samples. Boolean indexing moves hidden states, mask and sample indices of the padded batch and
writes the leaving samples' results by index; ours does the same on packed rows. Floor: the survivors' rows read and
written once at the measured copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from families import result_name
from fastbert_hf.timing import ratio, time_interleaved
from fastbert_kernels import backends, ops
from harness import DTYPES, CaseResults, arguments, copy_bandwidth, sample_lengths

HIDDEN, LABELS = 768, 2


def boolean_indexing(
    hidden: Tensor,
    mask: Tensor,
    alive: Tensor,
    keep: Tensor,
    logits: Tensor,
    uncertainty: Tensor,
    results: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    leaving = alive[~keep]
    results[0][leaving] = logits[~keep]
    results[1][leaving] = uncertainty[~keep]
    results[2][leaving] = 4
    return hidden[keep], mask[keep], alive[keep]


def run_case(
    batch: int, kind: str, share: float, device: torch.device, dtype: torch.dtype, rounds: int, bandwidth: float
) -> dict[str, Any]:
    lengths = torch.tensor(sample_lengths(batch, kind), device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    padded = torch.randn(*mask.shape, HIDDEN, device=device).to(dtype)
    packed = padded[mask]
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).int()
    keep = torch.rand(batch, device=device) < share
    alive = torch.arange(batch, device=device)
    speed, uncertainty = torch.rand(2, batch, device=device)
    logits = torch.randn(batch, LABELS, device=device)

    def new_results() -> list[Tensor]:
        return [torch.zeros_like(logits), torch.zeros_like(uncertainty), torch.zeros_like(alive)]

    theirs, index = new_results(), alive.int()
    history = torch.zeros(batch, 2, dtype=torch.int32, device=device)
    contestants: dict[str, Callable[[], Any]] = {
        "boolean indexing": lambda: boolean_indexing(padded, mask, alive, keep, logits, uncertainty, theirs)
    }
    ours = [
        backend.name
        for backend in backends.BACKENDS.values()
        if backend.device_type in (None, device.type) and backend.unavailable() is None
    ]
    written = {name: new_results() for name in ours}
    for name in ours:
        contestants[name] = lambda name=name: ops.compact(
            packed, cu_seqlens, keep, index, speed, history, logits, uncertainty, 4, *written[name], backend=name
        )
    with torch.inference_mode():
        hidden, new_mask, _ = contestants["boolean indexing"]()
        agree = {}
        for name in ours:
            rows, _, _, _, _, counts = contestants[name]()
            same_rows = torch.equal(rows[: int(counts[1])], hidden[new_mask])
            agree[name] = same_rows and all(torch.equal(a, b) for a, b in zip(written[name], theirs, strict=True))
        times = time_interleaved(contestants, device, rounds)
    moved = 2 * int(lengths[keep].sum()) * HIDDEN * packed.element_size()
    floor = moved / bandwidth
    rows = []
    for name, seconds in times.items():
        p20, p50, p80 = (1e6 * value for value in seconds.quantiles)
        speedup = f"{ratio(times['boolean indexing'], seconds):.2f}x" if agree.get(name, True) else "outputs disagree"
        rows.append(
            {
                "what": name,
                "p20 / p50 / p80 (us)": f"{p20:.0f} / {p50:.0f} / {p80:.0f}",
                "over boolean indexing": speedup,
                "share of copy bandwidth": f"{1e6 * floor / p50:.0%}",
            }
        )
    return {
        "batch": batch,
        "lengths": kind,
        "kept": int(keep.sum()),
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": moved,
        "floor_seconds": floor,
        "agree": agree,
        "seconds": {name: seconds.rounds for name, seconds in times.items()},
        "rows": rows,
    }


def main() -> None:
    options = arguments("Times compaction.")
    device = torch.device(options.device)
    batch = 128 if device.type == "cuda" else 32
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    cases = [(batch, "full", 0.5), (batch, "mixed", 0.5), (batch, "mixed", 0.9)]
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(device)
    results = CaseResults(
        f"# Compaction, H = {HIDDEN}, {dtype}; copy bandwidth {bandwidth / 1e9:.1f} GB/s",
        {"hidden_size": HIDDEN, "copy_bytes_per_second": bandwidth},
        None if options.quick else options.out,
        result_name("compaction", device.type),
    )
    for size, kind, share in cases[-1:] if options.quick else cases:
        case = run_case(size, kind, share, device, DTYPES[dtype], options.rounds, bandwidth)
        results.add(f"batch {size}, {kind} lengths, {case['kept']} kept", case)


if __name__ == "__main__":
    main()
