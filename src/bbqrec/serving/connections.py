"""Connections that ask nothing: what is cut before a request has so much as a head.

uvicorn waits for a request's head without end and keeps all of it. Whoever sends a byte a second,
or nothing, over a thousand connections would keep everybody else out.
"""

import asyncio
import uuid
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bbqrec.serving.config import ServeConfig
from bbqrec.serving.guard import MAX_HEADER_BYTES
from bbqrec.serving.problems import MEDIA_TYPE, TITLES, problem
from bbqrec.serving.refusals import RefusalLog

MAX_HEAD_BYTES = 4 * MAX_HEADER_BYTES  # beyond what the guard refuses by name


class Connection(HttpToolsProtocol):
    """One client; a head must come within a time and a size, and not too many may be open."""

    receive_s = 10.0
    max_connections = 1000
    refusals = RefusalLog()
    _deadline: asyncio.TimerHandle | None = None
    _num_head_bytes = 0

    def connection_made(self, transport: Any) -> None:  # uvloop's is no asyncio.Transport
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too many connections are open; come back in a second")
            return
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # what was refused is not read
            return
        super().data_received(data)
        if self._deadline is not None:  # the head goes on
            self._num_head_bytes += len(data)
            if self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, f"the head of a request may have {MAX_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        if self._deadline is None:  # else it runs since the connection was made
            self._start_clock()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_clock()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is refused as everything else is."""
        self._refuse(400, "this is not an HTTP request")

    def _start_clock(self) -> None:
        self._num_head_bytes = 0
        self._deadline = self.loop.call_later(self.receive_s, self._too_late)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self._num_head_bytes:
            detail = f"the head of the request did not come within {self.receive_s:g} s"
            self._refuse(408, detail)
        else:  # nothing was asked, so nothing is answered
            self._deadline = None
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        self._stop_clock()
        request_id = uuid.uuid4().hex
        self.refusals.note(request_id, "-", "-", status, detail)
        # In the middle of an answer to an earlier request there is no place for another.
        if self.cycle is None or self.cycle.response_complete:
            body = problem(status, detail, request_id)
            head = (
                f"HTTP/1.1 {status} {TITLES[status]}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
                f"{'retry-after: 1' + chr(13) + chr(10) if status == 503 else ''}"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def connections(config: ServeConfig) -> type[asyncio.Protocol]:
    """`Connection` with a server's settings, as uvicorn takes it."""
    settings = {
        "receive_s": config.receive_s,
        "max_connections": config.max_connections,
        "refusals": RefusalLog(),
    }
    return cast(type[asyncio.Protocol], type("Connection", (Connection,), settings))
