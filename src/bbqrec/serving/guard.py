"""What every request passes first: who asks, how much, how fast; and every answer last.

A body is read here, whole, with a cap and a deadline; the framework has neither.
"""

import asyncio
import hmac
import logging
import os
import random
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bbqrec.serving.admission import Admission
from bbqrec.serving.config import ServeConfig
from bbqrec.serving.metrics import Metrics
from bbqrec.serving.problems import MEDIA_TYPE, problem
from bbqrec.serving.refusals import RefusalLog

MAX_HEADER_BYTES = 16_384
MODEL_PATHS = ("/v1/recommend", "/v2/models/bbqrec/infer")
REQUEST_ID = r"[A-Za-z0-9._-]{1,64}"  # what a client may call its request
PICTURES = "/v1/pictures/{item_id:path}"
TOO_MANY = "too many requests at once; come back in a second"
# Browsers cannot send a token for a page: the page holds no data, and asks for the token itself.
OPEN_TO_ALL = ("/health/live", "/health/ready", "/")
OPEN_FOLDER = "/page/"
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
# Nothing from elsewhere is loaded, and nothing inline: what strangers wrote can do nothing.
CONTENT_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The page of the description comes with a script of its own inline.
DESCRIPTION = "/docs"
DESCRIPTION_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)

logger = logging.getLogger(__name__)


# Unique is enough: the system's own randomness would give the interpreter away for each.
_ids = random.Random(os.urandom(32))  # noqa: S311


def new_request_id() -> str:
    return f"{_ids.getrandbits(128):032x}"


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail


class _GoneError(Exception):
    """Whoever asked hung up."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, config: ServeConfig, metrics: Metrics, admission: Admission
    ) -> None:
        self._app = app
        self._admission = admission
        self._config = config
        self._metrics = metrics
        self._num_in_flight = 0
        self._refusals = RefusalLog()
        metrics.in_flight.set_function(lambda: self._num_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(REQUEST_ID, given) else new_request_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                is_description = scope["path"] == DESCRIPTION
                policy = DESCRIPTION_POLICY if is_description else CONTENT_POLICY
                own = [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
                own.append((b"content-security-policy", policy))
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        self._num_in_flight += 1
        try:
            await self._handle(scope, headers, receive, answer)
        except _GoneError:
            status = 499  # as nginx counts them
        except _RefusedError as error:
            await _refuse(answer, error.status, error.detail, state)
        except TimeoutError:
            if not status:
                detail = f"no answer within {self._config.answer_s:g} s"
                await _refuse(answer, 504, detail, state)
        except Exception:
            logger.exception("request %s failed", request_id)
            if not status:
                await _refuse(answer, 500, "the server's log says more", state)
        finally:
            self._num_in_flight -= 1
            if state.get("is_admitted"):
                self._admission.leave()
            route = state.get("route") or getattr(scope.get("route"), "path", "other")
            # An item without a picture is asked for one all the same; that is no news for a log.
            is_usual = status == 499 or (status == 404 and route == PICTURES)
            if status >= 400 and not is_usual:
                detail = state.get("refusal", "no such place or method")
                self._refusals.note(request_id, scope["method"], route, status, detail)
            self._metrics.count(route, status, time.perf_counter() - start)

    async def _handle(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        self._admit(scope, headers)
        body = b""
        if scope["method"] not in ("GET", "HEAD"):
            is_item = scope["path"] == "/v1/items"
            limit = self._config.max_item_bytes if is_item else self._config.max_body_bytes
            body = await self._read(headers, receive, limit)
        is_read = False

        async def replay() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        state = scope["state"]
        state["task"] = asyncio.current_task()  # cancelled when the connection is lost
        try:
            async with asyncio.timeout(self._config.answer_s):
                await self._app(scope, replay, send)
        except asyncio.CancelledError:
            if not state.get("has_hung_up"):
                raise
            raise _GoneError from None
        finally:
            del state["task"]

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse by the head of the request alone."""
        if sum([len(name) + len(value) for name, value in scope["headers"]]) > MAX_HEADER_BYTES:
            raise _RefusedError(431, f"headers may have {MAX_HEADER_BYTES} bytes together")
        is_full = self._num_in_flight > self._config.max_in_flight
        state = scope["state"]
        if not is_full and scope["path"] in MODEL_PATHS and "is_admitted" not in state:
            # Not so where the connection has asked already, before there was so much as a task.
            state["is_admitted"] = self._admission.admit()
            is_full = not state["is_admitted"]
        if is_full:
            raise _RefusedError(503, TOO_MANY)
        host = headers.get(b"host", b"").decode("latin-1")
        name = re.sub(r":\d+$", "", host).lower()
        if "*" not in self._config.hosts and name not in self._config.hosts:
            raise _RefusedError(421, "this host name is not served here; see --allow-host")
        is_reading = scope["method"] in ("GET", "HEAD", "OPTIONS")
        if not is_reading and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise _RefusedError(403, "pages of other sites may not change anything here")
        is_admin = scope["path"].startswith("/v1/admin/")
        token = self._config.admin_token if is_admin else self._config.token
        is_open = scope["path"] in OPEN_TO_ALL or scope["path"].startswith(OPEN_FOLDER)
        if token is not None and not is_open:
            scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
            is_right = hmac.compare_digest(sent.strip(), token.encode())
            if scheme.lower() != b"bearer" or not is_right:
                raise _RefusedError(401, "send the token as Authorization: Bearer ...")

    async def _read(self, headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _RefusedError(415, "send the body as it is, without Content-Encoding")
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > 18 or int(announced) > limit:
            raise _RefusedError(413, f"a body may have {limit} bytes here")
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.receive_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise _RefusedError(413, f"a body may have {limit} bytes here")
                    if not message.get("more_body"):
                        return self._checked(headers, bytes(body))
        except TimeoutError:
            detail = f"the body did not come within {self._config.receive_s:g} s"
            raise _RefusedError(408, detail) from None

    def _checked(self, headers: dict[bytes, bytes], body: bytes) -> bytes:
        """Only JSON: a form or a text could be sent by any page without asking."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if body and kind != b"application/json":
            raise _RefusedError(415, "send the body as Content-Type: application/json")
        return body


async def _refuse(send: Send, status: int, detail: str, state: dict[str, Any]) -> None:
    body = problem(status, detail, state["request_id"])
    state["refusal"] = detail
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(b"retry-after", b"1")] if status == 503 else []
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    # What is left of a refused body must not be taken for the next request.
    headers += [(b"connection", b"close")] if status in (408, 413, 415, 431) else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
