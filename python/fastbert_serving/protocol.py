"""HTTP by httptools, with an end to what has none."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# Of what a request has beside its body, about; more than any client of ours sends.
MOST_BESIDE_BODY = 1 << 16

# So long a client has to take an answer, and to end a body that was answered before its end: as long as for a body.
SLOW_SECONDS = 20.0

# So long a connection without a request stays open when the server ends, for one that is on its way.
GRACE_SECONDS = 1.0


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, in which one connection cannot fill the memory; in its own, one can, without the key, too.

    A connection is closed on which a request's line and headers, or what is no body behind them (trailers), go on and
    on, also when the request has its answer already. Requests that come ahead of their turn wait outside: while one is
    here that has not begun to be answered, nothing more is read. A body is bounded by `middleware.Guarded`, which sees
    nothing of a request but its body, and a head that has ended.

    So is one whose client does not take an answer in time, or does not end in time a body that has its answer already.
    uvicorn would wait for both without an end, and whatever else is asked on that connection would go on counting.

    When the server ends, uvicorn's own closes connections without a request at once, and resets those on which one was
    on its way. Here that one is answered, like every other, and its answer says that it is the connection's last.
    """

    _beside_body = 0  # bytes of pieces in a row with which no head began or ended, and of which nothing was body
    _in_head = False
    _ending = False
    _came_on = False  # whether one of these was in the present piece
    _answered: RequestResponseCycle | None = None  # of the request whose turn it is, or was last
    _taking: asyncio.TimerHandle | None = None  # ends a connection that is not read from
    _rest: asyncio.TimerHandle | None = None  # ends one with the rest of a body behind its answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(transport)
        self.flow = _InTurn(transport, self.pipeline)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        super().connection_lost(exc)
        if self._answered is not None:  # uvicorn tells the request that came last, and this one would go on to write
            self._answered.disconnected = True
        _cancel(self._taking)
        _cancel(self._rest)

    def pause_writing(self) -> None:
        """Wait until the client takes what it has been answered, but not for ever."""
        super().pause_writing()
        self._taking = self.loop.call_later(SLOW_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, the client has taken most of it."""
        super().resume_writing()
        _cancel(self._taking)

    def on_response_complete(self) -> None:
        """Go on with the next request; where the body of this one has not come to its end, wait, but not for ever.

        Such as one that was refused by its head. uvicorn's own limit for idle connections counts from their last byte.
        """
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()
        cycle = self.cycle
        if cycle.response_complete and cycle.more_body:
            _cancel(self._rest)
            self._rest = self.loop.call_later(SLOW_SECONDS, self._end_rest, cycle)

    def _end_rest(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and not self._in_head:  # no request came behind it
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._came_on = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a head."""
        self._came_on, self._in_head = True, False
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle
        if self._ending:
            super().shutdown()  # behind the answer to this request

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._came_on = True
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Parse a piece of what comes, whose size the loop bounds."""
        self._came_on = False
        super().data_received(data)
        self._beside_body = 0 if self._came_on else self._beside_body + len(data)
        if self._beside_body > MOST_BESIDE_BODY and not self.transport.is_closing():
            self._end()

    def shutdown(self) -> None:
        """Let the connection end: behind the answer that it waits for, or the next one if a request comes soon."""
        self._ending = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(GRACE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _end(self) -> None:
        """Close the connection, with an answer where none has begun that would be taken for another's."""
        cycle = self.cycle  # of the request whose head ended last
        if cycle is None or (cycle.response_complete if self._in_head else not cycle.response_started):
            self.send_400_response(f"The request has more than {MOST_BESIDE_BODY} bytes beside its body.")
        else:
            self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class _InTurn(FlowControl):
    """Reads a connection only while nothing waits that came on it."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()
