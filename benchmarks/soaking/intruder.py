"""A client that does what no client should."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from soaking.clients import TOLD
from soaking.ledger import Ledger
from soaking.process import connect

SECRET = "confidential"
_TEN_MEGABYTES = json.dumps({"inputs": f"{SECRET} " * 800_000}).encode()
_MANY_TOKENS = json.dumps({"inputs": f"{SECRET} " * 60_000}).encode()  # within what a body may have
_NONSENSE = (b"{", b"[]", b"null", json.dumps({"inputs": [[SECRET], 7]}).encode(), b'{"inputs": "\\ud800"}')
_MOST_HELD = 20
_MEAN_PAUSE_SECONDS = 0.2


class Intruder(threading.Thread):
    """Does one bad thing after another, and sees how it is refused."""

    def __init__(
        self, address: tuple[str, int], api_key: str, texts: Sequence[str], ledger: Ledger, stop: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self._address, self._key, self._texts, self._ledger, self._done = address, api_key, texts, ledger, stop
        self._random, self._held = random.Random(1), list[socket.socket]()

    def run(self) -> None:
        """Go through all kinds, again and again until told to stop."""
        kinds: tuple[Callable[[], None], ...] = (
            self._leave,
            self._send_garbage,
            self._send_half_a_body,
            self._send_ten_megabytes,
            self._send_ten_megabytes_in_chunks,
            self._send_many_tokens,
            self._come_with_a_wrong_key,
            self._send_nonsense,
            self._hold_a_connection,
        )
        while not self._done.is_set():
            for kind in kinds:
                with suppress(ConnectionError):
                    kind()
                self._ledger.add(f"intruder: {kind.__name__.strip('_').replace('_', ' ')}")
                self._done.wait(self._random.expovariate(1 / _MEAN_PAUSE_SECONDS))
        for held in self._held:
            held.close()

    def _leave(self) -> None:
        body = json.dumps({"inputs": [[text] for text in self._random.choices(self._texts, k=64)]}).encode()
        with self._connected() as client:
            client.sendall(self._head(len(body)) + body)
            self._done.wait(self._random.choice((0.0, 0.01, 0.1)))

    def _send_garbage(self) -> None:
        with self._connected() as client:
            client.sendall(self._random.randbytes(self._random.randint(1, 5000)) + b"\r\n\r\n")

    def _send_half_a_body(self) -> None:
        body = json.dumps({"inputs": f"{SECRET} {self._texts[0]}"}).encode()
        with self._connected() as client:
            client.sendall(self._head(len(body)) + body[: len(body) // 2])

    def _hold_a_connection(self) -> None:
        client = self._connected()
        client.sendall(self._head(100)[: self._random.choice((0, 20, None))])
        self._held.append(client)
        if len(self._held) > _MOST_HELD:
            self._held.pop(0).close()

    def _send_ten_megabytes(self) -> None:
        self._refused(_TEN_MEGABYTES, 413, "ten megabytes")

    def _send_ten_megabytes_in_chunks(self) -> None:
        size = 1 << 18
        parts = (_TEN_MEGABYTES[begin : begin + size] for begin in range(0, len(_TEN_MEGABYTES), size))
        self._refused(parts, 413, "ten megabytes in chunks")

    def _send_many_tokens(self) -> None:
        self._refused(_MANY_TOKENS, 422, "many tokens")

    def _come_with_a_wrong_key(self) -> None:
        self._refused(json.dumps({"inputs": SECRET}).encode(), 401, "a wrong key", key="of another door")

    def _send_nonsense(self) -> None:
        self._refused(self._random.choice(_NONSENSE), 422, "nonsense")

    def _connected(self) -> socket.socket:
        return socket.create_connection(self._address)

    def _head(self, length: int) -> bytes:
        lines = [
            "POST /predict HTTP/1.1",
            "Host: soak",
            f"Authorization: Bearer {self._key}",
            "Content-Type: application/json",
            f"Content-Length: {length}",
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def _refused(self, body: bytes | Iterable[bytes], status: int, what: str, key: str | None = None) -> None:
        """Send a request, and see how it is refused; where the server closes first, that is an answer, too."""
        headers = {"Authorization": f"Bearer {key or self._key}", "Content-Type": "application/json"}
        connection = connect(self._address)
        try:
            connection.request("POST", "/predict", body, headers)
            response = connection.getresponse()
            answer = response.read().decode()
        except ConnectionError:
            self._ledger.add(f"{what}: connection closed")
            return
        except (OSError, http.client.HTTPException) as error:
            self._ledger.fault(f"{what} got no answer: {type(error).__name__}: {error}")
            return
        finally:
            connection.close()
        self._ledger.add(f"{what}: {response.status}")
        self._ledger.check_refusal(answer)
        if response.status not in (status, *TOLD):
            self._ledger.fault(f"{what} has status {response.status}: {answer[:300]}")
