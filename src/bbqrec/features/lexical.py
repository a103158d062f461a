"""The local text encoder: TF-IDF of words and word pairs, condensed by a truncated SVD.

It reads content only and is fitted on the whole catalog; no interaction enters. Latent semantic
analysis (Deerwester et al., 1990), with each direction divided by the square root of its strength
(Caron, 2001): between raw vectors, which common words rule, and whitened ones, which rare words do.
"""

import html
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.errors import FeatureError
from bbqrec.storage import read_json, read_tensors, write_json, write_tensors

logger = logging.getLogger(__name__)

DEFAULT_DIM = 512
MAX_TERMS = 30_000
_TAG = re.compile(r"<[a-zA-Z/!][^<>]{0,200}>")


class LexicalEncoder:
    """Texts -> vectors."""

    def __init__(
        self,
        terms: Sequence[str],
        idf: NDArray[np.float64],
        components: NDArray[np.float32],
    ) -> None:
        self._terms = list(terms)
        self._idf = idf
        self._components = components  # (dim, term)
        self._vectorizer = _vectorizer(vocabulary=self._terms)
        self._vectorizer.idf_ = idf

    @property
    def dim(self) -> int:
        return len(self._components)

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int | None = None) -> "LexicalEncoder":
        """Learn terms, their weights and the main directions.

        Args:
            dim: capped by the data's rank; by default 512, or a third of the number of texts,
                beyond which directions would describe single items.

        Raises:
            FeatureError: no text holds a word.
        """
        from sklearn.utils.extmath import randomized_svd

        # A term of one text says nothing about likeness; of small catalogs all terms are kept.
        vectorizer = _vectorizer(min_df=2 if len(texts) >= 100 else 1, max_features=MAX_TERMS)
        try:
            matrix = vectorizer.fit_transform([_clean(text) for text in texts])
        except ValueError:
            raise FeatureError(
                "no word occurs in the texts (or none in two of them); name other text columns"
            ) from None
        matrix = matrix.astype(np.float32)
        width = min(dim or min(DEFAULT_DIM, max(16, len(texts) // 3)), *matrix.shape)
        _, strength, directions = randomized_svd(matrix, width, n_iter=4, random_state=0)
        kept = max(1, int((strength > 1e-4 * strength[0]).sum()))
        logger.info(
            "%d texts, %d terms, %d dimensions keep %.0f%% of the weight",
            len(texts),
            matrix.shape[1],
            kept,
            100 * np.square(strength[:kept]).sum() / matrix.power(2).sum(),
        )
        terms = vectorizer.get_feature_names_out().tolist()
        components = directions[:kept] / np.sqrt(strength[:kept, None])
        return cls(terms, vectorizer.idf_, components.astype(np.float32))

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "item dim"]:
        """One row per text; a text without a known word is all zeros."""
        matrix = self._vectorizer.transform([_clean(text) for text in texts])
        return torch.from_numpy(
            np.asarray(matrix.astype(np.float32) @ self._components.T, np.float32)
        )

    def save(self, directory: Path) -> None:
        write_json(directory / "encoder.json", {"encoder": "lexical", "terms": self._terms})
        write_tensors(
            directory / "encoder.safetensors",
            {
                "idf": torch.from_numpy(self._idf),
                "components": torch.from_numpy(self._components),
            },
        )

    @classmethod
    def load(cls, directory: Path) -> "LexicalEncoder":
        tensors = read_tensors(directory / "encoder.safetensors")
        terms = read_json(directory / "encoder.json")["terms"]
        return cls(terms, tensors["idf"].numpy(), tensors["components"].numpy())


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        strip_accents="unicode",
        token_pattern=r"(?u)\b\w+\b",  # noqa: S106
        **options,
    )


def _clean(text: str) -> str:
    """Shop feeds are full of HTML, sometimes escaped twice."""
    return _TAG.sub(" ", html.unescape(html.unescape(text)))
