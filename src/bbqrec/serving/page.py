"""The page at `/` and what it asks for: read only, and nothing from anywhere else.

Static files hold no data, so they are open to all; every number comes through the guarded API.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any, NamedTuple, TypeVar

import orjson
from fastapi import APIRouter, Path, Request, Response

from bbqrec import report
from bbqrec.errors import NotFoundError
from bbqrec.serving import api, page_api
from bbqrec.serving.cache import RecentlyUsed
from bbqrec.serving.catalog_view import CatalogView, RunView
from bbqrec.serving.service import Service
from bbqrec.serving.thumbnails import thumbnail

STATIC = FilePath(__file__).parent / "static"
REPORT = FilePath(report.__file__).parent
SHARED = {"shared.css": REPORT / "style.css", "report.css": REPORT / "page.css"}
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
MAX_THUMBNAIL_BYTES = 64 * 2**20  # kept in memory, about 10,000 of them
PICTURE_LIFETIME_S = 3600

T = TypeVar("T")
PathId = Annotated[str, Path(min_length=1, max_length=api.MAX_ID_CHARS, pattern=api.ID_PATTERN)]


class StaticFile(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def static_router() -> APIRouter:
    """The page's own files, read once."""
    router = APIRouter(include_in_schema=False)
    files = {path.name: _read(path) for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES}
    files |= {name: _read(path) for name, path in SHARED.items()}

    @router.get("/")
    async def start(request: Request) -> Response:
        return _file(files["index.html"], request)

    @router.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise NotFoundError("the page has no such file")
        return _file(files[name], request)

    return router


class PageData:
    """Views of whatever version is served, and the threads that they are looked at on."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._thumbnails: RecentlyUsed[tuple[RunView, str], bytes] = RecentlyUsed(
            MAX_THUMBNAIL_BYTES
        )
        self._view: CatalogView | None = None
        # Naming branches may take seconds in a large catalog; searching and pictures do not wait.
        self._searcher = ThreadPoolExecutor(1, "search")
        self._viewer = ThreadPoolExecutor(1, "page")
        self._painters = ThreadPoolExecutor(2, "pictures")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests within."""
        try:
            yield
        finally:
            for threads in (self._searcher, self._viewer, self._painters):
                threads.shutdown(cancel_futures=True)

    @property
    def view(self) -> CatalogView:
        """Of the version that is served now."""
        version = self._service.version
        view = self._view
        if view is None or view.version is not version:
            is_same_run = view is not None and view.run.is_of(version)
            run = view.run if view is not None and is_same_run else RunView(version)
            view = self._view = CatalogView(run, version)
        return view

    async def about(self) -> dict[str, Any]:
        run = self.view.run
        self._searcher.submit(lambda: run.search)  # whoever opens the page will search next
        return await self.look(lambda view: view.about(self._service.history_in_run))

    async def find(self, query: str, k: int) -> dict[str, Any]:
        view = self.view
        return await _on(self._searcher, lambda: view.find(query, k))

    async def look(self, question: Callable[[CatalogView], T]) -> T:
        """An answer that reads files or counts the catalog."""
        view = self.view
        return await _on(self._viewer, lambda: question(view))

    async def picture(self, item_id: str) -> bytes:
        """An item's thumbnail; NotFoundError where there is none."""
        run = self.view.run
        found = self._thumbnails.get((run, item_id))
        if found is None:
            posted = await self._service.posted_picture(item_id)
            found = await _on(
                self._painters,
                lambda: run.thumbnails.jpeg(item_id) if posted is None else thumbnail(posted),
            )
            if found is None:
                raise NotFoundError("there is no picture of this item")
            self._thumbnails.put((run, item_id), found, len(found))
        return found


def data_router(data: PageData) -> APIRouter:
    """What the page asks for."""
    router = APIRouter(prefix="/v1", tags=["catalog"])

    @router.get("/catalog", response_model=page_api.CatalogOut)
    async def catalog() -> Response:
        """What is served, in a few words, and histories to begin with."""
        return _json(await data.about())

    @router.get("/search", response_model=page_api.FoundOut)
    async def search(q: page_api.Words = "", k: page_api.Many = 12) -> Response:
        """Items by words of their titles, or by id."""
        return _json(await data.find(q, k))

    @router.get("/pictures/{item_id:path}", response_class=Response, responses={200: _JPEG})
    async def picture(item_id: PathId, request: Request) -> Response:
        """An item's picture, small."""
        content = await data.picture(item_id)
        etag = _etag(content)
        headers = {"ETag": etag, "Cache-Control": f"private, max-age={PICTURE_LIFETIME_S}"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    @router.get("/tree", response_model=page_api.BranchOut)
    async def tree(
        prefix: page_api.Prefix = None,
        order: page_api.Order = "size",
        start: page_api.Start = 0,
        k: page_api.Few = 24,
    ) -> Response:
        """The catalog by semantic ID: what begins with some codes, by the code that follows."""
        codes = _codes(prefix)
        return _json(await data.look(lambda view: view.branch(codes, order, start, k)))

    @router.get("/tree/items", response_model=page_api.BranchItemsOut)
    async def tree_items(
        prefix: page_api.Prefix = None,
        start: page_api.Start = 0,
        k: page_api.Many = 48,
    ) -> Response:
        """The items whose semantic IDs begin with some codes."""
        codes = _codes(prefix)
        return _json(await data.look(lambda view: view.items(codes, start, k)))

    @router.get("/run", response_model=page_api.RunOut)
    async def run() -> Response:
        """How the run was made, how good it is, and what it learned."""
        return _json(await data.look(lambda view: view.run.facts))

    return router


_JPEG: dict[str, Any] = {
    "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
}


def _codes(prefix: str | None) -> tuple[int, ...]:
    return tuple(map(int, prefix.split("."))) if prefix else ()


async def _on(threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _read(path: FilePath) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, MEDIA_TYPES[path.suffix], _etag(content))


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:20]}"'


def _file(file: StaticFile, request: Request) -> Response:
    # Asked again every time: a newer server's page must not run on an older one's scripts.
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
