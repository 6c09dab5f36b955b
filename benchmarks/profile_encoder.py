"""Where the time of the patched encoder goes on a CPU, part by part, and how far each part is from the machine's floor.

    python benchmarks/profile_encoder.py [--rounds 15]

Of each part: its time and share, and for products the FLOPs by count over that time, also in units of the rate of a
large product of the matrix library in the same dtype (measured in the same run; for int8 there is none, so that of
bfloat16).
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch

import fastbert_kernels
from comparing import workload
from families import result_name
from fastbert_kernels import _extension
from harness import arguments, markdown_table, matmul_rate, save

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
BATCH = 32


def layer_flops(hidden: int, inner: int, lengths: list[int]) -> dict[str, int]:
    """Of one layer, by part: 2 per multiply-add of the products."""
    tokens = sum(lengths)
    return {
        "qkv": 6 * tokens * hidden * hidden,
        "attention": 4 * hidden * sum(length * length for length in lengths),
        "attention_output": 2 * tokens * hidden * hidden,
        "norm": 0,
        "intermediate": 2 * tokens * hidden * inner,
        "output": 2 * tokens * hidden * inner,
    }


def executed_flops(model: Any, lengths: list[int], exit_layers: list[int], adaptive: bool) -> dict[str, int]:
    """Of a whole run, by part; the heads with 2 H C per token, which is 99 % of them."""
    config = model.config.backbone_config
    total: dict[str, int] = {"head": 0, "compaction": 0}
    for layer in range(1, config.num_hidden_layers + 1):
        alive = [length for length, last in zip(lengths, exit_layers, strict=True) if last >= layer]
        for part, flops in layer_flops(config.hidden_size, config.intermediate_size, alive).items():
            total[part] = total.get(part, 0) + flops
        if adaptive or layer == config.num_hidden_layers:
            total["head"] += 2 * sum(alive) * config.hidden_size * model.config.head_hidden_size
    return total


def profile(model: Any, requests: list[Any], rounds: int) -> tuple[dict[str, float], float]:
    """Median seconds of each part and of the whole; `host` is what happens outside the encoder: embeddings, checks."""
    native = _extension.module()
    parts: dict[str, list[float]] = {}
    totals = []
    for number in range(rounds + 2):
        native.start_profile()
        begin = time.perf_counter()
        for request in requests:
            model(request.input_ids, request.attention_mask, speed=request.speed)
        total = time.perf_counter() - begin
        seconds = native.stop_profile()
        if number < 2:
            continue
        seconds["host"] = total - sum(seconds.values())
        totals.append(total)
        for part, value in seconds.items():
            parts.setdefault(part, []).append(value)
    return {part: statistics.median(values) for part, values in parts.items()}, statistics.median(totals)


def table(parts: dict[str, float], total: float, flops: dict[str, int], rate: float) -> str:
    rows = []
    for part, seconds in [*parts.items(), ("all", total)]:
        count = sum(flops.values()) if part == "all" else flops.get(part, 0)
        rows.append(
            {
                "part": part,
                "ms": f"{1e3 * seconds:.2f}",
                "share": f"{seconds / total:.1%}",
                "GFLOP/s": f"{count / seconds / 1e9:.0f}" if count else "-",
                "of the library's rate": f"{count / seconds / rate:.2f}" if count else "-",
            }
        )
    return markdown_table(rows)


@torch.inference_mode()
def main() -> None:
    options = arguments("Profiles the patched encoder on a CPU.")
    cpu = torch.device("cpu")
    rates = {name: matmul_rate(cpu, dtype) for name, dtype in DTYPES.items() if name != "int8"}
    rates["int8"] = rates["bfloat16"]
    result: dict[str, Any] = {"library_flops_per_second": rates, "cases": []}
    sections = [f"# Profile of the patched encoder, batch {BATCH}, mixed lengths"]
    for shape in ("tiny",) if options.quick else ("BERT-base", "MiniLM-L6"):
        model = workload.make_random_model(shape)
        samples = workload.random_samples(BATCH, "mixed", model, seed=BATCH)
        uncertainty = workload.reference_answers(model, samples, BATCH).uncertainty
        assert uncertainty is not None
        exits = workload.planned_exits(uncertainty, 4.0)
        depth = len(model.heads)
        for name, dtype in DTYPES.items():
            patched = fastbert_kernels.patch(copy.deepcopy(model), dtype=dtype)
            for run, speed, layers in (
                ("full depth", None, [depth] * BATCH),
                (exits.label, exits.speed, exits.exit_layer.tolist()),
            ):
                requests = list(samples.requests(BATCH, cpu, speed))
                parts, total = profile(patched, requests, options.rounds)
                flops = executed_flops(model, samples.lengths.tolist(), layers, speed is not None)
                title = f"{shape}, {name}, {run}: {1e3 * total:.1f} ms, {BATCH / total:.0f} samples/s"
                sections.append(f"## {title}\n\n{table(parts, total, flops, rates[name])}")
                print(f"\n{sections[-1]}", flush=True)
                result["cases"].append(
                    {"shape": shape, "dtype": name, "run": run, "seconds": total, "parts": parts, "flops": flops}
                )
    if not options.quick:
        save(options.out, result_name("profile_encoder"), result, "\n\n".join(sections))


if __name__ == "__main__":
    main()
