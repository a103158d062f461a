"""The most recently used entries of a mapping, within a limit on what they weigh together."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """Drops the entries that were used longest ago while all weigh more than `limit`.

    There may be a million: keys and values made of nothing but strings, numbers and plain tuples
    of such are not looked through when Python collects garbage, and cost no pause then.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which then counts as used, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, weight: int) -> None:
        self.drop(key)
        self._entries[key] = (value, weight)
        self._weight += weight
        while self._weight > self._limit:
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        self._weight -= entry[1] if entry is not None else 0
