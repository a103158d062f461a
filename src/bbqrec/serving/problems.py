"""Whatever goes wrong as `application/problem+json` (RFC 9457): short, and echoing no input."""

import logging
import re
from difflib import get_close_matches
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bbqrec.errors import (
    BBQRecError,
    ConflictError,
    NotFoundError,
    OverloadedError,
    RequestError,
    SemanticIdError,
    StorageError,
)
from bbqrec.serving import api

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 5
TITLES = {
    400: "Bad request",
    401: "Not authorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "The request came too slowly",
    409: "Conflict",
    413: "The request is too large",
    415: "Not JSON",
    421: "Another host was meant",
    422: "The request cannot be answered as asked",
    431: "The request's headers are too large",
    500: "A mistake in the server",
    503: "Not now",
    504: "It took too long",
}
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
STATUS_OF: dict[type[BBQRecError], int] = {
    RequestError: 422,
    SemanticIdError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    OverloadedError: 503,
}

logger = logging.getLogger(__name__)


def problem(
    status: int, detail: str, request_id: str, *, errors: list[dict[str, str]] | None = None
) -> bytes:
    """The body; `detail` is ours, never the caller's words."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": TITLES.get(status, "Problem"),
        "status": status,
        "detail": detail[:500],
        "request_id": request_id,
    }
    if errors:
        body["errors"] = errors
    return orjson.dumps(body)


def respond(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """`problem` as a response; 503 says when to come back."""
    more = {"Retry-After": "1"} if status == 503 else {}
    # For the log; what is wrong with the first field says more than how many there are.
    first = f" ({errors[0]['where']}: {errors[0]['why']})" if errors else ""
    request.state.refusal = detail + first
    body = problem(status, detail, request.state.request_id, errors=errors)
    return Response(body, status, {**more, **(headers or {})}, MEDIA_TYPE)


def refusal(request: Request, error: BBQRecError) -> Response:
    """An error of the library: with its own words where they are for whoever asked."""
    status = STATUS_OF.get(type(error))
    if status is not None:
        return respond(request, status, str(error))
    # The event store, or a file of the run: what is said of them is for the server's owner.
    logger.error("request %s: %s", request.state.request_id, error)
    what = "the event store" if isinstance(error, StorageError) else "a part of the run"
    return respond(request, 503, f"{what} cannot be used now; the server's log says why")


def install(app: FastAPI) -> None:
    """Let every refusal of `app` be a problem."""

    @app.exception_handler(HTTPException)
    async def _of_framework(request: Request, error: HTTPException) -> Response:
        detail = TITLES.get(error.status_code, "Problem").lower()
        if error.status_code in (404, 405):
            detail += "; /docs lists what can be asked"
        headers = dict(error.headers or {})
        if error.status_code == 405:
            found = _allowed(app, request.url.path)
            # What serves files takes any method, and then says itself which it likes.
            headers |= {} if request.method in found else {"Allow": ", ".join(found)}
        return respond(request, error.status_code, detail, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def _of_validation(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if found[0]["type"] == "json_invalid":  # the place is where the reader stopped
            why = f"not JSON from character {int(found[0]['loc'][-1]) + 1} on"
            errors = [{"where": "body", "why": why}]
            return respond(request, 422, "the body is not JSON", errors=errors)
        errors = [{"where": _where(e), "why": _why(e)} for e in found[:MAX_ERRORS]]
        fields = "one field is" if len(found) == 1 else f"{len(found)} fields are"
        detail = f"{fields} not as the description asks"
        return respond(request, 422, detail, errors=errors)

    @app.exception_handler(Exception)
    async def _of_nobody(request: Request, _: Exception) -> Response:
        return respond(request, 500, "the server's log says more")  # the guard logs it

    @app.exception_handler(BBQRecError)
    async def _of_ours(request: Request, error: BBQRecError) -> Response:
        return refusal(request, error)


def _allowed(app: FastAPI, path: str) -> list[str]:
    """The methods of all routes of a path; the framework names those of the first alone."""
    found = []
    for method in METHODS:
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        if any(route.matches(dict(scope))[0] == Match.FULL for route in app.router.routes):
            found.append(method)
    return found


def _where(error: dict[str, Any]) -> str:
    """Where in the request; an unknown field is named if its name could be one of ours."""
    place = list(error["loc"])
    if error["type"] == "extra_forbidden" and not _FIELD_NAME.fullmatch(str(place[-1])):
        place[-1] = "(unknown field)"
    return ".".join(map(str, place))[:100]


def _why(error: dict[str, Any]) -> str:
    if error["type"] != "extra_forbidden":
        unit = ", in seconds since 1970" if error["loc"][-1] == "time" else ""
        return str(error["msg"]).removeprefix("Value error, ")[:100] + unit
    name = str(error["loc"][-1])  # which another request may well have
    close = get_close_matches(name, [known for known in _known_fields() if known != name], n=1)
    return "there is no such field" + (f"; did you mean {close[0]}?" if close else "")


@cache
def _known_fields() -> list[str]:
    requests = (api.RecommendRequest, api.EventsRequest, api.EventIn, api.ItemRequest)
    return sorted({name for model in requests for name in model.model_fields})
