"""HTTP by httptools, with an end to heads that have none."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of a request's line and headers together, about: more than any client of ours sends.
MOST_HEAD_BYTES = 1 << 16


class BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol, which answers 400 to a request whose head goes on and on; by itself it would keep all of it.

    A body is bounded by `middleware.Guarded`, which does not see a request before its head has ended.
    """

    _head_bytes: int | None = None  # that came behind the piece with which the head began; None between heads

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End to count."""
        self._head_bytes = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")
                return
        super().data_received(data)
