"""Likeness of two items as a learned bias on the attention between them.

Likeness is cut into buckets, each bucket has one learned number per head, and all start at zero,
so that training begins exactly at the plain model. Nothing else of the model changes.
"""

import logging
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.tables import Catalog, ItemTables, directions, needed
from bbqrec.recommender.transformer import AttentionBias

logger = logging.getLogger(__name__)

SPECIAL_BUCKETS = ("same item", "not an item", "modality missing")
CODES = "codes"
# Up to this many pairs, all buckets are computed once instead of batch by batch.
MAX_TABLE_PAIRS = 2**24
_CHUNK = 4096
_GRID = 1e4  # cosines closer than its inverse count as equal when borders are set


def shared_codes(
    left: Int[Tensor, "*batch place level"], right: Int[Tensor, "*batch other level"]
) -> Int[Tensor, "*batch place other"]:
    """How many leading codes each pair of semantic IDs has in common."""
    is_equal = left[..., :, None, :] == right[..., None, :, :]
    return is_equal.cumprod(-1).sum(-1)


def similarity_edges(
    tables: ItemTables,
    items: NDArray[np.int32],
    offsets: NDArray[np.int64],
    config: RecommenderConfig,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, "edge"]]:
    """The inner borders of the buckets of each modality, ascending.

    Args:
        items, offsets: the training histories, row u being items[offsets[u]:offsets[u+1]].

    Quantiles over pairs of different items drawn from the *training* histories, at most
    `max_history` apart, so that all buckets are used alike. Likeness by shared codes has one
    bucket per number of them and needs no data. Where no history has two items that show a
    modality, pairs are drawn from the catalog instead, with a warning.
    """
    settings = config.similarity
    if not settings.enabled:
        return {}
    if settings.source == CODES:
        return {CODES: torch.arange(tables.semantic_ids.num_levels) + 0.5}
    tables = needed(tables, config)
    pairs = _pairs_within(items, offsets, config, generator)
    edges = {}
    for name, vectors in tables.similarity.items():
        is_present = tables.similarity_present[name]
        chosen = _comparable(pairs, is_present)
        if chosen.shape[1] < settings.num_buckets:
            logger.warning("no history shows two %s items; buckets come from the catalog", name)
            anything = torch.randint(len(vectors), (2, settings.num_pairs), generator=generator)
            chosen = _comparable(anything, is_present)
        unit = directions(vectors, is_present)
        values = torch.cat(
            [(unit[part[0]] * unit[part[1]]).sum(-1) for part in torch.split(chosen, _CHUNK, 1)]
        )
        edges[name] = _between_quantiles(values, settings.num_buckets)
    return edges


def _between_quantiles(values: Float[Tensor, "pair"], num_buckets: int) -> Float[Tensor, "edge"]:
    """Borders at the quantiles of `values`, moved to the middle between two neighboring values.

    On a value itself the last bit of a cosine would choose the bucket, and that bit depends on
    how many cosines are computed at once.
    """
    if not len(values):
        return torch.linspace(-1, 1, num_buckets - 1)
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


def _comparable(pairs: Tensor, is_present: Tensor) -> Int[Tensor, "2 pair"]:
    return pairs[:, (pairs[0] != pairs[1]) & is_present[pairs].all(0)]


class SimilarityBias(nn.Module):
    """Buckets of likeness among a history's items, and a learned bias per bucket and head."""

    def __init__(self, config: RecommenderConfig, catalog: Catalog) -> None:
        super().__init__()
        self.is_multiplicative = config.similarity.form == "multiplicative"
        self.names = catalog.edges.names()
        self.tables = nn.ParameterDict(
            {
                name: torch.zeros(
                    len(catalog.edges[name]) + 1 + len(SPECIAL_BUCKETS), config.num_heads
                )
                for name in self.names
            }
        )
        self.remember_pairs = catalog.num_items**2 <= MAX_TABLE_PAIRS
        self._pair_buckets: dict[str, Tensor] = {}
        # Loaded weights may bring other vectors along.
        self.register_load_state_dict_post_hook(_forget_pairs)  # type: ignore[no-untyped-call]

    def forward(
        self, buckets: Mapping[str, Int[Tensor, "batch place place"]]
    ) -> Float[Tensor, "batch head place place"]:
        """The sum of all modalities' entries for the buckets that `buckets` found."""
        parts = [F.embedding(buckets[name], self.tables[name]) for name in self.names]
        return torch.stack(parts).sum(0).permute(0, 3, 1, 2)

    def applied(
        self,
        added: Float[Tensor, "_ head place place"],
        items: Int[Tensor, "batch slot"],
        catalog: Catalog,
        *,
        slot: Int[Tensor, "place"] | None = None,
    ) -> AttentionBias:
        """`added` with the likeness of `items` applied; `slot` says whose place each place is."""
        bias = self(self.buckets(items, catalog))
        if slot is not None:
            bias = bias[:, :, slot][:, :, :, slot]
        if self.is_multiplicative:
            return AttentionBias(added, gain=1 + bias)
        return AttentionBias(added + bias)

    @torch.no_grad()
    def buckets(
        self, items: Int[Tensor, "batch place"], catalog: Catalog
    ) -> dict[str, Int[Tensor, "batch place place"]]:
        """Per modality the bucket of every pair of places; -1 in `items` is "not an item"."""
        is_item = items >= 0
        item = items.clamp(min=0)
        left, right = item[:, :, None], item[:, None, :]
        is_pair = is_item[:, :, None] & is_item[:, None, :]
        result = {}
        for name in self.names:
            if self.remember_pairs:
                table = self._all_pairs(name, catalog)
                bucket = table.flatten()[left * catalog.num_items + right].long()
            else:
                bucket = _pair_buckets(item, item, name, catalog)
            not_an_item = len(catalog.edges[name]) + 2
            result[name] = bucket.masked_fill(~is_pair, not_an_item)
        return result

    def _all_pairs(self, name: str, catalog: Catalog) -> UInt8[Tensor, "item item"]:
        table = self._pair_buckets.get(name)
        if table is None or table.device != catalog.codes.device:
            every = torch.arange(catalog.num_items, device=catalog.codes.device)
            parts = [
                _pair_buckets(part[None], every[None], name, catalog)[0].to(torch.uint8)
                for part in torch.split(every, _CHUNK)
            ]
            table = self._pair_buckets[name] = torch.cat(parts)
        return table

    def labels(self, catalog: Catalog) -> dict[str, list[str]]:
        """What each row of `tables` stands for."""
        result = {}
        for name in self.names:
            edges = [f"{edge:.3g}" for edge in catalog.edges[name].tolist()]
            inner = [f"{low} to {high}" for low, high in pairwise(edges)]
            result[name] = [f"below {edges[0]}", *inner, f"above {edges[-1]}", *SPECIAL_BUCKETS]
        return result


def _forget_pairs(module: nn.Module, _: object) -> None:
    assert isinstance(module, SimilarityBias)
    module._pair_buckets.clear()


def _pair_buckets(
    left: Int[Tensor, "batch place"],
    right: Int[Tensor, "batch other"],
    name: str,
    catalog: Catalog,
) -> Int[Tensor, "batch place other"]:
    """Buckets of real items, from quantiles up to "same item" and "modality missing"."""
    edges = catalog.edges[name]
    same, missing = len(edges) + 1, len(edges) + 3
    if name == CODES:
        likeness = shared_codes(catalog.codes[left], catalog.codes[right]).float()
        bucket = torch.bucketize(likeness, edges)
    else:
        vectors = catalog.similarity[name]
        bucket = torch.bucketize(vectors[left] @ vectors[right].transpose(-1, -2), edges)
        is_present = catalog.similarity_present[name]
        is_known = is_present[left][:, :, None] & is_present[right][:, None, :]
        bucket = bucket.masked_fill(~is_known, missing)
    return bucket.masked_fill(left[:, :, None] == right[:, None, :], same)
