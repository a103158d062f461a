"""Items that followed each other in training: the classic baseline that is hard to beat."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bbqrec.config import Config
from bbqrec.data import Dataset, Sequences
from bbqrec.ranking import Histories, Ranking, top_items
from bbqrec.recommender.tuning import best_on_validation

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

# Far below any similarity that matters, far above a float's rounding next to a score of 1.
POPULARITY_TIE_BREAK = 1e-6


class ItemKnnConfig(Config):
    """How neighbors are counted and how a history adds them up.

    Args:
        window: two items of a history count as a pair when at most so many places apart.
        distance_power: a pair `d` places apart counts d^-distance_power.
        backward_weight: what "b came before a" adds to the similarity of a to b: 0 makes
            neighbors those that follow, 1 makes the relation symmetric.
        shrinkage: added to the denominator of the cosine, so that rare pairs prove less.
        num_neighbors: only so many most similar items are kept for each item (more if equal).
        history_length: only so many latest items of a history are read.
        decay: the item of age n, the latest being 0, weighs exp(-n / decay).
    """

    window: int = Field(default=10, ge=1)
    distance_power: float = Field(default=0.5, ge=0)
    backward_weight: float = Field(default=0.5, ge=0, le=1)
    shrinkage: float = Field(default=10.0, ge=0)
    num_neighbors: int = Field(default=500, ge=1)
    history_length: int = Field(default=10, ge=1)
    decay: float = Field(default=2.0, gt=0)


class ItemKnn:
    """Scores an item by its similarity to the latest items of the history.

    score(b) = sum over the history's latest items a of exp(-age(a) / decay) * similarity(a, b).
    Items that no neighbor reaches follow in the order of their popularity; an item never seen
    in training scores 0.

    Args:
        similarities: (item, item), sparse; row a holds the neighbors of a.
        popularity: (item,), training counts.
    """

    def __init__(
        self, config: ItemKnnConfig, similarities: "csr_array", popularity: NDArray[np.int64]
    ) -> None:
        self.config = config
        self.similarities = similarities
        self.popularity = popularity

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """The `k` best items for each history, see `Ranker`; computed on the CPU."""
        device = histories.items.device
        sequences = Sequences(
            histories.items.cpu().numpy().astype(np.int32), histories.offsets.cpu().numpy()
        )
        scores = torch.from_numpy(self.score(sequences)).to(device)
        return top_items(scores, histories, k, exclude_seen=exclude_seen, allowed=allowed)

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Scores (history, item) of all items."""
        from scipy.sparse import csr_array

        lengths = histories.lengths
        age = np.repeat(histories.offsets[1:], lengths) - 1 - np.arange(len(histories.items))
        row = np.repeat(np.arange(len(histories)), lengths)
        is_read = age < self.config.history_length
        weight = np.exp(-age[is_read] / self.config.decay).astype(np.float32)
        shape = (len(histories), len(self.popularity))
        weights = csr_array((weight, (row[is_read], histories.items[is_read])), shape=shape)
        scores = (weights @ self.similarities).toarray()
        scores += (POPULARITY_TIE_BREAK / max(1, self.popularity.max())) * self.popularity
        return np.asarray(scores, dtype=np.float32)


def fit_item_knn(dataset: Dataset, config: ItemKnnConfig) -> ItemKnn:
    """Count co-occurrence in the training histories of `dataset`; held-out items are not read."""
    popularity = dataset.popularity()
    pairs = count_pairs(dataset.train, dataset.num_items, config)
    return ItemKnn(config, similarities(pairs, popularity, config), popularity)


def tune_item_knn(
    dataset: Dataset,
    *,
    exclude_seen: bool = True,
    num_cases: int = 4000,
    seed: int = 0,
    windows: tuple[int, ...] = (3, 10, 30),
    backward_weights: tuple[float, ...] = (0.0, 0.5),
    shrinkages: tuple[float, ...] = (0.0, 30.0),
    memories: tuple[tuple[int, float], ...] = ((5, 1.0), (10, 2.0), (20, 4.0), (30, 8.0)),
) -> ItemKnn:
    """The item-kNN with the highest NDCG@10 on a fixed sample of validation cases.

    Every combination of the given settings is tried; `memories` are pairs of history length and
    decay. The first of equally good ones wins. Test items are not read.
    """
    popularity = dataset.popularity()

    def candidates() -> Iterator[ItemKnn]:
        for window, backward_weight in product(windows, backward_weights):
            config = ItemKnnConfig(window=window, backward_weight=backward_weight)
            pairs = count_pairs(dataset.train, dataset.num_items, config)
            for shrinkage in shrinkages:
                config = config.model_copy(update={"shrinkage": shrinkage})
                neighbors = similarities(pairs, popularity, config)
                for length, decay in memories:
                    changes: dict[str, Any] = {"history_length": length, "decay": decay}
                    yield ItemKnn(config.model_copy(update=changes), neighbors, popularity)

    return best_on_validation(
        candidates(),
        dataset,
        exclude_seen=exclude_seen,
        num_cases=num_cases,
        seed=seed,
        num_candidates=len(windows) * len(backward_weights) * len(shrinkages) * len(memories),
        description="tuning item-kNN",
    )


def count_pairs(train: Sequences, num_items: int, config: ItemKnnConfig) -> "csr_array":
    """(item, item): how often, weighted, the second followed the first within the window."""
    from scipy.sparse import coo_array, csr_array

    row = np.repeat(np.arange(len(train)), train.lengths)
    pairs = csr_array((num_items, num_items), dtype=np.float32)
    for distance in range(1, min(config.window, int(train.lengths.max(initial=0)) - 1) + 1):
        is_pair = row[:-distance] == row[distance:]
        earlier, later = train.items[:-distance][is_pair], train.items[distance:][is_pair]
        weight = np.full(len(earlier), distance**-config.distance_power, dtype=np.float32)
        pairs = pairs + coo_array((weight, (earlier, later)), shape=pairs.shape).tocsr()
    return (pairs + config.backward_weight * pairs.T).tocsr()


def similarities(
    pairs: "csr_array", popularity: NDArray[np.int64], config: ItemKnnConfig
) -> "csr_array":
    """pairs(a, b) / (sqrt(popularity(a) * popularity(b)) + shrinkage), nearest neighbors only."""
    from scipy.sparse import csr_array

    entries = pairs.tocoo()
    is_other = (entries.row != entries.col) & (entries.data > 0)
    item, neighbor, count = entries.row[is_other], entries.col[is_other], entries.data[is_other]
    norm = np.sqrt(popularity[item] * popularity[neighbor].astype(np.float64))
    value = (count / (norm + config.shrinkage)).astype(np.float32)
    is_near = _is_near(item, value, len(popularity), config.num_neighbors)
    entries_kept = (value[is_near], (item[is_near], neighbor[is_near]))
    return csr_array(entries_kept, shape=pairs.shape)


def _is_near(
    item: NDArray[np.int32], value: NDArray[np.float32], num_items: int, num_neighbors: int
) -> NDArray[np.bool_]:
    """Which entries, sorted by item, are at least as high as their item's last neighbor to keep.

    One sort of whole numbers orders all entries by item, then by falling value: the bits of
    positive floats, read as a number, order as the floats do.
    """
    all_bits = 2**32 - 1
    bits = value.view(np.uint32).astype(np.int64)
    key = np.sort((item.astype(np.int64) << 32) | (all_bits - bits))
    count = np.bincount(item, minlength=num_items)
    last = count.cumsum() - count + num_neighbors - 1
    is_long = count > num_neighbors
    lowest = np.zeros(num_items, dtype=np.int64)
    lowest[is_long] = all_bits - (key[last[is_long]] & all_bits)
    return np.asarray(bits >= lowest[item])
