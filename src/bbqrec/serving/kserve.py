"""The Open Inference Protocol (KServe V2), for platforms that speak to every model alike.

One model, "bbqrec". Give `user_ids`, or `histories` with each history a JSON list of item ids.
"""

from typing import Any, Literal

import orjson
from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import Field

from bbqrec import __version__
from bbqrec.config import Config
from bbqrec.errors import NotFoundError, RequestError
from bbqrec.serving.api import MAX_IDS, MAX_USERS, Answered, Count, Id
from bbqrec.serving.service import Service
from bbqrec.serving.version import History, Options

NAME = "bbqrec"


class Parameters(Config):
    k: Count = 10
    exclude_seen: bool = True


class InputTensor(Config):
    name: Literal["user_ids", "histories"]
    shape: list[Count] = Field(min_length=1, max_length=1)
    datatype: Literal["BYTES"]
    data: list[str] = Field(min_length=1, max_length=MAX_USERS)


class InferRequest(Config):
    id: Id = "request"
    parameters: Parameters = Parameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)


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
        if tensor.shape != [len(tensor.data)]:
            raise RequestError("shape must be the number of entries in data")
        if tensor.name == "user_ids":
            state, histories = await service.histories_of(tensor.data)
        else:
            state, histories = service.state, [_history(text) for text in tensor.data]
        options = Options(parameters.k, parameters.exclude_seen)
        answers = await service.answers(state, histories, options)
        rows = [orjson.loads(answer.items) for answer in answers]
        shape = [len(rows), max(map(len, rows))]
        padded = [row + [None] * (shape[1] - len(row)) for row in rows]
        places = [item for row in padded for item in row]
        outputs = [
            ("item_ids", shape, "BYTES", [i["item_id"] if i else "" for i in places]),
            (
                "log_probabilities",
                shape,
                "FP32",
                [i["log_probability"] if i else 0.0 for i in places],
            ),
            ("is_fallback", shape[:1], "BOOL", [answer.is_fallback for answer in answers]),
        ]
        body = {
            "model_name": NAME,
            "model_version": state.version.name,
            "id": asked.id,
            "outputs": [
                dict(zip(("name", "shape", "datatype", "data"), o, strict=True)) for o in outputs
            ],
        }
        return Response(orjson.dumps(body), media_type="application/json")

    return router


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
