"""Each item's nearest neighbors: by what followed it in training, and by what its content says."""

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.data import Sequences
from bbqrec.progress import track
from bbqrec.recommender.config import NeighborConfig, RecommenderConfig
from bbqrec.recommender.item_knn import ItemKnnConfig, count_pairs, similarities
from bbqrec.recommender.tables import BEHAVIOR, Neighbors, directions

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

MAX_COMPARED = 200_000  # items: their content is compared pair by pair
_MAX_COSINES = 2**25  # held at once


def find_neighbors(
    train: Sequences,
    num_items: int,
    content: dict[str, Float[Tensor, "item _"]],
    is_present: dict[str, Bool[Tensor, " item"]],
    config: RecommenderConfig,
) -> dict[str, Neighbors]:
    """Neighbors by behavior, in folds, and by each modality of `content`.

    Behavior is the similarity of item-kNN; content is the cosine, where positive, of centered
    vectors. Buckets are equally wide in the logarithm of the likeness.
    """
    settings = config.neighbors
    if config.form == "paper" or not settings.enabled:
        return {}
    found = {BEHAVIOR: in_even_buckets(_by_behavior(train, num_items, settings), settings)}
    if num_items > MAX_COMPARED:
        logger.warning(
            "%d items are too many to compare their content pair by pair (%d at most): neighbors "
            "are found by behavior alone",
            num_items,
            MAX_COMPARED,
        )
        return found
    for name, vectors in content.items():
        units = directions(vectors, is_present[name])
        nearest = nearest_by_content(units, settings.num_neighbors)
        found[name] = in_even_buckets([nearest], settings)
    return dict(sorted(found.items()))


def count_neighbors(
    train: Sequences, num_items: int, settings: NeighborConfig, edges: Float[Tensor, " edge"]
) -> Neighbors:
    """Neighbors by behavior counted again, for a model that has learned what its buckets mean."""
    return _in_buckets(_by_behavior(train, num_items, settings), edges)


def with_newcomers(known: Neighbors, num_new: int, nearest: "Nearest | None") -> Neighbors:
    """Table 0 for a catalog that goes on with `num_new` items.

    Args:
        nearest: `nearest_by_content` of all items, by which newcomers become neighbors; None
            where likeness is by behavior, of which newcomers have none.
    """
    num_buckets = len(known.edges) + 1
    if nearest is None:
        items = F.pad(known.items[:1], (0, 0, 0, num_new))
        return known._replace(
            items=items, buckets=F.pad(known.buckets[:1], (0, 0, 0, num_new), value=num_buckets)
        )
    return _in_buckets([nearest], known.edges)


class Nearest(NamedTuple):
    """Of each item, the likest first."""

    items: Int[Tensor, "item neighbor"]
    likeness: Float[Tensor, "item neighbor"]  # 0: nothing


def _by_behavior(train: Sequences, num_items: int, settings: NeighborConfig) -> list[Nearest]:
    config = ItemKnnConfig(num_neighbors=settings.num_neighbors)
    users = np.arange(len(train))
    folds = [train.take(users[f :: settings.num_folds]) for f in range(settings.num_folds)]
    pairs = [count_pairs(fold, num_items, config) for fold in folds]
    counts = [np.bincount(fold.items, minlength=num_items) for fold in folds]
    all_pairs, all_counts = sum(pairs[1:], pairs[0]), np.sum(counts, axis=0)
    kept = [_as_table(similarities(all_pairs, all_counts, config), settings.num_neighbors)]
    for of_fold, count in track(list(zip(pairs, counts, strict=True)), "finding neighbors"):
        rest = all_pairs - of_fold
        rest.data[rest.data < 1e-3] = 0  # what rounding leaves of equal sums
        found = similarities(rest, all_counts - count, config)
        kept.append(_as_table(found, settings.num_neighbors))
    return kept


def _as_table(values: "csr_array", num_neighbors: int) -> Nearest:
    """The largest entries of each row, largest first."""
    entries = values.tocoo()
    order = np.lexsort((entries.col, -entries.data, entries.row))
    row, col, data = entries.row[order], entries.col[order], entries.data[order]
    first = np.searchsorted(row, np.arange(values.shape[0]))
    rank = np.arange(len(row)) - first[row]
    is_near = rank < num_neighbors
    place = (row[is_near], rank[is_near])
    items = np.zeros((values.shape[0], num_neighbors), np.int64)
    likeness = np.zeros((values.shape[0], num_neighbors), np.float32)
    items[place], likeness[place] = col[is_near], data[is_near]
    return Nearest(torch.from_numpy(items), torch.from_numpy(likeness))


def nearest_by_content(
    units: Float[Tensor, "item dim"], num_neighbors: int, known: Nearest | None = None
) -> Nearest:
    """Each item's nearest by cosine, where that is positive.

    Args:
        units: directions of the items' content.
        known: what this function has found for the first items alone; only the others are then
            compared with all, which for a few among many saves nearly everything.
    """
    width = min(num_neighbors, len(units))
    num_known = 0 if known is None else len(known.items)
    found = []
    size = max(1, _MAX_COSINES // max(1, len(units)))
    for begin in range(num_known, len(units), size):
        cosines = units[begin : begin + size] @ units.T
        row = torch.arange(len(cosines))
        cosines[row, row + begin] = 0
        top = cosines.topk(width, dim=1)
        found.append(Nearest(top.indices, top.values))
        if known is not None:
            known = _among(known, cosines[:, :num_known].T, begin, width)
    tables = found if known is None else [known, *found]
    likeness = torch.cat([table.likeness for table in tables]).clamp(min=0)
    items = torch.cat([table.items for table in tables])
    return Nearest(items.masked_fill(likeness == 0, 0), likeness)


def _among(
    known: Nearest, cosines: Float[Tensor, "item new"], first: int, num_neighbors: int
) -> Nearest:
    """The nearest of these items among their nearest so far and new ones, numbered from `first`."""
    numbers = torch.arange(first, first + cosines.shape[1]).expand(len(cosines), -1)
    likeness = torch.cat([known.likeness, cosines], 1)
    top = likeness.topk(min(num_neighbors, likeness.shape[1]), dim=1)
    return Nearest(torch.cat([known.items, numbers], 1).gather(1, top.indices), top.values)


def in_even_buckets(tables: list[Nearest], settings: NeighborConfig) -> Neighbors:
    """Cut evenly by the logarithm of the first table's likeness."""
    likeness = tables[0].likeness
    present = likeness[likeness > 0].log()
    if len(present):
        low, high = np.quantile(present.numpy(), [0.01, 0.999])
        edges = torch.linspace(float(low), float(high), settings.num_buckets + 1)[1:-1]
    else:
        edges = torch.zeros(settings.num_buckets - 1)
    return _in_buckets(tables, edges)


def _in_buckets(tables: list[Nearest], edges: Float[Tensor, " edge"]) -> Neighbors:
    """All tables mean the same by a bucket."""
    nothing = len(edges) + 1
    items, buckets = [], []
    for table in tables:
        bucket = torch.bucketize(table.likeness.log(), edges)
        bucket[table.likeness == 0] = nothing
        items.append(F.pad(table.items, (0, 0, 0, 1)))
        buckets.append(F.pad(bucket, (0, 0, 0, 1), value=nothing))
    return Neighbors(torch.stack(items).int(), torch.stack(buckets).to(torch.uint8), edges)
