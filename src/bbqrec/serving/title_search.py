"""Items by the beginnings of the words in their titles and ids, fast in a large catalog."""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 8
MAX_WITHIN = 200  # words looked at where none begins as asked

_WORD = re.compile(r"\w+")
_LAST = "\U0010ffff"  # sorts after whatever a word goes on with


class TitleSearch:
    """Finds items all of whose words are asked for, the most popular first.

    Words are compared by their beginnings, without case and accents. Where nothing is found so,
    what is asked for may lie inside words, as in languages that do not part them.

    Args:
        titles: in item order.
        popularity: how often each item was taken.
    """

    def __init__(
        self, titles: Sequence[str], item_ids: Sequence[str], popularity: NDArray[np.int64]
    ) -> None:
        self._num_items = len(titles)
        self._item_of_id = {item_id: item for item, item_id in enumerate(item_ids)}
        texts = [
            plain(f"{title} {item_id}") for title, item_id in zip(titles, item_ids, strict=True)
        ]
        items_of: dict[str, list[int]] = {}
        for item, text in enumerate(texts):
            for word in dict.fromkeys(_WORD.findall(text)):
                items_of.setdefault(word, []).append(item)
        # All postings in one array by word: those of words that begin alike are a slice of it.
        self._words = sorted(items_of)
        counts = [len(items_of[word]) for word in self._words]
        self._offsets = [0, *accumulate(counts)]
        self._postings = np.fromiter(
            (item for word in self._words for item in items_of[word]), np.int64, sum(counts)
        )
        self._vocabulary = "\n".join(self._words)
        self._starts = [0, *accumulate(len(word) + 1 for word in self._words)]
        self._by_popularity = np.argsort(-popularity, kind="stable")

    def find(self, query: str, k: int) -> list[int]:
        """At most `k` items; the most popular of all where nothing is asked for."""
        words = _WORD.findall(plain(query))[:MAX_WORDS]
        if not words:
            return self._first(np.ones(self._num_items, bool), k)
        begins = np.ones(self._num_items, bool)
        is_whole = np.ones(self._num_items, bool)
        for word in words:
            first = bisect_left(self._words, word)
            begins &= self._any_of(first, bisect_left(self._words, word + _LAST))
            has_word = first < len(self._words) and self._words[first] == word
            is_whole &= self._any_of(first, first + has_word)
        found = [] if (own := self._item_of_id.get(query.strip())) is None else [own]
        found += self._first(is_whole, k)
        found += self._first(begins & ~is_whole, k)
        return list(dict.fromkeys(found))[:k] or self._within(words, k)

    def _any_of(self, first: int, last: int) -> NDArray[np.bool_]:
        """Which items have any of the words from `first` to before `last`."""
        has = np.zeros(self._num_items, bool)
        has[self._postings[self._offsets[first] : self._offsets[last]]] = True
        return has

    def _first(self, is_found: NDArray[np.bool_], k: int) -> list[int]:
        return [int(i) for i in self._by_popularity[is_found[self._by_popularity]][:k]]

    def _within(self, parts: Sequence[str], k: int) -> list[int]:
        is_found = np.ones(self._num_items, bool)
        for part in parts:
            words: list[int] = []
            place = self._vocabulary.find(part)
            while place >= 0 and len(words) < MAX_WITHIN:
                words.append(bisect_right(self._starts, place) - 1)
                place = self._vocabulary.find(part, self._starts[words[-1] + 1])
            has_part = np.zeros(self._num_items, bool)
            for word in words:
                has_part[self._postings[self._offsets[word] : self._offsets[word + 1]]] = True
            is_found &= has_part
        return self._first(is_found, k)


def plain(text: str) -> str:
    """Without case and accents, on one line."""
    if text.isascii():  # ten times as fast
        return text.lower().replace("\n", " ")
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(" " if c == "\n" else c for c in parts if not unicodedata.combining(c))
