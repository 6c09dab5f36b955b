"""The exit head against the model's own module, plain and compiled, and against the bare projection it contains.

    python benchmarks/exit_head.py [--device cpu|cuda] [--rounds 30]

The module works on padded batches, as models do; ours on the packed batch. Floor: the projection's FLOPs at the
measured matrix rate, or the bytes of the hidden states at the measured copy bandwidth, whichever takes longer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fastbert_hf.heads import AttentiveHead, normalised_entropy
from fastbert_kernels import backends, ops
from fastbert_kernels.engine.folding import fold_attentive_head
from fastbert_kernels.hosts import fastbert_hf as host
from harness import (
    DTYPES,
    arguments,
    copy_bandwidth,
    markdown_table,
    matmul_rate,
    ratio,
    sample_lengths,
    save,
    time_interleaved,
)

HIDDEN, NARROW, HEADS, LABELS = 768, 128, 2, 2
LARGEST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def make_module(device: torch.device, dtype: torch.dtype) -> AttentiveHead:
    torch.manual_seed(0)
    return AttentiveHead(HIDDEN, NARROW, HEADS, LABELS).to(device, dtype).eval()


def decide(module: Callable[..., torch.Tensor], padded: torch.Tensor, mask: torch.Tensor, speed: torch.Tensor) -> Any:
    """The exit decision as a model in plain PyTorch makes it."""
    logits = module(padded, mask).float()
    uncertainty = normalised_entropy(logits)
    return logits, uncertainty, ~(uncertainty < speed)


def run_case(
    batch: int, kind: str, device: torch.device, dtype: torch.dtype, rounds: int, bandwidth: float, rate: float
) -> dict[str, Any]:
    module = make_module(device, dtype)
    lengths = torch.tensor(sample_lengths(batch, kind), device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    padded = torch.randn(*mask.shape, HIDDEN, device=device).to(dtype)
    packed = padded[mask]
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).int()
    speed = torch.full((batch,), 0.5, device=device)
    with torch.inference_mode():
        parameters = [getattr(part, name).detach() for part, name in host.head_parameters(module)]
        weights = fold_attentive_head(*parameters, num_attention_heads=HEADS, dtype=dtype).tensors()
        compiled = torch.compile(copy.deepcopy(module), dynamic=False)
        contestants: dict[str, Callable[[], Any]] = {
            "module": lambda: decide(module, padded, mask, speed),
            "compiled module": lambda: decide(compiled, padded, mask, speed),
            "projection alone": lambda: F.linear(packed, weights[0], module.projection.bias),
        }
        ours = [
            backend.name
            for backend in backends.BACKENDS.values()
            if backend.device_type in (None, device.type) and backend.unavailable() is None
        ]
        for name in ours:
            contestants[name] = lambda name=name: ops.exit_head(packed, cu_seqlens, speed, *weights, backend=name)
        want = contestants["module"]()
        errors = {name: (contestants[name]()[0] - want[0]).abs().max().item() for name in ours}
        times = time_interleaved(contestants, device, rounds)
    tokens = packed.shape[0]
    flops = 2 * tokens * (HIDDEN * NARROW + 2 * HEADS * NARROW)
    size = packed.numel() * packed.element_size()
    return {
        "batch": batch,
        "lengths": kind,
        "tokens": tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": size,
        "flops": flops,
        "floor_seconds": max(size / bandwidth, flops / rate),
        "errors": errors,
        "seconds": {name: value.rounds for name, value in times.items()},
        "rows": [
            row(name, times, errors.get(name), max(size / bandwidth, flops / rate), LARGEST_ERROR[dtype])
            for name in times
        ],
    }


def row(name: str, times: dict[str, Any], error: float | None, floor: float, allowed: float) -> dict[str, str]:
    p20, p50, p80 = (1e6 * value for value in times[name].quantiles)
    wrong = error is not None and not error <= allowed
    return {
        "what": name,
        "p20 / p50 / p80 (us)": f"{p20:.0f} / {p50:.0f} / {p80:.0f}",
        "over the module": "outputs disagree" if wrong else f"{ratio(times['module'], times[name]):.2f}x",
        "over the compiled module": "outputs disagree"
        if wrong
        else f"{ratio(times['compiled module'], times[name]):.2f}x",
        "of the projection alone": f"{1 / ratio(times['projection alone'], times[name]):.2f}",
        "floor's share": f"{1e6 * floor / p50:.0%}",
        "largest logit error": "-" if error is None else f"{error:.1e}",
    }


def main() -> None:
    options = arguments("Times the exit head.")
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    cases = [(128, "full"), (128, "mixed"), (8, "mixed")] if gpu else [(32, "full"), (32, "mixed"), (8, "mixed")]
    dtypes = ["bfloat16", "float32"] if gpu else ["float32", "bfloat16"]
    if options.quick:
        cases, dtypes = cases[-1:], dtypes[:1]
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(device)
    result: dict[str, Any] = {"shape": [HIDDEN, NARROW, HEADS, LABELS], "copy_bytes_per_second": bandwidth, "cases": []}
    parts = ["# Exit head, H = 768, C = 128, 2 heads, 2 labels"]
    for name in dtypes:
        rate = matmul_rate(device, DTYPES[name])
        result[f"matmul_flops_per_second_{name}"] = rate
        for batch, kind in cases:
            case = run_case(batch, kind, device, DTYPES[name], options.rounds, bandwidth, rate)
            parts.append(
                f"## {name}, batch {batch}, {kind} lengths ({case['tokens']} tokens), floor "
                f"{1e6 * case['floor_seconds']:.0f} us\n\n{markdown_table(case.pop('rows'))}"
            )
            print(f"\n{parts[-1]}", flush=True)
            result["cases"].append(case)
    if not options.quick:
        save(options.out, f"exit_head_{device.type}", result, "\n\n".join(parts))


if __name__ == "__main__":
    main()
