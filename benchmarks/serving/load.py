"""The load generator: sends requests at their moments, whatever has been answered by then.

It is a process of its own, and a thin one: requests are bytes that were made before, and of an answer it reads the
status and the length. A latency counts from the moment for which the request was planned, not from the one at which it
was sent, so that a server that stands still is charged for all who wanted to come meanwhile (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import math
import multiprocessing
import selectors
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

MOST_CONNECTIONS = 128
_PATIENCE_SECONDS = 60.0  # for the last answers
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Load:
    """Requests, and when they are sent.

    Attributes:
        port: of the server, on loopback.
        requests: each as bytes of HTTP.
        times: of each, in seconds from the start, ascending.
        connections: that are opened before the start; a request that finds none of them free waits, and its time runs.
        hopeless_seconds: the run ends early when more than 1 % of all requests took longer than this.
        keep_answers: whether the bodies of the answers are wanted.
    """

    port: int
    requests: list[bytes]
    times: list[float]
    connections: int = MOST_CONNECTIONS
    hopeless_seconds: float = math.inf
    keep_answers: bool = False


@dataclass
class Outcome:
    """What became of the requests of a load, in their order.

    Attributes:
        latencies: seconds from the planned moment to the answer; infinity where none came, or another status than 200.
        lateness: seconds from the planned moment to the one at which the generator came to the request.
        statuses: how many answers had which.
        answers: bodies, where they were wanted.
        seconds: from the start to the last answer.
        cpu_seconds: that the generator took meanwhile.
        gave_up: whether it ended early.
    """

    latencies: list[float]
    lateness: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gave_up: bool = False

    def late_share(self, limit: float) -> float:
        """Return the share of the requests that took longer than `limit` seconds, or have no answer."""
        return sum(latency > limit for latency in self.latencies) / len(self.latencies)


def http_request(path: str, body: bytes) -> bytes:
    """Return the bytes of a POST request on a connection that stays open."""
    head = f"POST {path} HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class _Wire(asyncio.Protocol):
    """A connection, which carries one request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.number: int | None = None  # of the request under way
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, number: int, request: bytes) -> None:
        self.number = number
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return
        body, self._received = self._received[end + 4 :], b""
        number, self.number = self.number, None
        assert number is not None
        self._run.answered(self, number, int(head[9:12]), body)

    def connection_lost(self, error: Exception | None) -> None:
        self._run.lost(self)


class _Run:
    """One load on its way."""

    def __init__(self, load: Load) -> None:
        self._load, self._loop = load, asyncio.get_running_loop()
        self.outcome = Outcome([math.inf] * len(load.times))
        if load.keep_answers:
            self.outcome.answers = [b""] * len(load.times)
        self._free: list[_Wire] = []
        self._wires: set[_Wire] = set()
        self._waiting: deque[int] = deque()  # whose moment has come, and for whom no connection is free
        self._next, self._left, self._too_late = 0, len(load.times), 0
        self._end: asyncio.Future[None] = self._loop.create_future()

    async def go(self) -> Outcome:
        """Send everything, and return when everything is answered, or is not going to be."""
        await asyncio.gather(*(self._open() for _ in range(self._load.connections)))
        used, self._begin = time.process_time(), self._loop.time()
        self._send_due()
        try:
            await asyncio.wait_for(self._end, self._load.times[-1] + _PATIENCE_SECONDS)
        except asyncio.TimeoutError:
            self.outcome.gave_up = True
        self.outcome.seconds = self._loop.time() - self._begin
        self.outcome.cpu_seconds = time.process_time() - used
        wires, self._wires = self._wires, set()
        for wire in wires:
            wire.transport.abort()
        return self.outcome

    def answered(self, wire: _Wire, number: int, status: int, body: bytes) -> None:
        latency = self._loop.time() - self._begin - self._load.times[number]
        self.outcome.statuses[status] += 1
        if status == 200:
            self.outcome.latencies[number] = latency
        if self._load.keep_answers:
            self.outcome.answers[number] = body
        self._left -= 1
        self._too_late += status != 200 or latency > self._load.hopeless_seconds
        if 100 * self._too_late > len(self._load.times):
            self.outcome.gave_up = self._left > 0
            self._finish()
        elif self._left == 0:
            self._finish()
        self._free.append(wire)
        self._pass_on()

    def lost(self, wire: _Wire) -> None:
        """Open another connection in place of one that the server closed, for the request that may have been on it."""
        if wire not in self._wires:
            return
        self._wires.discard(wire)
        if wire.number is not None:
            self._waiting.appendleft(wire.number)
        elif wire in self._free:
            self._free.remove(wire)
        task = self._loop.create_task(self._open())
        task.add_done_callback(lambda done: None if done.exception() is None else self._finish(done.exception()))

    async def _open(self) -> None:
        _, wire = await self._loop.create_connection(lambda: _Wire(self), _HOST, self._load.port)
        self._wires.add(wire)
        self._free.append(wire)
        self._pass_on()

    def _send_due(self) -> None:
        """Send whatever is due, and come again when the next one is."""
        times, lateness = self._load.times, self.outcome.lateness
        now = self._loop.time() - self._begin
        while self._next < len(times) and times[self._next] <= now:
            lateness.append(now - times[self._next])
            self._waiting.append(self._next)
            self._next += 1
        self._pass_on()
        if self._next < len(times) and not self._end.done():
            self._loop.call_at(self._begin + times[self._next], self._send_due)

    def _pass_on(self) -> None:
        while self._waiting and self._free and not self._end.done():
            number = self._waiting.popleft()
            self._free.pop().send(number, self._load.requests[number])

    def _finish(self, error: BaseException | None = None) -> None:
        if self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)


def send(load: Load) -> Outcome:
    """Send a load, in this process.

    Raises:
        OSError: nobody listens there, or no longer.
    """

    async def run() -> Outcome:
        return await _Run(load).go()

    # select() waits for microseconds; epoll, by way of asyncio, only for whole milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def _generate(connection: Connection) -> None:
    gc.disable()
    gc.freeze()
    while (load := connection.recv()) is not None:
        connection.send(send(load))
        gc.collect()


class Generator:
    """The process that sends loads."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_generate, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def __call__(self, load: Load) -> Outcome:
        """Send a load, and return what became of it.

        Raises:
            RuntimeError: the generator failed, as when the server has ended.
        """
        self._connection.send(load)
        try:
            outcome: Outcome = self._connection.recv()
        except EOFError:
            raise RuntimeError("the load generator ended; its error stands above") from None
        return outcome

    def stop(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()
