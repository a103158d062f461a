"""The Open Inference Protocol (KServe V2), for platforms that speak to every model alike.

One model, "bbqrec". Give `user_ids`, or `histories` with each history a JSON list of item ids.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import Field

from bbqrec import __version__
from bbqrec.config import Config
from bbqrec.errors import NotFoundError, RequestError
from bbqrec.serving.answering import Answer
from bbqrec.serving.api import MAX_IDS, MAX_USERS, Answered, Count, Id
from bbqrec.serving.service import Service
from bbqrec.serving.version import History, Options

NAME = "bbqrec"


class Parameters(Config):
    k: Count = 10
    exclude_seen: bool = True


Ignored = dict[Annotated[str, Field(max_length=100)], bool | int | float | str]
"""Parameters of a single tensor, which say nothing to us."""
OutputName = Literal["item_ids", "log_probabilities", "is_fallback"]


class InputTensor(Config):
    """Of shape [N], or [N, 1] as clients send it whose tensors all have two axes."""

    name: Literal["user_ids", "histories"]
    shape: list[Count] = Field(min_length=1, max_length=2)
    datatype: Literal["BYTES"]
    parameters: Ignored = Field(default_factory=dict, max_length=20)
    data: list[str | Annotated[list[str], Field(min_length=1, max_length=1)]] = Field(
        min_length=1, max_length=MAX_USERS
    )

    def entries(self) -> list[str]:
        """One per user; RequestError where shape and data do not go together."""
        count = len(self.data)
        is_nested = any(isinstance(entry, list) for entry in self.data)
        if self.shape != [count, 1] and (self.shape != [count] or is_nested):
            raise RequestError("shape must be [N] or [N, 1], where N is the length of data")
        return [entry[0] if isinstance(entry, list) else entry for entry in self.data]


class RequestedOutput(Config):
    name: OutputName
    parameters: Ignored = Field(default_factory=dict, max_length=20)


class InferRequest(Config):
    id: Id = "request"
    parameters: Parameters = Parameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = Field(default_factory=list, max_length=3)
    """Which outputs to give, in this order; all of them where none is named."""


class OutputTensor(Answered):
    name: str
    shape: list[int]
    datatype: str
    data: list[str | float | bool]


class InferOut(Answered):
    """Places beyond the last item hold "" and 0."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


def kserve_router(service: Service, route_class: type[APIRoute]) -> APIRouter:
    """The routes under /v2."""
    router = APIRouter(prefix="/v2", tags=["kserve"], route_class=route_class)

    @router.get("")
    async def server() -> dict[str, Any]:
        return {"name": NAME, "version": __version__, "extensions": []}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": service.is_ready}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        _check_name(name)
        return {
            "name": NAME,
            "versions": [service.version.name],
            "platform": "bbqrec",
            "inputs": [
                {"name": "user_ids", "datatype": "BYTES", "shape": [-1]},
                {"name": "histories", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [
                {"name": "item_ids", "datatype": "BYTES", "shape": [-1, -1]},
                {"name": "log_probabilities", "datatype": "FP32", "shape": [-1, -1]},
                {"name": "is_fallback", "datatype": "BOOL", "shape": [-1]},
            ],
        }

    @router.get("/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        _check_name(name)
        return {"name": NAME, "ready": service.is_ready}

    @router.post("/models/{name}/infer", response_model=InferOut)
    async def infer(name: str, asked: InferRequest) -> Response:
        _check_name(name)
        tensor, parameters = asked.inputs[0], asked.parameters
        entries = tensor.entries()
        if tensor.name == "user_ids":
            state, histories = await service.histories_of(entries)
        else:
            state, histories = service.state, [_history(text) for text in entries]
        options = Options(parameters.k, parameters.exclude_seen)
        answers = await service.answers(state, histories, options)
        found = _outputs(answers)
        names: list[str] = [output.name for output in asked.outputs] or list(found)
        body = {
            "model_name": NAME,
            "model_version": state.version.name,
            "id": asked.id,
            "outputs": [{"name": name, **found[name]} for name in dict.fromkeys(names)],
        }
        return Response(orjson.dumps(body), media_type="application/json")

    return router


def _outputs(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    rows = [orjson.loads(answer.items) for answer in answers]
    shape = [len(rows), max(map(len, rows))]
    padded = [row + [None] * (shape[1] - len(row)) for row in rows]
    places = [item for row in padded for item in row]
    ids = [item["item_id"] if item else "" for item in places]
    scores = [item["log_probability"] if item else 0.0 for item in places]
    are_fallback = [answer.is_fallback for answer in answers]
    return {
        "item_ids": {"shape": shape, "datatype": "BYTES", "data": ids},
        "log_probabilities": {"shape": shape, "datatype": "FP32", "data": scores},
        "is_fallback": {"shape": shape[:1], "datatype": "BOOL", "data": are_fallback},
    }


def _check_name(name: str) -> None:
    if name != NAME:
        raise NotFoundError('there is one model here, "bbqrec"')


def _history(text: str) -> History:
    try:
        history = orjson.loads(text)
    except orjson.JSONDecodeError:
        history = None
    is_list = isinstance(history, list) and len(history) <= MAX_IDS
    if not is_list or not all(isinstance(item_id, str) for item_id in history):
        raise RequestError('an entry of histories must be a JSON list of item ids: ["a", "b"]')
    return tuple(history)
