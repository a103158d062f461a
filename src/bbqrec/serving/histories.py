"""Users' histories: what the run knows, then posted events; read once, kept until changed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from bbqrec.errors import NotFoundError, StorageError
from bbqrec.serving.cache import RecentlyUsed
from bbqrec.serving.store import Event, EventStore, hash_user
from bbqrec.serving.version import History, Version

T = TypeVar("T")

Remembered = RecentlyUsed[str, History]


@runtime_checkable
class InStore(Protocol):
    """Calls a function of the event store on a thread of its own."""

    def __call__(self, function: Callable[[], T]) -> Awaitable[T]: ...


class UserHistories:
    """Reads and changes histories; lives in one event loop."""

    def __init__(self, store: EventStore, in_store: InStore, max_remembered: int) -> None:
        self._store, self._in_store = store, in_store
        self._max_remembered = max_remembered
        self._forgotten = store.forgotten()
        self._reads: dict[str, object] = {}  # users whose history is being read, unless changed
        self._remembered: Remembered = RecentlyUsed(max_remembered)

    def remember_anew(self) -> Remembered:
        """Where to remember the histories that another version knows, from now on."""
        self._remembered = RecentlyUsed(self._max_remembered)
        return self._remembered

    async def read(
        self, version: Version, remembered: Remembered, user_ids: Sequence[str]
    ) -> tuple[list[History], bool]:
        """Each user's item ids, oldest first, and whether the store could not be asked.

        Args:
            remembered: what `remember_anew` gave for this version.
        """
        found = {user_id: remembered.get(user_id) for user_id in user_ids}
        missing = [user_id for user_id, history in found.items() if history is None]
        if not missing:
            return [found[user_id] or () for user_id in user_ids], False
        token = object()
        self._reads.update(dict.fromkeys(missing, token))
        is_stale = False
        known = [self.in_run(version, user_id) for user_id in missing]
        try:
            events = await self._since(version, missing, known)
        except StorageError:
            events, is_stale = [[] for _ in missing], True
        except asyncio.CancelledError:
            for user_id in missing:
                self._reads.pop(user_id, None)
            raise
        for user_id, posted in zip(missing, events, strict=True):
            base = self.in_run(version, user_id)  # who asked meanwhile to be forgotten has none
            found[user_id] = history = (*base, *(event.item_id for event in posted))
            # Another write since then may not be in it, and another read may be newer.
            if self._reads.get(user_id) is token:
                del self._reads[user_id]
                if not is_stale:
                    remembered.put(user_id, history, 1 + len(history))
        return [found[user_id] or () for user_id in user_ids], is_stale

    async def describe(self, version: Version, user_id: str) -> dict[str, Any]:
        """The user's history with times; NotFoundError for somebody of whom nothing is known."""
        known = self.in_run(version, user_id)
        events = (await self._since(version, [user_id], [known]))[0]
        history: list[dict[str, Any]] = [{"item_id": item_id, "time": None} for item_id in known]
        history += [{"item_id": event.item_id, "time": event.time} for event in events]
        if not history:
            raise NotFoundError("nothing is known of this user")
        return {"user_id": user_id, "history": history}

    async def _since(
        self, version: Version, user_ids: Sequence[str], known: Sequence[list[str]]
    ) -> list[list[Event]]:
        """Each user's events that are not in the history that the run knows."""
        taken = version.taken_from(self._store.identity)
        after = [taken if history else 0 for history in known]
        return await self._in_store(lambda: self._store.events_of(user_ids, after))

    async def append(
        self, events: Sequence[Event], key: str | None, digest: str, given_time: float | None
    ) -> bool:
        """As `EventStore.append`; the events count in every answer asked for from then on."""
        try:
            return await self._in_store(
                lambda: self._store.append(events, key, digest, given_time=given_time)
            )
        finally:
            for event in events:
                self._changed(event.user_id)

    async def forget(self, user_id: str) -> None:
        """As `EventStore.forget`, and use nothing that the run knows of the user."""
        try:
            await self._in_store(lambda: self._store.forget(user_id))
        finally:  # whoever asked for it was not to be remembered, come what may
            self._forgotten.add(hash_user(user_id))
            self._changed(user_id)

    def in_run(self, version: Version, user_id: str) -> list[str]:
        """What the run knows of a user and may still be used, oldest first."""
        if self._forgotten and hash_user(user_id) in self._forgotten:
            return []
        return version.base_history(user_id) or []

    def _changed(self, user_id: str) -> None:
        self._reads.pop(user_id, None)
        self._remembered.drop(user_id)
