"""What stands around every request: its size, its key, its line in the log and its count."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from fastbert_serving.errors import Refusal, too_large
from fastbert_serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("fastbert_serving")
_ENDPOINTS = ("/predict", "/rerank", "/info", "/health", "/metrics")
OPEN = ("/health", "/docs", "/openapi.json")  # without the key


def refusal_response(refusal: Refusal) -> JSONResponse:
    """Return the answer that says why there is none."""
    again = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    body = {"error": refusal.message, "error_type": refusal.kind}
    return JSONResponse(body, status_code=refusal.status, headers=refusal.headers | again)


class Observed:
    """Counts requests and writes a line of JSON for each, which has no text of theirs in it."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0
        facts: dict[str, Any] = scope.setdefault("state", {})

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException:
            status = status or 500  # which it is answered with further out
            raise
        finally:
            seconds = time.monotonic() - begin
            endpoint = scope["path"] if scope["path"] in _ENDPOINTS else "other"
            self._metrics.requests.labels(endpoint, status).inc()
            self._metrics.request_seconds.labels(endpoint).observe(seconds)
            line = {"endpoint": endpoint, "method": scope["method"], "status": status, "seconds": round(seconds, 6)}
            LOG.info(json.dumps({"time": round(time.time(), 3), **line, **facts.get("facts", {})}))


class Guarded:
    """Turns away requests without the key, and bodies that are too long."""

    def __init__(self, app: App, api_key: str | None, max_body: int, metrics: Metrics) -> None:
        self._app, self._max_body, self._metrics = app, max_body, metrics
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given, length = headers.get(b"authorization", b""), headers.get(b"content-length", b"0")
        refusal = None
        if self._key is not None and scope["path"] not in OPEN and not hmac.compare_digest(given, self._key):
            refusal = Refusal(401, "Unauthorized", "send the server's key as the header Authorization: Bearer KEY")
        elif length.isdigit() and int(length) > self._max_body:
            refusal = self._too_long()
        if refusal is not None:
            self._metrics.failures.labels(refusal.kind).inc()
            await refusal_response(refusal)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:  # sent in chunks, without a length
                raise HTTPException(413, self._too_long().message)
            return message

        await self._app(scope, counted, send)

    def _too_long(self) -> Refusal:
        return too_large(f"the body has more than {self._max_body} bytes; send the texts in parts")
