"""Where the time of the patched encoder goes on a CPU, part by part, and how far each is from the machine's rates.

    python benchmarks/profile_encoder.py [--rounds 15]

Of each part: its time and share, its FLOPs and bytes by count, and the share that it reaches of its nearest bound: the
time that the products alone take at the rate of the fastest unit for their dtype, or that the bytes alone take at the
rate of memory, whichever is longer, over the time taken. The machine's rates (machine/rates.py) are measured in every
round beside the model.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fastbert_kernels
from comparing import workload
from families import result_name
from fastbert_kernels import _extension
from harness import arguments, load_before, markdown_table, save
from machine.rates import MEMORY, MachineRates, compile_probes, unit_for
from machine.work import Work, run_work

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
BATCH = 32


@torch.inference_mode()
def profile(
    model: Any, requests: list[Any], rounds: int, measure_rates: Callable[[], dict[str, float]]
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Return median seconds of each part and of the whole, and the median rates of the machine between the rounds.

    The part `host` is what happens outside the encoder: embeddings, checks.
    """
    native = _extension.module()
    parts: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
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
        for unit, rate in measure_rates().items():
            rates.setdefault(unit, []).append(rate)
    return _medians(parts), statistics.median(totals), _medians(rates)


def _medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in values.items()}


def nearest_bound(work: Work, rates: dict[str, float]) -> tuple[str, float]:
    """Return the unit, or memory, that `work` waits for at the longest, and the seconds that this takes at its rate."""
    unit = unit_for(work.operands, rates)
    bounds = {unit: work.flops / rates[unit], MEMORY: work.bytes / rates[MEMORY]}
    return max(bounds.items(), key=lambda bound: bound[1])


def bounds(parts: dict[str, float], works: dict[str, Work], rates: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return FLOPs, bytes, the nearest bound and the share of it, of every part whose work is counted.

    The share of `all` is that of the times of all these bounds, over the seconds of all parts.
    """
    found: dict[str, dict[str, Any]] = {}
    least_of_all = 0.0
    for part, seconds in parts.items():
        work = works.get(part)
        if work is not None and work.bytes > 0:
            bound, least = nearest_bound(work, rates)
            least_of_all += least
            found[part] = {"flops": work.flops, "bytes": work.bytes, "bound": bound, "share": least / seconds}
    flops = sum(part["flops"] for part in found.values())
    found["all"] = {"flops": flops, "share": least_of_all / sum(parts.values())}
    return found


def table(parts: dict[str, float], total: float, found: dict[str, dict[str, Any]]) -> str:
    """Return the page's table of one run."""
    rows = []
    for name, seconds in [*parts.items(), ("all", total)]:
        bound = found.get(name, {})
        flops, count = bound.get("flops"), bound.get("bytes")
        rows.append(
            {
                "part": name.replace("_", " "),
                "ms": f"{1e3 * seconds:.2f}",
                "share": f"{seconds / total:.1%}",
                "GFLOP": f"{flops / 1e9:.2f}" if flops else "-",
                "MB": f"{count / 1e6:.1f}" if count else "-",
                "GFLOP/s": f"{flops / seconds / 1e9:.0f}" if flops else "-",
                "nearest bound": bound.get("bound", "-").replace("_", " "),
                "share of it": f"{bound['share']:.0%}" if bound else "-",
            }
        )
    return markdown_table(rows)


def rates_in_words(rates: dict[str, float]) -> str:
    """Return the machine's rates as a line."""
    units = [
        f"{name.replace('_', ' ')} {rate / 1e9:.0f} {'GB/s' if name == MEMORY else 'GFLOP/s'}"
        for name, rate in rates.items()
    ]
    return f"The machine in the same rounds: {', '.join(units)}."


def main() -> None:
    options = arguments("Profiles the patched encoder on a CPU.")
    cpu = torch.device("cpu")
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        machine = MachineRates(compile_probes(Path(folder) / "probes.so"))
    result: dict[str, Any] = {"load": load, "rates_refused": machine.refused, "cases": []}
    sections = [
        f"# Profile of the patched encoder, batch {BATCH}, mixed lengths",
        "Share of the nearest bound: the longer of the times that a part's products take at the rate of the unit for "
        "them, operands in registers, and that its bytes take at the rate of memory, over the time taken; above 100 % "
        "its rows came from a cache.",
        f"{load_before(result)}.",
        *(f"{name.replace('_', ' ')}: not measured: {reason}" for name, reason in machine.refused.items()),
    ]
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
                parts, total, rates = profile(patched, requests, options.rounds, machine.measure)
                works = run_work(model.config, samples.lengths.tolist(), layers, name, speed is not None)
                found = bounds(parts, works, rates)
                title = f"{shape}, {name}, {run}: {1e3 * total:.1f} ms, {BATCH / total:.0f} samples/s"
                sections.append(f"## {title}\n\n{table(parts, total, found)}\n\n{rates_in_words(rates)}")
                print(f"\n{sections[-1]}", flush=True)
                case = {"shape": shape, "dtype": name, "run": run, "seconds": total, "parts": parts}
                result["cases"].append({**case, "rates": rates, "bounds": found})
    if not options.quick:
        save(options.out, result_name("profile_encoder"), result, "\n\n".join(sections))


if __name__ == "__main__":
    main()
