"""What a server collected since a run was trained: events, posted items, withdrawals, farewells."""

import hashlib
from typing import NamedTuple


class Event(NamedTuple):
    """A user took an item; `time` in seconds since 1970."""

    user_id: str
    item_id: str
    time: float


class PostedItem(NamedTuple):
    """An item that came after training, as it was posted."""

    item_id: str
    title: str
    text: str | None
    image: bytes | None


class Collected(NamedTuple):
    """Everything at one moment.

    Args:
        events: in order of arrival.
        withdrawn, restored: ids of items that may not be recommended, and that may again.
        forgotten: users, by `hash_user`, of whom nothing but `events` may be used.
    """

    events: list[Event] = []
    items: list[PostedItem] = []
    withdrawn: frozenset[str] = frozenset()
    restored: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()


def hash_user(user_id: str) -> str:
    """Whoever wants to be forgotten is not kept by name."""
    return hashlib.sha256(user_id.encode()).hexdigest()
