"""What the benchmarks share: interleaved timing, the machine's floors, and result files."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastbert_hf.files import write_atomically
from fastbert_hf.machine import describe_machine

RESULTS = Path(__file__).resolve().parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIXED_LENGTHS = torch.distributions.LogNormal(3.6, 0.65)  # tokens of short texts
_FLUSH_BYTES = 256 << 20  # several times the largest L2 cache


@dataclass(frozen=True)
class Seconds:
    """Times of one contestant, one per round."""

    rounds: list[float]

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """p20, p50, p80."""
        if len(self.rounds) == 1:
            return (self.rounds[0],) * 3
        tenths = statistics.quantiles(self.rounds, n=10, method="inclusive")
        return tenths[1], tenths[4], tenths[7]

    @property
    def median(self) -> float:
        return self.quantiles[1]


def ratio(slow: Seconds, fast: Seconds) -> float:
    """Median of the ratios within a round: what disturbs a round disturbs both."""
    return statistics.median(a / b for a, b in zip(slow.rounds, fast.rounds, strict=True))


Name = TypeVar("Name", bound=Hashable)


@torch.inference_mode()
def time_interleaved(
    contestants: dict[Name, Callable[[], Any]],
    device: torch.device,
    rounds: int,
    *,
    warmups: int = 3,
    shuffle: bool = False,
    settle: float = 0.0,
    after_call: Callable[[Name], None] | None = None,
) -> dict[Name, Seconds]:
    """Every contestant once a round, in turn. On CUDA the L2 cache is flushed before each call and events take the
    time.

    Args:
        contestants: what to call, by name. device: what they run on. rounds: timed calls of each.
        warmups: untimed calls of each, in front of all others.
        shuffle: another order in each round, so that nobody always runs behind the same neighbour.
        settle: seconds of rest before each call: the worker threads of the one before may still spin.
        after_call: called with the name after each timed call.
    """
    for run in contestants.values():
        for _ in range(warmups):
            run()
    times: dict[Name, list[float]] = {name: [] for name in contestants}
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device) if device.type == "cuda" else None
    order, draw = list(contestants), random.Random(0)
    for _ in range(rounds):
        if shuffle:
            draw.shuffle(order)
        for name in order:
            run = contestants[name]
            if settle:
                time.sleep(settle)
            times[name].append(_time_cuda(run, flush) if flush is not None else _time_cpu(run))
            if after_call is not None:
                after_call(name)
    return {name: Seconds(values) for name, values in times.items()}


def _time_cpu(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _time_cuda(run: Callable[[], Any], flush: torch.Tensor) -> float:
    flush.zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read plus bytes written per second by a copy far larger than the caches."""
    size = (1 << 30) if device.type == "cuda" else (256 << 20)
    source = torch.randint(-100, 100, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / time_interleaved({"copy": lambda: target.copy_(source)}, device, 10)["copy"].median


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a large matrix product of an encoder's shape (random values: zeros run faster)."""
    rows, width, out = (8192, 8192, 8192) if device.type == "cuda" else (4096, 768, 3072)
    a, b = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, out, device=device).to(dtype)
    return 2 * rows * width * out / time_interleaved({"matmul": lambda: a @ b}, device, 15)["matmul"].median


def sample_lengths(batch: int, kind: str, longest: int = 128) -> list[int]:
    """`full`: all `longest`. `mixed`: log-normal with mean about 45, as short texts have."""
    if kind == "full":
        return [longest] * batch
    return MIXED_LENGTHS.sample((batch,)).long().clamp(3, longest).tolist()


def arguments(description: str) -> argparse.Namespace:
    parser = common_options(description)
    parser.add_argument("--rounds", type=int, default=30, help="interleaved repeats; medians are reported")
    return parser.parse_args()


def common_options(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--quick", action="store_true", help="one small case, to see that it runs; writes nothing")
    return parser


def save(out: Path, name: str, result: dict[str, Any], table: str) -> None:
    """Writes `name`.json (with the machine) and `name`.md, each as a whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    write_atomically(out / f"{name}.json", json.dumps({"machine": machine, **result}, indent=2) + "\n")
    device = machine["cuda_device"] or machine["processor"]
    note = f"{device}, {machine['threads']} threads, torch {machine['versions']['torch']}, {machine['date']}"
    write_atomically(out / f"{name}.md", f"{table}\n\n{note}\n")


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with the same keys as a Markdown table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row[name] for name in header) + " |" for row in rows)])
