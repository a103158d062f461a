"""The HTTP interface: routes that check, call the service and answer."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, FastAPI, Header, Path, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from bbqrec import __version__
from bbqrec.errors import StorageError
from bbqrec.serving import api, problems
from bbqrec.serving.guard import Guard
from bbqrec.serving.kserve import kserve_router
from bbqrec.serving.page import PageData, data_router, static_router
from bbqrec.serving.service import Service
from bbqrec.serving.shortcut import Shortcut

PathId = Annotated[str, Path(min_length=1, max_length=api.MAX_ID_CHARS, pattern=api.ID_PATTERN)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="The same key and the same events are stored once, however often they come.",
    ),
]


class _StrictRequest(Request):
    """JSON without NaN, infinities and bottomless nesting."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class _StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


def create_app(service: Service) -> ASGIApp:
    """The application that serves `service`, behind its guard."""

    data = PageData(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running(), data.running():
            yield

    app = FastAPIOffline(
        title="bbqrec",
        version=__version__,
        summary="Recommendations by semantic IDs.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    app.include_router(_open_router(service))
    app.include_router(_router(service))
    app.include_router(static_router())
    app.include_router(data_router(data))
    if service.config.admin_token is not None:
        app.include_router(_admin_router(service))
    if service.config.kserve:
        app.include_router(kserve_router(service, _StrictRoute))
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return Guard(Shortcut(app, service), service.config, service.metrics, service.admission)


def _open_router(service: Service) -> APIRouter:
    """What watches a server."""
    router = APIRouter(tags=["server"])

    @router.get("/health/live", response_model=api.HealthOut)
    async def live() -> Response:
        """The process answers."""
        return _json({"status": "live", "model_version": service.version.name})

    @router.get("/health/ready", response_model=api.HealthOut)
    async def ready() -> Response:
        """A model is loaded and has answered its golden requests."""
        if not service.is_ready:
            raise StorageError("the server is starting or stopping")
        return _json({"status": "ready", "model_version": service.version.name})

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        content = generate_latest(service.metrics.registry)
        return Response(content, media_type=CONTENT_TYPE_LATEST)

    return router


def _router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=_StrictRoute)

    @router.post("/recommend", response_model=api.RecommendOut, tags=["recommend"])
    async def recommend(asked: api.RecommendRequest) -> Response:
        """Recommend items to one or many users, by id or by history."""
        return Response(await service.recommend(asked), media_type="application/json")

    @router.post("/events", response_model=api.EventsOut, tags=["users"])
    async def append_events(asked: api.EventsRequest, key: Key = None) -> Response:
        """Remember what users took; durable when answered."""
        return _json(await service.append(asked, key))

    @router.get("/users/{user_id:path}", response_model=api.UserOut, tags=["users"])
    async def get_user(user_id: PathId) -> Response:
        """What is known of a user."""
        return _json(await service.user(user_id))

    @router.delete("/users/{user_id:path}", status_code=204, tags=["users"])
    async def delete_user(user_id: PathId) -> Response:
        """Delete a user's events, and use nothing that the run knows of the user."""
        await service.forget(user_id)
        return Response(status_code=204)

    @router.get("/items/{item_id:path}/similar", response_model=api.SimilarOut, tags=["items"])
    async def similar_items(
        request: Request, item_id: PathId, k: Annotated[int, Query(ge=1, le=api.MAX_K)] = 10
    ) -> Response:
        """Items alike in content and behavior."""
        if b"%2f" in request.scope["raw_path"].rpartition(b"/")[2].lower():
            return await get_item(f"{item_id}/similar")  # the end of an id, not of our path
        return _json(await service.similar(item_id, k))

    @router.get("/items/{item_id:path}", response_model=api.ItemDetail, tags=["items"])
    async def get_item(item_id: PathId) -> Response:
        """An item and its semantic ID."""
        return _json(service.item(item_id))

    @router.post("/items", response_model=api.PostedOut, status_code=201, tags=["items"])
    async def post_item(asked: api.ItemRequest) -> Response:
        """Add an item: recommendable at once, without training."""
        return _json(await service.post_item(asked), status=201)

    @router.delete("/items/{item_id:path}", status_code=204, tags=["items"])
    async def withdraw_item(item_id: PathId) -> Response:
        """Never recommend an item again."""
        await service.withdraw(item_id)
        return Response(status_code=204)

    @router.delete("/withdrawn/{item_id:path}", status_code=204, tags=["items"])
    async def restore_item(item_id: PathId) -> Response:
        """Let a withdrawn item be recommended again."""
        await service.restore(item_id)
        return Response(status_code=204)

    return router


def _admin_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/admin", tags=["server"])

    @router.post("/reload", response_model=api.ReloadOut)
    async def reload() -> Response:
        """Serve what the run folder holds now, if it can answer; needs the admin token."""
        return _json(await service.reload())

    return router


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1, every refusal in it a problem."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        own = api.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(own.pop("$defs", {}))
        schemas["Problem"] = own
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path in described["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                for status, title in problems.TITLES.items():
                    operation["responses"][str(status)] = {"description": title, "content": content}
        app.openapi_schema = described
    return app.openapi_schema
