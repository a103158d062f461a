"""Names for groups of items: the words that their texts hold and others do not."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

NUM_WORDS = 4
MIN_SHARE = 0.25
WORD = r"(?u)\b[^\W\d_]{2,}\b"


class TellingWords:
    """Finds the words by which a group's texts differ most from all texts.

    Args:
        texts: one text per item.
    """

    def __init__(self, texts: list[str]) -> None:
        # Here, since it takes most of a second to import and few commands look at words.
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

        vectorizer = CountVectorizer(
            binary=True, token_pattern=WORD, stop_words=list(ENGLISH_STOP_WORDS)
        )
        try:
            self._holds = vectorizer.fit_transform(texts).tocsr()  # (item, word)
        except ValueError:  # no text holds any word
            self._names: list[str] = []
            return
        self._names = vectorizer.get_feature_names_out().tolist()
        self._everywhere = _shares(self._holds)

    def of(self, group: Bool[Tensor, " item"], *, without: Collection[str] = ()) -> list[str]:
        """The group's words, the most telling first; none where chance explains them all.

        With p and q the shares of the group's and of all texts that hold a word, words are
        ranked by p log(p / q). A group of n drawn blindly holds one so often with a probability
        of at most exp(-n KL(p || q)) (Chernoff): kept are words for which that is less than one
        in the number of words, and that a quarter of the group holds.

        Args:
            without: words that are said already.
        """
        if not self._names:
            return []
        rows = self._holds[group.numpy()]
        share = _shares(rows)
        others = (1 - self._everywhere).clamp(min=1e-12)
        gain = torch.xlogy(share, share / self._everywhere)
        surprise = rows.shape[0] * (gain + torch.xlogy(1 - share, (1 - share) / others))
        is_telling = (share > self._everywhere) & (share >= MIN_SHARE)
        is_telling &= surprise > math.log(len(self._names))
        order = gain.where(is_telling, 0.0).argsort(descending=True, stable=True)
        words = [self._names[int(word)] for word in order[: int(is_telling.sum())]]
        return [word for word in words if word not in without][:NUM_WORDS]


def _shares(holds: "csr_array") -> Float[Tensor, " word"]:
    """Of each word the share of rows that hold it; rounding must not put it above 1."""
    return torch.from_numpy(np.asarray(holds.mean(axis=0)).ravel()).clamp(max=1.0)
