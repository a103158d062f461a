"""A run behind requests: the version in use, what is remembered of it, and how it is swapped."""

import asyncio
import base64
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from bbqrec.errors import (
    BBQRecError,
    ConflictError,
    NotFoundError,
    RequestError,
    StorageError,
)
from bbqrec.serving.admission import Admission
from bbqrec.serving.answering import Answer, Answering, State
from bbqrec.serving.api import EventsRequest, ItemRequest, RecommendRequest
from bbqrec.serving.cache import RecentlyUsed
from bbqrec.serving.config import ServeConfig
from bbqrec.serving.histories import UserHistories
from bbqrec.serving.metrics import Metrics
from bbqrec.serving.store import Event, EventStore, PostedItem
from bbqrec.serving.version import History, Options, Version

WATCH_S = 0.05
STORE_CHECK_S = 1.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Service:
    """Everything the routes call. Lives in one event loop; heavy work is done on threads."""

    def __init__(
        self,
        run_dir: Path,
        store: EventStore,
        config: ServeConfig,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Load the run and try it; raises BBQRecError when it cannot be served.

        Args:
            clock: seconds since 1970.
        """
        self.config = config
        self.metrics = Metrics()
        self._run_dir = run_dir
        self._store = store
        self._histories = UserHistories(store, self._in_store, config.max_cached)
        version = Version.load(run_dir, store.items(), store.withdrawn(), store.restored())
        version.check(version.golden_histories())
        self._use(version)
        # The model has a thread of its own: torch is fastest with one caller.
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._builder_thread = ThreadPoolExecutor(1, "builder")
        self._store_threads = ThreadPoolExecutor(4, "store")
        self._answering = Answering(self._model_thread, config, self.metrics)
        self._batcher = self._answering.batcher
        self.admission = Admission(self._batcher)
        self._clock, self._latest = clock, store.latest_time()
        self._changes: set[asyncio.Task[Any]] = set()
        self._is_running = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests within."""
        self._changing = asyncio.Lock()
        worker = asyncio.create_task(self._batcher.work())
        watches = [asyncio.create_task(w()) for w in (self._watch_loop, self._watch_store)]
        self.metrics.waiting.set_function(lambda: self._batcher.num_waiting)
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False
            await asyncio.gather(*self._changes, return_exceptions=True)
            for task in (worker, *watches):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            for threads in (self._model_thread, self._builder_thread, self._store_threads):
                threads.shutdown()
            self._store.close()

    @property
    def version(self) -> Version:
        return self._state.version

    @property
    def is_ready(self) -> bool:
        return self._is_running

    async def _watch_loop(self) -> None:
        """Measure how late the event loop comes to what is due."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + WATCH_S
            await asyncio.sleep(WATCH_S)
            self.metrics.lag.set(loop.time() - due)

    async def _watch_store(self) -> None:
        """What is done to the store is noticed in time, however seldom it is asked."""
        while True:
            await asyncio.sleep(STORE_CHECK_S)
            with suppress(StorageError):  # those who ask it are told
                await self._on(self._store_threads, self._store.check)

    async def recommend(self, asked: RecommendRequest) -> bytes:
        """JSON of `RecommendOut`."""
        state, is_stale = self._state, False
        if asked.user_ids is not None:
            histories, is_stale = await self._histories.read(
                state.version, state.histories, asked.user_ids
            )
        else:
            histories = [tuple(history) for history in asked.histories or ()]
        return await self._answering.recommend(state, asked, histories, is_stale)

    async def answers(
        self, state: State, histories: Sequence[History], options: Options
    ) -> list[Answer]:
        """One answer per history, remembered ones without asking the model."""
        return await self._answering.answers(state, histories, options)

    async def append(self, asked: EventsRequest, key: str | None) -> dict[str, Any]:
        """Store events; they count in every answer that is asked for from then on."""
        # A clock that is set back must not put what came later before what came earlier.
        now = self._latest = max(self._latest, self._clock())
        events = [
            Event(e.user_id, e.item_id, now if e.time is None else e.time) for e in asked.events
        ]
        given = now if any(e.time is None for e in asked.events) else None
        digest = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
        is_new = await self._to_the_end(self._histories.append(events, key, digest, given))
        self.metrics.events.inc(len(events) if is_new else 0)
        return {"stored": len(events) if is_new else 0, "is_replay": not is_new}

    async def user(self, user_id: str) -> dict[str, Any]:
        """The user's history with times; NotFoundError for somebody of whom nothing is known."""
        return await self._histories.describe(self.version, user_id)

    async def forget(self, user_id: str) -> None:
        """Delete what was posted of a user and use nothing that the run knows."""
        await self._to_the_end(self._histories.forget(user_id))

    def item(self, item_id: str) -> dict[str, Any]:
        """What is known of an item; NotFoundError for unknown and withdrawn ones."""
        return _describe(self.version, item_id)

    def history_in_run(self, version: Version, user_id: str) -> list[str]:
        """What a version's run knows of a user who is not forgotten, oldest first."""
        return self._histories.in_run(version, user_id)

    async def posted_picture(self, item_id: str) -> bytes | None:
        """The image file of a posted item that may be shown, where it came with one."""
        if not _describe(self.version, item_id)["is_new"]:
            return None
        return await self._in_store(lambda: self._store.picture(item_id))

    async def similar(self, item_id: str, k: int) -> dict[str, Any]:
        """Items that are alike in content and, where the tokenizer learned it, in behavior."""
        version = self.version
        items = await self._on(self._model_thread, lambda: version.similar(item_id, k))
        return {
            "model_version": version.name,
            "items": [
                {"item_id": i.item_id, "title": i.title, "cosine": i.log_probability} for i in items
            ],
        }

    async def post_item(self, asked: ItemRequest) -> dict[str, Any]:
        """Give a new item its place; recommendable and durable when this returns."""
        item = PostedItem(
            asked.item_id, asked.title, asked.text or None, _decoded(asked.image) or None
        )

        async def post() -> dict[str, Any]:
            async with self._changing:
                old = self.version
                version = await self._on(self._builder_thread, lambda: _warm(old.with_item(item)))
                await self._in_store(lambda: self._store.add_item(item))
                self._use(version)
                return {**_describe(version, item.item_id), "model_version": version.name}

        return await self._to_the_end(post())

    async def withdraw(self, item_id: str) -> None:
        """Never recommend an item again; NotFoundError when it is not there."""

        async def withdraw() -> None:
            async with self._changing:
                old = self.version
                old.item(item_id)
                await self._in_store(lambda: self._store.withdraw(item_id))
                self._use(old.with_withdrawn(old.withdrawn | {item_id}))

        await self._to_the_end(withdraw())

    async def restore(self, item_id: str) -> None:
        """Undo `withdraw`; NotFoundError when the item was not withdrawn."""

        async def restore() -> None:
            async with self._changing:
                old = self.version
                if item_id not in old.withdrawn:
                    raise NotFoundError("no item of this id was withdrawn")
                await self._in_store(lambda: self._store.restore(item_id))
                self._use(old.with_withdrawn(old.withdrawn - {item_id}))

        await self._to_the_end(restore())

    async def reload(self) -> dict[str, str]:
        """Read the run folder again and serve what it holds now, if that can answer.

        Raises ConflictError when it cannot; then the old version goes on answering.
        """
        return await self._to_the_end(self._reload())

    async def _reload(self) -> dict[str, str]:
        async with self._changing:
            old = self.version

            def build() -> Version:
                store = self._store
                version = Version.load(
                    self._run_dir, store.items(), store.withdrawn(), store.restored()
                )
                version.check(old.golden_histories())
                return version

            try:
                version = await self._on(self._builder_thread, build)
            except Exception as error:  # whatever is wrong with it, the old one serves
                self.metrics.swaps.labels("refused").inc()
                is_ours = isinstance(error, BBQRecError)
                logger.error("kept version %s: %s", old.name, error, exc_info=not is_ours)
                raise ConflictError(
                    "the run folder does not hold a version that can answer, so the old one "
                    "keeps serving; the server's log says why"
                ) from None
            self._use(version)
            self.metrics.swaps.labels("done").inc()
            logger.info("version %s answers now, %s no longer", version.name, old.name)
            return {"model_version": version.name, "previous": old.name}

    async def histories_of(self, user_ids: Sequence[str]) -> tuple[State, list[History]]:
        """The state to answer with, and the users' histories as it knows them."""
        state = self._state
        histories, _ = await self._histories.read(state.version, state.histories, user_ids)
        return state, histories

    @property
    def state(self) -> State:
        return self._state

    def _use(self, version: Version) -> None:
        size = self.config.max_cached
        self._state = State(version, RecentlyUsed(size), self._histories.remember_anew())
        self.metrics.version.clear()
        self.metrics.version.labels(version.name).set(1)

    async def _to_the_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Whoever asked may hang up or run out of time: what was begun is finished, whole."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _in_store(self, function: Callable[[], T]) -> T:
        try:
            return await self._on(self._store_threads, function)
        except StorageError:
            self.metrics.store_failures.inc()
            raise

    def _on(self, threads: ThreadPoolExecutor, function: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(threads, function)


def _warm(version: Version) -> Version:
    """Let the first request not wait for what the model remembers of its catalog."""
    version.recommend([()], Options(1))
    return version


def _describe(version: Version, item_id: str) -> dict[str, Any]:
    item = version.item(item_id)
    recommender = version.recommender
    num_own = recommender.dataset.num_items - len(version.posted)
    return {
        "item_id": item_id,
        "title": recommender.dataset.titles[item],
        "semantic_id": recommender.semantic_ids.codes[item].tolist(),
        "is_new": item >= num_own,
        "times_taken": int(version.popularity[item]),
    }


def _decoded(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except ValueError:
        raise RequestError("image is not base64; send the bytes of an image file in it") from None
