"""Where likeness is cut into buckets: quantiles over pairs that training histories show."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.tables import ItemTables, directions, needed

logger = logging.getLogger(__name__)

SHARED_CODES = "shared_codes"
ACROSS = ">"  # "text>image" compares the text of the one item with the image of the other
_CHUNK = 4096
_GRID = 1e4  # cosines closer than its inverse count as equal when borders are set


def similarity_edges(
    tables: ItemTables,
    items: NDArray[np.int32],
    offsets: NDArray[np.int64],
    config: RecommenderConfig,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, " edge"]]:
    """The inner borders of the buckets of each comparison, ascending.

    Quantiles over pairs of different items drawn from the *training* histories, at most
    `max_history` apart, so that all buckets are used alike. Likeness by shared codes has one
    bucket per number of them and needs no data. Where no history has two items that can be
    compared, pairs are drawn from the catalog instead, with a warning.

    Args:
        items, offsets: the training histories, row u being items[offsets[u]:offsets[u+1]].
    """
    settings = config.similarity
    if not settings.enabled:
        return {}
    if settings.source == "codes":
        return {SHARED_CODES: torch.arange(tables.semantic_ids.num_levels) + 0.5}
    tables = needed(tables, config)
    present = tables.similarity_present
    units = {name: directions(x, present[name]) for name, x in tables.similarity.items()}
    pairs = _pairs_within(items, offsets, config, generator)
    edges = {}
    for name in _comparisons(list(units), across=settings.across):
        left, right = sides(name)
        chosen = _comparable(pairs, present[left], present[right])
        if chosen.shape[1] < settings.num_buckets:
            logger.warning(
                "no history shows items to compare by %s; drawing from the catalog", name
            )
            anything = torch.randint(
                len(present[left]), (2, settings.num_pairs), generator=generator
            )
            chosen = _comparable(anything, present[left], present[right])
        parts = torch.split(chosen, _CHUNK, 1)
        cosines = torch.cat([(units[left][a] * units[right][b]).sum(-1) for a, b in parts])
        edges[name] = _between_quantiles(cosines, settings.num_buckets)
    return edges


def sides(name: str) -> tuple[str, str]:
    """The modality of the earlier-named item and that of the other."""
    left, _, right = name.partition(ACROSS)
    return left, right or left


def _comparisons(modalities: list[str], *, across: bool) -> list[str]:
    crossed = [f"{a}{ACROSS}{b}" for a in modalities for b in modalities if a != b]
    return modalities + (crossed if across else [])


def _between_quantiles(values: Float[Tensor, " pair"], num_buckets: int) -> Float[Tensor, " edge"]:
    """Borders at the quantiles of `values`, moved to the middle between two neighboring values.

    On a value itself the last bit of a cosine would choose the bucket, and that bit depends on
    how many cosines are computed at once.
    """
    if not len(values):
        return torch.linspace(-1, 1, num_buckets + 1)[1:-1]
    grid = (values * _GRID).round()
    quantiles = torch.linspace(0, 1, num_buckets + 1)[1:-1]
    below = grid.quantile(quantiles, interpolation="lower")
    distinct = F.pad(torch.unique(grid), (0, 1), value=float(grid.max()) + 1)
    above = distinct[torch.searchsorted(distinct, below, right=True)]
    return (below + above) / 2 / _GRID


def _pairs_within(
    items: NDArray[np.int32],
    offsets: NDArray[np.int64],
    config: RecommenderConfig,
    generator: torch.Generator,
) -> Int[Tensor, "2 pair"]:
    """Pairs of entries of one history: the later one any, the earlier one within the window."""
    entry = torch.from_numpy(items).long()
    place = torch.from_numpy(np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets)))
    later = place.nonzero()[:, 0]  # entries that have something before them
    if not len(later):
        return later.new_zeros(2, 0)
    draw = torch.randint(len(later), (config.similarity.num_pairs,), generator=generator)
    later = later[draw]
    reach = place[later].clamp(max=config.max_history)
    back = 1 + (torch.rand(len(later), generator=generator) * reach).long().clamp(max=reach - 1)
    return torch.stack([entry[later], entry[later - back]])


def _comparable(
    pairs: Int[Tensor, "2 pair"], left: Bool[Tensor, " item"], right: Bool[Tensor, " item"]
) -> Int[Tensor, "2 comparable"]:
    return pairs[:, (pairs[0] != pairs[1]) & left[pairs[0]] & right[pairs[1]]]
