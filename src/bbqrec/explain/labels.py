"""What to call a code: the words that tell the items behind it from all others."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from bbqrec.bundle import RunFolder
from bbqrec.data import load_texts
from bbqrec.recommend import Recommender
from bbqrec.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from bbqrec.report.words import TellingWords

Prefix = tuple[int, ...]
MAX_REMEMBERED = 20_000


class CodeLabels:
    """Words of the run's own items, by the prefix of codes that they share.

    Texts are read and counted when a label is first asked for, which takes seconds where there
    are many items; then labels are remembered.
    """

    def __init__(self, ids: SemanticIds, read_texts: Callable[[], list[str]]) -> None:
        """
        Args:
            read_texts: one text per item of `ids`, when they are needed.
        """
        self._ids, self._read_texts = ids, read_texts
        self._remembered: dict[Prefix, list[str]] = {(): []}
        self._lock = threading.Lock()

    @classmethod
    def of_run(cls, run: RunFolder, recommender: Recommender) -> "CodeLabels":
        """Labels by the titles and texts that a run was made of."""
        titles = recommender.dataset.titles

        def read() -> list[str]:
            texts = load_texts(run.folder("prepare"))
            return [f"{title}\n{text or ''}" for title, text in zip(titles, texts, strict=True)]

        return cls(recommender.semantic_ids, read)

    def prepare(self) -> None:
        """Read the texts now."""
        with self._lock:
            assert self._words is not None

    def of(self, prefix: Prefix) -> str:
        """The most telling words, without those that shorter prefixes said already; "" if none."""
        with self._lock:
            return ", ".join(self._of(prefix))

    def _of(self, prefix: Prefix) -> list[str]:
        known = self._remembered.get(prefix)
        if known is not None:
            return known
        said = [word for length in range(1, len(prefix)) for word in self._of(prefix[:length])]
        is_member = (self._ids.codes[:, : len(prefix)] == torch.tensor(prefix)).all(1)
        found = self._words.of(is_member, without=said) if is_member.any() else []
        if len(self._remembered) < MAX_REMEMBERED:
            self._remembered[prefix] = found
        return found

    @cached_property
    def _words(self) -> "TellingWords":
        from bbqrec.report.words import TellingWords  # imports scikit-learn: not at start-up

        return TellingWords(self._read_texts())
