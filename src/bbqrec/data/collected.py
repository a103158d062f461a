"""What came since a run was trained: what a server collected, and what of it was new."""

import hashlib
from collections.abc import Sequence
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
        store: whose events these are; None where that is not known.
        latest: the store's number of the last of them.
    """

    events: Sequence[Event] = ()
    items: Sequence[PostedItem] = ()
    withdrawn: frozenset[str] = frozenset()
    restored: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    store: str | None = None
    latest: int = 0


class Found(NamedTuple):
    """What new data held that a run did not know.

    Args:
        interactions, users: taken in.
        items: new ones that may be recommended; one that was withdrawn by now counts there.
        known: interactions that were given again, or that the run's rules for repeats pass over.
        waiting: interactions left out while their user or item has fewer than the run's
            settings ask for; they count when more come.
        withdrawn, restored: items that may not be recommended any more, and that may again.
        forgotten: users whose data were deleted.
    """

    interactions: int
    users: int
    items: int
    known: int
    waiting: int
    withdrawn: int
    restored: int
    forgotten: int

    @property
    def is_anything(self) -> bool:
        return any(self._replace(known=0, waiting=0))

    def sentence(self) -> str:
        """What was found, for people."""
        parts = [
            f"{_counted(self.interactions, 'new interaction')} ({self.known:,} known already)",
            _counted(self.users, "new user"),
            _counted(self.items, "new item"),
            f"{self.withdrawn:,} withdrawn",
        ]
        parts += [f"{self.restored:,} let back in"] if self.restored else []
        parts += [f"{_counted(self.forgotten, 'user')} forgotten"] if self.forgotten else []
        if self.waiting:
            parts.append(f"{_counted(self.waiting, 'interaction')} left out until there are more")
        return ", ".join(parts)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def hash_user(user_id: str) -> str:
    """Whoever wants to be forgotten is not kept by name."""
    return hashlib.sha256(user_id.encode()).hexdigest()
