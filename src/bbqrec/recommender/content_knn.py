"""Items whose content is like that of the history: the baseline that knows cold items too."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bbqrec.config import Config
from bbqrec.data import Dataset, Sequences
from bbqrec.errors import FeatureError
from bbqrec.features import Features, standardize
from bbqrec.ranking import Histories, Ranking, top_items
from bbqrec.recommender.tuning import best_on_validation


class ContentKnnConfig(Config):
    """Which content is compared and how a history adds it up.

    Args:
        modalities: whose features are compared; None compares all.
        history_length: only so many latest items of a history are read.
        decay: the item of age n, the latest being 0, weighs exp(-n / decay).
    """

    modalities: tuple[str, ...] | None = Field(default=None, min_length=1)
    history_length: int = Field(default=10, ge=1)
    decay: float = Field(default=2.0, gt=0)


class ContentKnn:
    """Scores an item by the likeness of its content to that of the latest items of the history.

    score(b) = sum over the history's latest items a != b of exp(-age(a) / decay) * cos(a, b).
    As for item-kNN, an item is not a neighbor of its own. Training interactions are not read.

    Args:
        directions: unit vectors of content, zero where an item has none.
    """

    def __init__(self, config: ContentKnnConfig, directions: Float[Tensor, "item dim"]) -> None:
        self.config = config
        self.directions = directions

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """The `k` best items for each history, see `Ranker`."""
        scores = self._scores(histories)
        return top_items(scores, histories, k, exclude_seen=exclude_seen, allowed=allowed)

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Scores (history, item) of all items."""
        scores: NDArray[np.float32] = self._scores(histories.to_histories()).numpy()
        return scores

    def _scores(self, histories: Histories) -> Float[Tensor, "batch item"]:
        """The weighted sum of cosines is one product with the weighted sum of directions."""
        directions = self.directions.to(histories.items.device)
        items, lengths = histories.latest(self.config.history_length)
        position = torch.arange(items.shape[1], device=items.device)
        age = lengths[:, None] - 1 - position  # (batch, position)
        weights = torch.exp(-age / self.config.decay) * (items >= 0)
        items = items.clamp(min=0)
        of_history = weights[:, :, None] * directions[items]  # (batch, position, dim)
        scores = of_history.sum(1) @ directions.T
        with_itself = (of_history * directions[items]).sum(-1)
        return scores.scatter_add(1, items, -with_itself)


def fit_content_knn(features: list[Features], config: ContentKnnConfig) -> ContentKnn:
    """Compare standardized features side by side; a missing modality is a missing term.

    Raises FeatureError where there are no features, or none of a modality that `config` names.
    """
    known = {f.modality: f for f in features}
    names = config.modalities or tuple(known)
    if not names or not known.keys() >= set(names):
        raise FeatureError(
            f"content-kNN is to compare {', '.join(names) or 'content'}, but there are features "
            f"for {', '.join(known) or 'nothing'} only"
        )
    vectors = torch.cat([standardize(known[name]) for name in names], 1)
    return ContentKnn(config, F.normalize(vectors, dim=-1))


def tune_content_knn(
    dataset: Dataset,
    features: list[Features],
    *,
    exclude_seen: bool = True,
    num_cases: int = 4000,
    seed: int = 0,
    memories: tuple[tuple[int, float], ...] = (
        (1, 1.0),
        (5, 1.0),
        (10, 2.0),
        (20, 4.0),
        (50, 16.0),
    ),
) -> ContentKnn:
    """The content-kNN with the highest NDCG@10 on a fixed sample of validation cases.

    All modalities together and each alone are tried with every one of `memories`, pairs of
    history length and decay. The first of equally good ones wins. Test items are not read.
    """
    names = tuple(f.modality for f in features)
    choices = [names, *((name,) for name in names if len(names) > 1)]

    def candidates() -> Iterator[ContentKnn]:
        for modalities, (length, decay) in product(choices, memories):
            config = ContentKnnConfig(modalities=modalities, history_length=length, decay=decay)
            yield fit_content_knn(features, config)

    return best_on_validation(
        candidates(),
        dataset,
        exclude_seen=exclude_seen,
        num_cases=num_cases,
        seed=seed,
        num_candidates=len(choices) * len(memories),
        description="tuning content-kNN",
    )
