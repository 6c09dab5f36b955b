#!/usr/bin/env python
"""A server under load, beside a client that does what no client should: is anything lost?

    python benchmarks/soak.py [--minutes 30] [--clients 16] [--shape tiny]

`fastbert serve --threads 1` runs in a process of its own, with a model of random weights whose texts leave at all
layers. In rounds of about five minutes it is found out how many requests a second the server answers, and then
clients ask 80 % of that, at random moments. Beside them an intruder leaves before its answer, sends garbage, half a
body, ten megabytes (at once and in chunks), texts of too many tokens, a wrong key and nonsense, and holds connections
without a word. When the minutes are over the server is killed with SIGKILL under load and started again on the same
port, and at last told to end, by SIGTERM, while every client asks again as soon as it has an answer.

Every answer is compared with what one `predict` call gives for its text, to the last bit; no two of these are equal, so
an answer that went to the wrong client is known by its content. Each request has to be answered, or told to come again.
Its connection may tell it only from SIGKILL on until the server listens again, or if it was sent behind SIGTERM: one
that was sent before and has no answer was dropped, which is a fault, and so is a SIGTERM when nobody was in flight.
Where the minutes are ten or more, the memory has to stay flat (a server that has just started still takes some). No
text may stay in the pool, no connection open, and no refusal and no line of the log may tell a text or a path.

Writes soak_cpu_FAMILY.json and .md (families.py); the exit status is 1 where something did not hold.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the server, the clients and others share the cores

from families import result_name
from harness import markdown_table, save
from soaking.clients import IN_FLIGHT, asking
from soaking.command_line import asked, parser_of
from soaking.ending import Ending
from soaking.intruder import SECRET, Intruder
from soaking.ledger import Ledger
from soaking.process import ServerProcess, connect
from soaking.questions import Expected, questions_of

LOAD = 0.8  # of what the server answers when each client asks again at once
MOST_GROWTH = 0.05  # of the memory, from the second fifth of the time to the last
_JUDGED_SECONDS = 600.0  # under load from which on that is judged: a server that has just started still takes some
_ROUND_SECONDS = 300.0
_END_SECONDS = 1.5  # under load before the server is killed, and before it is told to end
_MOST_WAIT_SECONDS = 300.0
_PACKAGES = ("fastapi", "uvicorn", "h11", "httptools", "uvloop", "tokenizers")


class Soak:
    """A server and those who ask it."""

    def __init__(self, model: Path, folder: Path, texts: list[str], clients: int) -> None:
        """
        Args:
            model: folder of a saved FastBERT and its tokenizer.
            folder: for logs.
            texts: that clients send.
            clients: that ask at the same time.
        """
        self._model, self._folder, self._clients = model, folder, clients
        self._key = secrets.token_urlsafe(16)
        self.questions: dict[float, dict[str, Expected]] = questions_of(model, texts)
        self._texts = [text for text in texts if " " in text]
        self.ledger = Ledger([SECRET, *self._texts, str(folder), str(Path.cwd()), sys.prefix, str(Path.home())])
        self._logs: list[Path] = []
        self.memory: list[int] = []
        self.rounds: list[dict[str, float]] = []

    def start(self, port: int = 0) -> ServerProcess:
        """Start the server, for the first time or again."""
        log = self._folder / f"server{len(self._logs)}.log"
        self._logs.append(log)
        return ServerProcess(self._model, log, self._key, port=port)

    def run(self, seconds: float) -> dict[str, Any]:
        """Return what became of all requests.

        Args:
            seconds: under load, before the server is killed.
        """
        server = self.start()
        try:
            before = self._open_files_alone(server)
            count = max(round(seconds / _ROUND_SECONDS), 1)
            stop = threading.Event()
            intruder = Intruder(server.address, self._key, self._texts, self.ledger, stop)
            intruder.start()
            for _ in range(count):
                self._round(server, seconds / count)
            if not intruder.is_alive():
                self.ledger.fault("the intruder gave up; its error stands above")
            stop.set()
            intruder.join()
            self._check_nothing_stays(server, before)
            cpu_seconds = server.cpu_seconds
            rate = self.rounds[-1]["asked_per_second"]
            ending = Ending(in_order=False)
            with self._asking(server, rate, ending):
                self._wait_for_answers()
                with ending.gone():
                    server.kill()
                    server = self.start(server.address[1])
                self._wait_for_answers()
            seconds_to_start = server.seconds_to_start
            self._end_in_order(server)
        finally:
            server.kill()
        statuses = [self._statuses_in(log) for log in self._logs]
        early, late = (statistics.median(part) / 2**20 for part in _fifths(self.memory))
        if seconds >= _JUDGED_SECONDS and late > early * (1 + MOST_GROWTH):
            self.ledger.fault(f"the memory grew from {early:.0f} to {late:.0f} MiB")
        counts = self.ledger.counts()
        if counts["asked"] != counts["answered"] + sum(n for what, n in counts.items() if what.startswith("told by")):
            self.ledger.fault("not every request was answered or told")
        return {
            "held": not self.ledger.faults,
            "minutes": round(seconds / 60, 2),
            "server_threads": 1,
            "clients": self._clients,
            "nice": os.nice(0),
            "load_average": round(os.getloadavg()[2], 1),
            "different_answers": sum(map(len, self.questions.values())),
            "memory_mib_early": round(early, 1),
            "memory_mib_late": round(late, 1),
            "server_cpu_seconds": round(cpu_seconds, 1),
            "seconds_from_kill_to_ready": round(seconds_to_start, 2),
            "rounds": self.rounds,
            "requests": counts,
            "statuses_in_the_log": dict(sorted(sum(statuses, Counter[str]()).items())),
            "faults": self.ledger.faults,
            "server_versions": {name: _version(name) for name in _PACKAGES},
        }

    def _asking(self, server: ServerProcess, rate: float | None = None, ending: Ending | None = None) -> Any:
        return asking(self._clients, server.address, self._key, self.questions, self.ledger, rate=rate, ending=ending)

    def _end_in_order(self, server: ServerProcess) -> None:
        """Tell the server to end while every client waits for an answer, or has just had one."""
        ending = Ending(in_order=True)
        with self._asking(server, None, ending):
            self._wait_for_answers()
            ending.begin()
            status = server.terminate()
        if status != 0:
            self.ledger.fault(f"told to end, the server ended with status {status}")
        if not self.ledger[IN_FLIGHT]:
            self.ledger.fault("nobody was in flight when the server was told to end, so nobody could be dropped")

    def _round(self, server: ServerProcess, seconds: float) -> None:
        """Find out what the server can do, ask 80 % of it, and watch its memory."""
        probing = min(seconds / 5, 10.0)
        capacity = self._answered_per_second(server, None, probing)
        if capacity == 0:
            raise RuntimeError(f"the server answers nobody: {self.ledger.faults}")
        answered = self._answered_per_second(server, LOAD * capacity, seconds - probing)
        row = {
            "capacity_per_second": round(capacity, 1),
            "asked_per_second": round(LOAD * capacity, 1),
            "answered_per_second": round(answered, 1),
            "memory_mib": round(self.memory[-1] / 2**20, 1),
            "faults": self.ledger["fault"],
        }
        self.rounds.append(row)
        print(row, flush=True)

    def _answered_per_second(self, server: ServerProcess, rate: float | None, seconds: float) -> float:
        before, begin = self.ledger["answered"], time.monotonic()
        with self._asking(server, rate):
            while time.monotonic() < begin + seconds:
                self.memory.append(server.resident_bytes)
                time.sleep(min(seconds / 50, 1.0))
            return (self.ledger["answered"] - before) / (time.monotonic() - begin)

    def _wait_for_answers(self) -> None:
        """Let the clients ask for a moment, and until one has an answer."""
        before, begin = self.ledger["answered"], time.monotonic()
        while time.monotonic() < begin + _END_SECONDS or self.ledger["answered"] == before:
            if time.monotonic() > begin + _MOST_WAIT_SECONDS:
                self.ledger.fault("under load before the end, or started again, the server answers nobody")
                return
            time.sleep(0.02)

    def _texts_in_flight(self, server: ServerProcess) -> float:
        connection = connect(server.address)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {self._key}"})
        page = connection.getresponse().read().decode()
        connection.close()
        return next(
            float(line.split()[1]) for line in page.splitlines() if line.startswith("fastbert_in_flight_texts ")
        )

    def _open_files_alone(self, server: ServerProcess) -> int:
        self._texts_in_flight(server)  # a first request, which opens what every server has open
        time.sleep(0.1)
        return server.open_files

    def _check_nothing_stays(self, server: ServerProcess, open_files: int) -> None:
        """Take note of texts in the pool and of connections when nobody asks any more."""
        end = time.monotonic() + 30
        while True:
            texts, more = self._texts_in_flight(server), self._open_files_alone(server) - open_files
            if texts == 0 and more <= 0:
                return
            if time.monotonic() > end:
                self.ledger.fault(f"{texts:.0f} texts stay in the pool, and {more} files open, though nobody asks")
                return

    def _statuses_in(self, log: Path) -> Counter[str]:
        """Return how many requests a log has of each status, and take note of what must not stand there."""
        found: Counter[str] = Counter()
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if SECRET in line or "Traceback" in line or any(text in line for text in self._texts[:5]):
                    self.ledger.fault(f"the server's log: {line[:300]}")
                elif line.startswith('{"time"') and line.endswith("}\n"):  # the last one may have been cut by SIGKILL
                    found[str(json.loads(line)["status"])] += 1
        for status in ("0", "500"):
            if found[status]:
                self.ledger.fault(f"{found[status]} requests have the status {status} in the log")
        return +found


def _fifths(memory: list[int]) -> tuple[list[int], list[int]]:
    """Return the second and the last fifth."""
    size = max(len(memory) // 5, 1)
    return memory[size : 2 * size] or memory, memory[-size:]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _page(result: dict[str, Any]) -> str:
    facts = {
        "held": "yes" if result["held"] else f"no: {len(result['faults'])} faults",
        "model": result["model"],
        "minutes under load": result["minutes"],
        "clients, beside the intruder": result["clients"],
        "nice value, and load average of the machine over 15 minutes": f"{result['nice']}, {result['load_average']}",
        "different answers": result["different_answers"],
        "memory, second fifth and last fifth of the time": (
            f"{result['memory_mib_early']} MiB, {result['memory_mib_late']} MiB"
        ),
        "CPU seconds of the server": result["server_cpu_seconds"],
        "seconds from SIGKILL until it listened again": result["seconds_from_kill_to_ready"],
    }
    parts = [
        "# The server under load, beside a client that does what no client should",
        markdown_table([{"": name, "value": str(value)} for name, value in facts.items()]),
        "## Rounds",
        markdown_table(
            [{name.replace("_", " "): f"{value:g}" for name, value in row.items()} for row in result["rounds"]]
        ),
        "## What became of the requests",
        markdown_table([{"outcome": name, "count": f"{count:,}"} for name, count in result["requests"].items()]),
        *(f"- {fault}" for fault in result["faults"]),
    ]
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("A server under load, beside a client that does what none should.", "tiny")
    parser.add_argument("--minutes", type=float, default=30.0, help="under load, before it is killed")
    options = parser.parse_args(argv)
    with asked(options.shape) as (name, model, folder, texts):
        result = {"model": name} | Soak(model, folder, texts, options.clients).run(60 * options.minutes)
    page = _page(result)
    print(page)
    save(options.out, result_name("soak"), result, page)
    return 0 if result["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
