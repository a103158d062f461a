"""The most popular items for everyone: the baseline that any model has to beat."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bbqrec.data import Dataset
from bbqrec.ranking import Histories, Ranking, top_items


class Popularity:
    """Ranks items by how often they occur in training; an item never seen there scores 0."""

    def __init__(self, scores: Float[Tensor, " item"]) -> None:
        self.scores = scores

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """The `k` most popular items for each history, see `Ranker`."""
        scores = self.scores.to(histories.items.device).expand(histories.num_users, -1)
        return top_items(scores, histories, k, exclude_seen=exclude_seen, allowed=allowed)


def fit_popularity(dataset: Dataset) -> Popularity:
    """Count the training interactions of `dataset`; its held-out items are not read."""
    return Popularity(torch.from_numpy(dataset.popularity().astype(np.float32)))
