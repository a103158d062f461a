"""Connections: what is cut before a request has a head, and what is refused by the head alone.

uvicorn waits for a request's head without end and keeps all of it. Whoever sends a byte a second,
or nothing, over a thousand connections would keep everybody else out. And it makes a task of every
request: in a flood those that will be refused would take the time of those that are answered.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bbqrec.serving.admission import Admission
from bbqrec.serving.config import ServeConfig
from bbqrec.serving.guard import (
    CONTENT_POLICY,
    MAX_HEADER_BYTES,
    MODEL_PATHS,
    REQUEST_ID,
    SECURITY_HEADERS,
    TOO_MANY,
    new_request_id,
)
from bbqrec.serving.metrics import Metrics
from bbqrec.serving.problems import MEDIA_TYPE, problem
from bbqrec.serving.refusals import RefusalLog

MAX_HEAD_BYTES = 4 * MAX_HEADER_BYTES  # beyond what the guard refuses by name
_MODEL_URLS = frozenset(path.encode() for path in MODEL_PATHS)  # others are the guard's to read
_ALWAYS = b"".join(
    name + b": " + value + b"\r\n"
    for name, value in (*SECURITY_HEADERS, (b"content-security-policy", CONTENT_POLICY))
).decode()


class Connection(HttpToolsProtocol):
    """One client; a head must come within a time and a size, and not too many may be open."""

    receive_s = 10.0
    max_connections = 1000
    refusals = RefusalLog()
    admission: Admission
    metrics: Metrics
    _deadline: asyncio.TimerHandle | None = None
    _num_head_bytes = 0
    _rested_at = 0.0
    _is_turned_away = False  # this request; its body is let pass
    _is_admitted = False  # this request, whose head is yet to be parsed
    _cycles: tuple[RequestResponseCycle, ...] = ()  # requests that are yet to be answered

    def connection_made(self, transport: Any) -> None:  # uvloop's is no asyncio.Transport
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too many connections are open; come back in a second")
            return
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)
        for cycle in self._cycles:
            if not cycle.response_complete:
                self._give_up(cycle)
        self._cycles = ()

    def _give_up(self, cycle: RequestResponseCycle) -> None:
        """Nobody waits for the answer any more: what waits for the model makes room at once."""
        cycle.disconnected = True  # uvicorn tells only the latest of several
        state = cycle.scope["state"]
        state["has_hung_up"] = True
        if "task" in state:
            state["task"].cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # what was refused is not read
            return
        if self._deadline is None and self._is_idle and _is_whole(data):
            self._is_admitted = self.admission.admit()
            if not self._is_admitted:  # parsing it would double what it costs
                self._answer_full(data[5 : data.index(b" ", 5)].decode())
                return
        super().data_received(data)
        if self._is_admitted:  # what it brought could not be parsed
            self._is_admitted = False
            self.admission.leave()
        if self._deadline is not None and not self._is_turned_away:  # the head goes on
            self._num_head_bytes += len(data)
            if self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, f"the head of a request may have {MAX_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        if self._deadline is None:  # else it runs since the connection was made
            self._start_clock()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._asks_the_model():
            if not (self._is_admitted or self.admission.admit()):
                self._is_turned_away = True  # the clock goes on, for its body
                return
            self._is_admitted = False
            self.scope["state"]["is_admitted"] = True  # the guard lets it leave
        self._stop_clock()
        super().on_headers_complete()
        earlier = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles = (*earlier, self.cycle)

    def on_body(self, body: bytes) -> None:
        if not self._is_turned_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_turned_away:
            self._is_turned_away = False
            self._turn_away()
        else:
            super().on_message_complete()

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
        if self._is_turned_away:
            self._refuse(503, TOO_MANY)
        elif self._num_head_bytes:
            detail = f"the head of the request did not come within {self.receive_s:g} s"
            self._refuse(408, detail)
        else:  # nothing was asked, so nothing is answered
            self._deadline = None
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        self._stop_clock()
        request_id = new_request_id()
        self.refusals.note(request_id, "-", "-", status, detail)
        if self._is_idle:  # in the middle of an earlier answer there is no place for another
            self.transport.write(_refusal(status, detail, request_id, "connection: close\r\n"))
        self.transport.close()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _asks_the_model(self) -> bool:
        """It is for the model, nothing is unusual about it, and its answer would be the next."""
        is_plain = self.url in _MODEL_URLS and not self.expect_100_continue
        return is_plain and self._is_idle and self.parser.get_method() == b"POST"

    def _turn_away(self) -> None:
        """Refuse as the guard would, at a fifth of the cost; the connection stays open."""
        self._stop_clock()
        given = next((value for name, value in self.headers if name == b"x-request-id"), b"")
        is_given = re.fullmatch(REQUEST_ID, given.decode("latin-1")) is not None
        stays = self.parser.should_keep_alive()
        self._answer_full(self.url.decode(), given.decode() if is_given else None, stays)

    def _answer_full(self, route: str, given: str | None = None, stays: bool = True) -> None:
        if self.flow.write_paused:  # who does not read what is sent gets nothing more
            self.transport.abort()
            return
        request_id = given or new_request_id()
        if stays and given is None:  # as nearly all are
            self.transport.write(_TURNED_AWAY.replace(_SOME_ID, request_id.encode()))
        else:
            more = "" if stays else "connection: close\r\n"
            self.transport.write(_refusal(503, TOO_MANY, request_id, more))
        self.refusals.note(request_id, "POST", route, 503, TOO_MANY)
        self.metrics.count(route, 503, 0.0)
        if not stays:
            self.transport.close()
        elif self.timeout_keep_alive_task is None or self.loop.time() > self._rested_at + 1:
            self._rested_at = self.loop.time()  # a clock set anew for each would cost a fifth
            self.on_response_complete()


_PLAIN_HEAD = re.compile(
    rb"POST (?:%s) HTTP/1\.1\r\n(?:[A-Za-z0-9-]+:[^\r\n\0]*\r\n)+\r\n"
    % b"|".join(map(re.escape, sorted(_MODEL_URLS)))
)
# What says how long the body is, or asks for more than an answer.
_TELLING = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection(?!: *keep-alive\r)|expect|upgrade|"
    rb"x-request-id):[ \t]*([^\r]*)",
    re.IGNORECASE,
)


def _is_whole(data: bytes) -> bool:
    """It is one request for the model from its first byte to its last, and nothing is unusual."""
    head = _PLAIN_HEAD.match(data)
    if head is None:
        return False
    telling = _TELLING.findall(data, 0, head.end())
    if len(telling) != 1:
        return False
    name, value = telling[0]
    is_length = name.lower() == b"content-length" and value.isdigit() and len(value) < 10
    return is_length and head.end() + int(value) == len(data)


def _refusal(status: int, detail: str, request_id: str, more: str) -> bytes:
    body = problem(status, detail, request_id)
    more += "retry-after: 1\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n{_ALWAYS}{more}\r\n"
    )
    return head.encode() + body


_SOME_ID = new_request_id().encode()
_TURNED_AWAY = _refusal(503, TOO_MANY, _SOME_ID.decode(), "")


def connections(
    config: ServeConfig, admission: Admission, metrics: Metrics
) -> type[asyncio.Protocol]:
    """`Connection` with a server's settings, as uvicorn takes it."""
    settings = {
        "receive_s": config.receive_s,
        "max_connections": config.max_connections,
        "refusals": RefusalLog(),
        "admission": admission,
        "metrics": metrics,
    }
    return cast(type[asyncio.Protocol], type("Connection", (Connection,), settings))
