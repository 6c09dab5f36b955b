"""Clients that ask what they should."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from soaking.ending import MOST_IDLE_SECONDS, Ending
from soaking.ledger import Ledger
from soaking.process import connect
from soaking.questions import Expected

_MOST_TEXTS = 4
_JOIN_SECONDS = 600.0
_PAUSE_SECONDS = 0.1  # of a client whose connection broke, or those of a server that has ended would ask all the time
TOLD = (429, 503)  # "come again"
# Outcomes, of some of the requests
IN_FLIGHT = "in flight when the server was told to end"
DROPPED = "dropped"


class Asker(threading.Thread):
    """Asks one request after another, and compares what it is answered with what must be answered."""

    def __init__(
        self,
        address: tuple[str, int],
        api_key: str,
        questions: Mapping[float, Mapping[str, Expected]],
        ledger: Ledger,
        stop: threading.Event,
        seed: int,
        rate: float | None,
        ending: Ending | None = None,
    ) -> None:
        """
        Args:
            address: of the server.
            api_key: of the server.
            questions: texts and their answers, by Speed.
            ledger: of what became of the requests.
            stop: ends the thread behind its next answer.
            seed: of what it asks, and when.
            rate: requests a second, at random moments; whoever waits for an answer meanwhile asks when it is there.
                None: the next request as soon as there is an answer.
            ending: of the server, meanwhile; None: it goes on, and owes everybody an answer.
        """
        super().__init__(daemon=True)
        self._address, self._questions, self._ledger, self._done = address, questions, ledger, stop
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._random, self._rate, self._ending = random.Random(seed), rate, ending
        self._connection = connect(address)
        self._used = self._begun = 0.0
        self._sent: float | None = None  # when the present request had been sent whole

    def run(self) -> None:
        """Ask until told to stop."""
        due = time.monotonic()
        while not self._done.is_set():
            if self._rate is not None:
                due = max(due + self._random.expovariate(self._rate), time.monotonic())
                if self._done.wait(due - time.monotonic()):
                    break
            self._ask()
        self._connection.close()

    def _ask(self) -> None:
        speed = self._random.choice(list(self._questions))
        expected = self._questions[speed]
        texts = self._random.choices(list(expected), k=self._random.randint(1, _MOST_TEXTS))
        inputs = [[text] for text in texts]
        body = json.dumps({"inputs": inputs, "speed": speed, "raw_scores": True, "details": True})
        self._ledger.add("asked")
        got = None
        try:
            got = self._send(body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._unanswered(error)
        if self._ending is not None and self._sent is not None and self._ending.was_told_behind(self._sent):
            self._ledger.add(IN_FLIGHT)
        if got is None:
            self._done.wait(_PAUSE_SECONDS)
            return
        status, answer = got
        if status == 200:
            self._ledger.add("answered")
            told = json.loads(answer)
            if len(told) != len(texts) or not all(
                expected[text].is_told_by(each) for text, each in zip(texts, told, strict=True)
            ):
                self._ledger.fault(f"not the answer to {texts} at Speed {speed}: {answer[:500]}")
        elif status in TOLD:
            self._ledger.add(f"told by {status}")
            self._ledger.check_refusal(answer)
        else:
            self._ledger.fault(f"status {status} for a request that is right: {answer[:300]}")

    def _unanswered(self, error: Exception) -> None:
        if self._ending is not None and self._ending.excuses(self._begun, self._sent):
            how = "refused" if isinstance(error, ConnectionRefusedError) else "broken"
            self._ledger.add(f"told by a {how} connection")
        else:
            self._ledger.add(DROPPED)
            self._ledger.fault(f"no answer to a request that was sent: {type(error).__name__}: {error}")

    def _send(self, body: str) -> tuple[int, str]:
        self._begun, self._sent = time.monotonic(), None
        if time.monotonic() > self._used + MOST_IDLE_SECONDS:
            self._connection.close()  # and opened again by the request
        self._connection.request("POST", "/predict", body, self._headers)
        self._sent = time.monotonic()
        response = self._connection.getresponse()
        answer = response.read().decode()
        self._used = time.monotonic()
        return response.status, answer


@contextmanager
def asking(
    count: int,
    address: tuple[str, int],
    api_key: str,
    questions: Mapping[float, Mapping[str, Expected]],
    ledger: Ledger,
    *,
    rate: float | None = None,
    ending: Ending | None = None,
) -> Iterator[None]:
    """Ask with `count` clients, `rate` requests a second together, until the block ends and all have their answers."""
    stop, each = threading.Event(), None if rate is None else rate / count
    clients = [Asker(address, api_key, questions, ledger, stop, seed, each, ending) for seed in range(count)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stop.set()
        for client in clients:
            client.join(_JOIN_SECONDS)
            if client.is_alive():
                ledger.fault("a client waits for its answer for ever")
