"""A catalog by the prefixes of its semantic IDs: all questions are slices of one sorted table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbqrec.semantic_ids import SemanticIds

Items = NDArray[np.int64]


class Branch(NamedTuple):
    """The items whose semantic IDs begin alike.

    Args:
        items: in the order of their codes.
        times_taken: in training, all items together.
        num_colliding: items whose whole semantic ID another item has, too.
    """

    prefix: tuple[int, ...]
    items: Items
    times_taken: int
    num_colliding: int


class CodeTree:
    """Branches of the items that may be shown.

    Args:
        popularity: how often each item was taken.
        hidden: items that are left out: withdrawn ones.
    """

    def __init__(
        self, ids: SemanticIds, popularity: NDArray[np.int64], hidden: Sequence[int] = ()
    ) -> None:
        self.codebook_sizes = ids.codebook_sizes
        codes = ids.codes.numpy()
        is_shown = np.ones(len(codes), bool)
        is_shown[list(hidden)] = False
        order = np.lexsort(codes.T[::-1])
        self._items: Items = order[is_shown[order]]
        self._codes = codes[self._items]
        self._taken = np.cumsum(np.append(0, popularity[self._items]))
        is_like_next = (self._codes[1:] == self._codes[:-1]).all(1)
        is_colliding = np.append(is_like_next, False) | np.append(False, is_like_next)
        if not len(self._items):
            is_colliding = is_colliding[:0]
        self._colliding = np.cumsum(np.append(0, is_colliding))
        # A code is dead when no item of the catalog has it, wherever in the tree.
        self._used = [np.unique(codes[:, level]) for level in range(ids.num_levels)]

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    def branch(self, prefix: tuple[int, ...]) -> Branch:
        """What begins with `prefix`, which may be nothing; () is the whole catalog."""
        return self._branch(prefix, *self._range(prefix))

    def next_codes(self, prefix: tuple[int, ...]) -> list[Branch]:
        """The branches one code longer, by code; none at the last level."""
        if len(prefix) >= self.num_levels:
            return []
        start, end = self._range(prefix)
        codes, starts = np.unique(self._codes[start:end, len(prefix)], return_index=True)
        ends = [*starts[1:].tolist(), end - start]
        return [
            self._branch((*prefix, code), start + first, start + last)
            for code, first, last in zip(codes.tolist(), starts.tolist(), ends, strict=True)
        ]

    def dead_codes(self, level: int) -> list[int]:
        """Codes of a level that no item has."""
        everyone = np.arange(self.codebook_sizes[level])
        return [int(code) for code in np.setdiff1d(everyone, self._used[level])]

    def _branch(self, prefix: tuple[int, ...], start: int, end: int) -> Branch:
        return Branch(
            prefix,
            self._items[start:end],
            int(self._taken[end] - self._taken[start]),
            int(self._colliding[end] - self._colliding[start]),
        )

    def _range(self, prefix: tuple[int, ...]) -> tuple[int, int]:
        if len(prefix) > self.num_levels:
            return 0, 0  # nothing goes on that far
        start, end = 0, len(self._items)
        for level, code in enumerate(prefix):
            column = self._codes[start:end, level]
            start, end = (
                start + int(np.searchsorted(column, code, side="left")),
                start + int(np.searchsorted(column, code, side="right")),
            )
        return start, end
