"""What to call a code: the words that tell the items behind it from all others."""

import logging
import threading
from typing import TYPE_CHECKING

import torch

from bbqrec.bundle import RunFolder
from bbqrec.data import load_texts
from bbqrec.errors import CorruptArtifactError
from bbqrec.recommend import Recommender
from bbqrec.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from bbqrec.report.words import TellingWords

Prefix = tuple[int, ...]
MAX_REMEMBERED = 20_000

logger = logging.getLogger(__name__)


class CodeLabels:
    """Words of the run's own items, by the prefix of codes that they share.

    Words are counted when a label is first asked for, or in `prepare`, which takes seconds where
    there are many items; then labels are remembered.
    """

    def __init__(self, ids: SemanticIds, texts: list[str]) -> None:
        """
        Args:
            texts: one per item of `ids`.
        """
        self._ids, self._texts = ids, texts
        self._remembered: dict[Prefix, list[str]] = {(): []}
        self._lock = threading.Lock()
        self._words: TellingWords | None = None

    @classmethod
    def of_run(cls, run: RunFolder, recommender: Recommender) -> "CodeLabels":
        """Labels by titles and texts of the run; by titles alone where the texts are gone."""
        titles = recommender.dataset.titles
        try:
            run.verify("prepare", names=["items.parquet"])
            texts = load_texts(run.folder("prepare"))
        except CorruptArtifactError as error:
            logger.warning("codes are named by titles alone: %s", error)
            texts = [None] * len(titles)
        pairs = zip(titles, texts, strict=True)
        return cls(recommender.semantic_ids, [f"{title}\n{text or ''}" for title, text in pairs])

    @property
    def is_prepared(self) -> bool:
        return self._words is not None

    def prepare(self) -> None:
        """Count the words now."""
        with self._lock:
            self._counted()

    def _counted(self) -> "TellingWords":
        if self._words is None:
            from bbqrec.report.words import TellingWords  # imports scikit-learn: not at start-up

            self._words = TellingWords(self._texts)
        return self._words

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
        found = self._counted().of(is_member, without=said) if is_member.any() else []
        if len(self._remembered) < MAX_REMEMBERED:
            self._remembered[prefix] = found
        return found
