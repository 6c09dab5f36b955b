"""Who is let in, from a request's head on, before anything of its body is read."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import State
from starlette.exceptions import HTTPException

from fastbert_serving.errors import Refusal, overloaded
from fastbert_serving.metrics import Metrics
from fastbert_serving.middleware import OPEN, App, Message, Receive, Scope, Send, refusal_response

# From a request's head to the end of its body. It is less than what a server that ends waits for those who are in, so
# that one who never ends is told so, and not cut off.
BODY_SECONDS = 20.0


class Admitted:
    """Lets requests with texts in, of which so many have a body in memory, and no more; the others read none.

    A request with texts is one that is POSTed and needs the key, where there is one: so whoever has not got it takes
    nobody's place. It counts until its answer is on its way, for which `protocol.BoundedProtocol` does not wait for
    ever, and its body has to come in time, or those who send half of one would keep everybody else outside.
    """

    def __init__(self, app: App, max_concurrent: int, metrics: Metrics) -> None:
        self._app, self._max_concurrent, self._metrics = app, max_concurrent, metrics
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not by the paths of the endpoints: the router takes "/predict%0A" for "/predict".
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        refusal = None
        if not is_ready(scope["app"].state):
            # The answer closes the connection, and a client that still sends its body would be reset and not see it.
            await _pass_over(_in_time(receive))
            refusal = not_ready()
        elif self._active >= self._max_concurrent:
            refusal = overloaded(f"{self._active} requests are being read or answered, as many as there may be")
        if refusal is not None:
            self._metrics.failures.labels(refusal.kind).inc()
            await refusal_response(refusal)(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, _in_time(receive), send)
        finally:
            self._active -= 1


def is_ready(state: State) -> bool:
    """Return whether texts are answered, by the state of an application: it is warm, and nobody has told it to end."""
    return bool(state.warm and not state.ending)


def not_ready() -> Refusal:
    """Return the refusal of a server that answers no texts; a new connection may reach another that does."""
    return Refusal(503, "Unhealthy", "the server is starting or ending", retry_after=1, headers={"Connection": "close"})


async def _pass_over(receive: Receive) -> None:
    """Read a body to its end, or until it is too much, and keep nothing of it."""
    with suppress(HTTPException):
        while (await receive()).get("more_body", False):
            pass


def _in_time(receive: Receive) -> Receive:
    """Return `receive` with a time limit for the body, and none for what comes behind it."""
    clock = asyncio.get_running_loop().time
    end, in_body = clock() + BODY_SECONDS, True

    async def received() -> Message:
        nonlocal in_body
        if not in_body:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), end - clock())
        except asyncio.TimeoutError:
            raise HTTPException(
                408, f"the body has not come within {BODY_SECONDS:g} s; send it at once", {"Connection": "close"}
            ) from None
        in_body = message.get("more_body", False)
        return message

    return received
