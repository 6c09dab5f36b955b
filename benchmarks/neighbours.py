"""Engines on cores that others use too: a second process of the same kind, and a neighbour that is always busy.

    python benchmarks/neighbours.py [--shape MiniLM-L6] [--rounds 5] [--seconds 1.0] [--quick]

Each engine answers one batch again and again, at full depth, in processes with as many threads as there are cores:
alone, two such processes at once, and beside a process that keeps the first core busy; besides alone with one thread.
The situations take turns within a round and are shuffled. Counted are texts, the time of each call, and the CPU seconds
that the processes obtained: what an engine spends on waiting for its own threads shows as fewer texts per CPU second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from comparing.workload import SHAPES, make_random_model, random_samples
from families import result_name
from fastbert_hf.timing import Seconds
from harness import available, load_before, markdown_table, parse_with_rounds, save
from peers import ENTRIES
from peers.contestant import Contestant, NotAvailable, Request, Setup

BATCH = 8
ENGINES = (
    "ours patched float32",
    "ours patched bfloat16",
    "ours patched int8",
    "Transformers eager float32",
    "ONNX Runtime float32",
    "ONNX Runtime int8",
    "OpenVINO float32",
)
ALONE, PAIR, BUSY, ONE_THREAD = "alone", "two processes", "busy neighbour", "one thread"
SITUATIONS = (ALONE, PAIR, BUSY, ONE_THREAD)


@dataclass(frozen=True)
class Turn:
    """What the processes of one situation did in one round, together.

    Attributes:
        seconds: of the clock, from the first call to the end of the last one.
        cpu_seconds: that the processes obtained.
        calls: seconds of each call.
    """

    seconds: float
    cpu_seconds: float
    calls: list[float]

    @property
    def rate(self) -> float:
        """Texts per second, as if every process had stopped with its last call."""
        return BATCH * len(self.calls) / self.seconds

    @property
    def rate_per_cpu_second(self) -> float:
        return BATCH * len(self.calls) / self.cpu_seconds


def serve(connection: Connection, engine: str, shape: str, threads: int) -> None:
    """In a process of its own: build the engine, then answer for as many seconds as asked, until None comes."""
    torch.set_num_threads(threads)
    (entry,) = (entry for entry in ENTRIES if entry.name == engine)
    model = make_random_model(shape)
    with tempfile.TemporaryDirectory() as folder:
        try:
            contestant = entry.build(Setup(model, torch.device("cpu"), threads, Path(folder)))
        except NotAvailable as reason:
            connection.send(str(reason))
            return
        (request,) = random_samples(BATCH, "mixed", model, seed=2).requests(BATCH, torch.device("cpu"))
        with torch.inference_mode():
            _answer(contestant, request, connection)


def _answer(contestant: Contestant, request: Request, connection: Connection) -> None:
    for _ in range(3):
        contestant.run(request)
    connection.send(None)
    while (seconds := connection.recv()) is not None:
        used, began, calls = _cpu_seconds(), time.perf_counter(), []
        while (now := time.perf_counter()) < began + seconds:
            contestant.run(request)
            calls.append(time.perf_counter() - now)
        connection.send(Turn(time.perf_counter() - began, _cpu_seconds() - used, calls))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def keep_busy(core: int) -> None:
    """In a process of its own: compute on one core, until the process is ended."""
    os.sched_setaffinity(0, {core})
    while True:
        pass


class Worker:
    """A process that serves."""

    def __init__(self, engine: str, shape: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, engine, shape, threads), daemon=True)
        self._process.start()
        other.close()

    def wait_until_ready(self) -> None:
        if (reason := self._connection.recv()) is not None:
            raise NotAvailable(reason)

    def begin(self, seconds: float) -> None:
        self._connection.send(seconds)

    def end(self) -> Turn:
        return self._connection.recv()

    def stop(self) -> None:
        self._connection.send(None)
        self._process.join()


@contextmanager
def busy_neighbour(core: int) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=keep_busy, args=(core,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def together(turns: Sequence[Turn]) -> Turn:
    """Make one turn of what several processes did at once."""
    rate = sum(turn.rate for turn in turns)
    calls = [seconds for turn in turns for seconds in turn.calls]
    return Turn(BATCH * len(calls) / rate, sum(turn.cpu_seconds for turn in turns), calls)


def measure(engine: str, shape: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the turns of one engine by situation; where it is not available, the reason."""
    cores = sorted(os.sched_getaffinity(0))
    workers = [Worker(engine, shape, threads) for threads in (len(cores), len(cores), 1)]
    try:
        for worker in workers:
            worker.wait_until_ready()
    except NotAvailable as reason:
        return {"engine": engine, "not_available": str(reason)}
    first, second, single = workers

    def turn(*those: Worker) -> Turn:
        for worker in those:
            worker.begin(seconds)
        return together([worker.end() for worker in those])

    turns: dict[str, list[Turn]] = {situation: [] for situation in SITUATIONS}
    for number in range(rounds):
        for situation in random.Random(number).sample(SITUATIONS, len(SITUATIONS)):
            if situation == ALONE:
                turns[situation].append(turn(first))
            elif situation == PAIR:
                turns[situation].append(turn(first, second))
            elif situation == ONE_THREAD:
                turns[situation].append(turn(single))
            elif situation == BUSY:
                with busy_neighbour(cores[0]):
                    time.sleep(0.2)  # until it runs
                    turns[situation].append(turn(first))
            else:
                raise ValueError(f"unknown situation {situation!r}")
    for worker in workers:
        worker.stop()
    return {"engine": engine, **summary(turns), "turns": {name: list(map(asdict, of)) for name, of in turns.items()}}


def summary(turns: dict[str, list[Turn]]) -> dict[str, float]:
    """Return medians over the rounds, and ratios as medians of the ratios within a round.

    Returns:
        pair_rate: texts per second of two processes together over one alone.
        pair_rate_per_cpu_second: the same for texts per CPU second.
        pair_p99: their 99th percentile of a call over that of one alone, over all rounds.
        busy_rate_per_cpu_second: texts per CPU second beside a busy neighbour, over those with one thread.
    """

    def median(situation: str, figure: str) -> float:
        return statistics.median(getattr(turn, figure) for turn in turns[situation])

    return {
        **{f"rate {situation}": median(situation, "rate") for situation in SITUATIONS},
        "cpu_seconds_per_second": statistics.median(turn.cpu_seconds / turn.seconds for turn in turns[BUSY]),
        "pair_rate": statistics.median(ratios(turns, PAIR, ALONE, "rate")),
        "pair_rate_per_cpu_second": statistics.median(ratios(turns, PAIR, ALONE, "rate_per_cpu_second")),
        "pair_p99": percentile(turns[PAIR], 99) / percentile(turns[ALONE], 99),
        "busy_rate_per_cpu_second": statistics.median(ratios(turns, BUSY, ONE_THREAD, "rate_per_cpu_second")),
    }


def ratios(turns: dict[str, list[Turn]], situation: str, base: str, figure: str) -> list[float]:
    """Return a figure of one situation over that of another, round by round."""
    pairs = zip(turns[situation], turns[base], strict=True)
    return [getattr(turn, figure) / getattr(other, figure) for turn, other in pairs]


def with_spread(engine: dict[str, Any], situation: str, base: str, figure: str) -> str:
    """Return the median of such ratios, and p20 to p80 of them in brackets, of an engine in the result file."""
    turns = {name: [Turn(**turn) for turn in engine["turns"][name]] for name in (situation, base)}
    p20, p50, p80 = Seconds(ratios(turns, situation, base, figure)).quantiles
    return f"{p50:.2f} ({p20:.2f} to {p80:.2f})"


def percentile(turns: Sequence[Turn], percent: int) -> float:
    """Return the seconds within which that many of a hundred calls were answered."""
    calls = sorted(seconds for turn in turns for seconds in turn.calls)
    return calls[min(len(calls) - 1, len(calls) * percent // 100)]


def table(result: dict[str, Any]) -> str:
    """The page beside the JSON file."""
    rows, below = [], []
    for engine in available(result["engines"], "engine", below):
        rates = {f"{situation}, texts/s": f"{engine[f'rate {situation}']:.0f}" for situation in SITUATIONS}
        rows.append(
            {
                "engine": engine["engine"],
                **rates,
                "two over one": with_spread(engine, PAIR, ALONE, "rate"),
                "the same per CPU second": with_spread(engine, PAIR, ALONE, "rate_per_cpu_second"),
                "their p99 over its": f"{engine['pair_p99']:.1f}",
                "busy: CPU seconds a second": f"{engine['cpu_seconds_per_second']:.2f}",
                "busy: texts per CPU second over one thread": with_spread(
                    engine, BUSY, ONE_THREAD, "rate_per_cpu_second"
                ),
            }
        )
    parts = [
        "# Neighbours on the same cores",
        f"{result['shape']} with random weights, full depth, batches of {BATCH} texts of mixed lengths; "
        f"{result['rounds']} rounds of {result['seconds']:g} s for each situation, in turns and shuffled; processes "
        f"have {result['cores']} threads on {result['cores']} cores. Rates are medians; ratios of rates are medians of "
        "the ratios within a round, with p20 to p80 of these; p99 is over all calls. A busy neighbour keeps the first "
        f"core. {load_before(result)}. Where that is more than a fraction of a core, others were on these cores as "
        "well: then two processes obtain more of them than one, and only what is counted per CPU second tells the "
        "engines apart.",
    ]
    if rows:
        parts.append(markdown_table(rows))
    return "\n\n".join([*parts, "\n".join(below)] if below else parts)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares engines on cores that others use too.")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--shape", choices=list(SHAPES), default="MiniLM-L6")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one situation in one round")
    options = parse_with_rounds(parser, argv, rounds=5, quick="a tiny shape and one short round; writes nothing")
    if not options.seconds > 0:
        parser.error("--seconds must be above 0")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    if options.quick:
        options.shape, options.seconds = "tiny", 0.1
    load = os.getloadavg()
    engines = []
    for engine in options.engines:
        engines.append(measure(engine, options.shape, options.rounds, options.seconds))
        print(json.dumps({name: value for name, value in engines[-1].items() if name != "turns"}), file=sys.stderr)
    result = {
        "shape": options.shape,
        "batch": BATCH,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "engines": engines,
    }
    page = table(result)
    print(page)
    if not options.quick:
        save(options.out, result_name("neighbours"), result, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
