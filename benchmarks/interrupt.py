"""How long a call goes on after a signal: Ctrl-C in the middle of many long texts.

    python benchmarks/interrupt.py [--shape BERT-base] [--rounds 20] [--quick]

A timer of the system sends its signal at a moment drawn anew in each round, while a patched model answers 64 texts of
512 tokens at full depth: after a tenth to seven tenths of what an undisturbed call took. Python's handler raises, as
that of Ctrl-C does; counted is from the moment for which the timer was set to the one at which the exception has left
the call.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import fastbert_kernels
from comparing.workload import SHAPES, make_random_model
from families import result_name
from fastbert_hf.timing import Seconds
from harness import markdown_table, page_of_one_table, parse_with_rounds, save
from peers.contestant import TORCH_DTYPES

TEXTS, TOKENS = 64, 512
_EARLIEST, _LATEST = 0.1, 0.7  # parts of a call from its begin to the signal


class _Interrupted(Exception):
    pass


def _interrupt(*_: Any) -> None:
    raise _Interrupted


def seconds_until_noticed(call: Callable[[], Any], delay: float) -> float:
    """Return how long `call` goes on after a signal that comes `delay` seconds after its begin.

    It has to be on the main thread, where Python runs handlers.

    Raises:
        RuntimeError: the call was over before the signal.
    """
    before = signal.signal(signal.SIGALRM, _interrupt)
    due = time.perf_counter() + delay
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _Interrupted:
        return time.perf_counter() - due
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    raise RuntimeError(
        f"the call was over within {delay:.2f} s, before the signal: something else kept the first one up"
    )


def patched_models(shape: str) -> dict[str, torch.nn.Module]:
    return {name: fastbert_kernels.patch(make_random_model(shape), dtype=dtype) for name, dtype in TORCH_DTYPES.items()}


@torch.inference_mode()
def measure(models: dict[str, torch.nn.Module], texts: int, rounds: int) -> list[dict[str, Any]]:
    """Return for every dtype the seconds of each round."""
    ids = torch.randint(5, 1000, (texts, TOKENS))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    draw = random.Random(0)
    undisturbed = {}
    for name, model in models.items():
        model(ids[:1])
        begin = time.perf_counter()
        model(ids)
        undisturbed[name] = time.perf_counter() - begin
    for _ in range(rounds):
        for name, model in models.items():
            delay = undisturbed[name] * draw.uniform(_EARLIEST, _LATEST)
            seconds[name].append(seconds_until_noticed(lambda model=model: model(ids), delay))
    return [{"dtype": name, "seconds": found} for name, found in seconds.items()]


def table(result: dict[str, Any]) -> str:
    """Return a line for every dtype, in milliseconds."""
    rows = []
    for row in result["rows"]:
        p20, p50, p80 = (1e3 * value for value in Seconds(row["seconds"]).quantiles)
        longest = 1e3 * max(row["seconds"])
        rows.append(
            {
                "ours patched": row["dtype"],
                "ms (p20 to p80)": f"{p50:.0f} ({p20:.0f} to {p80:.0f})",
                "longest": f"{longest:.0f}",
            }
        )
    return markdown_table(rows)


def page(result: dict[str, Any]) -> str:
    about = f"{result['shape']} with random weights, full depth, {result['texts']} texts of {TOKENS} tokens"
    return page_of_one_table("From a signal to the end of a call", about, result, table(result))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measures how long a call goes on after a signal.")
    parser.add_argument("--shape", choices=list(SHAPES), default="BERT-base")
    options = parse_with_rounds(parser, argv, rounds=20, quick="a small shape, few texts and one round; writes nothing")
    shape, texts = ("tiny", 16) if options.quick else (options.shape, TEXTS)
    load = os.getloadavg()
    rows = measure(patched_models(shape), texts, options.rounds)
    facts = {"shape": shape, "texts": texts, "threads": torch.get_num_threads(), "rounds": options.rounds, "load": load}
    result = {**facts, "rows": rows}
    print(page(result))
    if not options.quick:
        save(options.out, result_name("interrupt"), result, page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
