#!/usr/bin/env python
"""Would several server processes on one machine answer more than one? Requests a second, in turns.

    python benchmarks/server_processes.py [--rounds 5] [--seconds 4] [--clients 16] [--shape MiniLM-L6]

One `fastbert serve` that computes on all processors, against as many as there are processors, with one thread each and
each with its share of the clients. Clients ask the next question as soon as they have an answer, on the same machine,
and compare each answer with that of `predict`; their time is in all figures. All servers stand ready all the time, and
take turns, in an order that is shuffled in each round. Beside requests a second, CPU seconds of the servers per 1,000
requests are counted, in which other work on the machine has a smaller part. Writes server_processes_cpu_FAMILY.json
and .md (families.py).
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # the servers that wait take no core from those that have their turn

from families import result_name
from fastbert_kernels.threads import processors
from harness import markdown_table, save
from soaking.clients import asking
from soaking.command_line import asked, parser_of
from soaking.ledger import Ledger
from soaking.process import ServerProcess
from soaking.questions import questions_of


class Turn(NamedTuple):
    """What servers did in a turn."""

    requests_per_second: float
    cpu_seconds_per_1000: float


def take_turn(servers: Sequence[ServerProcess], key: str, questions: Any, clients: int, seconds: float) -> Turn:
    """Let clients ask servers, each with its share of them.

    Raises:
        RuntimeError: an answer is missing or wrong.
    """
    ledger, used = Ledger([]), sum(server.cpu_seconds for server in servers)
    with ExitStack() as all_of_them:
        begin = time.monotonic()
        for server in servers:
            all_of_them.enter_context(asking(clients // len(servers), server.address, key, questions, ledger))
        time.sleep(seconds)
    rate = ledger["answered"] / (time.monotonic() - begin)  # with the last answers, for which all clients wait
    used = sum(server.cpu_seconds for server in servers) - used
    if ledger.faults or not ledger["answered"]:
        raise RuntimeError(f"not everything was answered right: {ledger.faults}")
    return Turn(rate, 1000 * used / ledger["answered"])


def compare(model: Path, folder: Path, texts: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the turns of one process and of several, and the memory of each."""
    count, key, order = processors(), secrets.token_urlsafe(16), random.Random(0)
    questions = questions_of(model, texts)
    turns: dict[str, list[Turn]] = {}
    with ExitStack() as started:

        def start(name: str, threads: int) -> ServerProcess:
            server = ServerProcess(model, folder / f"{name}.log", key, threads=threads)
            started.callback(server.kill)
            return server

        ways = {"one process": [start("one", count)]}
        ways[f"{count} processes"] = [start(str(number), 1) for number in range(count)]
        for servers in ways.values():
            take_turn(servers, key, questions, options.clients, 1.0)
        for _ in range(options.rounds):
            for name in order.sample(sorted(ways), len(ways)):
                turn = take_turn(ways[name], key, questions, options.clients, options.seconds)
                turns.setdefault(name, []).append(turn)
        memory = {name: sum(server.resident_bytes for server in servers) / 2**20 for name, servers in ways.items()}
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "clients": options.clients,
        "processors": count,
        "load_average": round(os.getloadavg()[0], 1),
        "weights_mib": round((model / "model.safetensors").stat().st_size / 2**20, 1),
        "memory_mib": {name: round(mib, 1) for name, mib in memory.items()},
        "turns": {name: [turn._asdict() for turn in each] for name, each in turns.items()},
    }


def _table(result: dict[str, Any]) -> str:
    """Return a line for one process and for several: medians, with the least and the most of all turns."""

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"

    first = [turn["requests_per_second"] for turn in result["turns"]["one process"]]
    rows = []
    for name, turns in result["turns"].items():
        rates = [turn["requests_per_second"] for turn in turns]
        row = {"servers": name, "requests per second": spread(rates)}
        row["over one process"] = f"{statistics.median(a / b for a, b in zip(rates, first, strict=True)):.2f}x"
        row["CPU seconds per 1,000 requests"] = spread([turn["cpu_seconds_per_1000"] for turn in turns])
        row["memory"] = f"{result['memory_mib'][name]:.0f} MiB"
        rows.append(row)
    return markdown_table(rows)


def told(result: dict[str, Any]) -> str:
    """Return what was measured, and the table."""
    said = (
        f"{result['model']}, {result['clients']} clients with 1 to 4 texts a request; medians of {result['rounds']} "
        f"turns of {result['seconds']:g} s (least to most). Weights: {result['weights_mib']:g} MiB. Load average "
        f"of the machine: {result['load_average']}, of which the servers and clients are a part."
    )
    return f"{said}\n\n{_table(result)}"


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("One server process against one for each processor.", "MiniLM-L6")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    options = parser.parse_args(argv)
    with asked(options.shape) as (name, model, folder, texts):
        result = {"model": name, **compare(model, folder, texts, options)}
    page = f"# One server process or several\n\n{told(result)}"
    print(page)
    save(options.out, result_name("server_processes"), result, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
