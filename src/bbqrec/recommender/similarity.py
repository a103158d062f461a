"""Likeness of two items as a learned bias on the attention between them.

Likeness is cut into buckets, each bucket has one learned number per head, and all start at zero,
so that training begins exactly at the plain model. Nothing else of the model changes.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.similarity_edges import SHARED_CODES, sides
from bbqrec.recommender.tables import Catalog
from bbqrec.recommender.transformer import AttentionBias

SPECIAL_BUCKETS = ("same item", "not an item", "modality missing")
# Up to this many pairs, all buckets are computed once instead of batch by batch.
MAX_TABLE_PAIRS = 2**24
_CHUNK = 4096


def shared_codes(
    left: Int[Tensor, "*batch place level"], right: Int[Tensor, "*batch other level"]
) -> Int[Tensor, "*batch place other"]:
    """How many leading codes each pair of semantic IDs has in common."""
    is_equal = left[..., :, None, :] == right[..., None, :, :]
    return is_equal.cumprod(-1).sum(-1)


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
        self, buckets: Mapping[str, Int[Tensor, "batch query place"]]
    ) -> Float[Tensor, "batch head query place"]:
        """The sum of all modalities' entries for the buckets that `buckets` found."""
        first, *rest = self.names
        total = F.embedding(buckets[first], self.tables[first])
        for name in rest:  # in place: these are the largest tensors of a long history
            total += F.embedding(buckets[name], self.tables[name])
        return total.permute(0, 3, 1, 2)

    def applied(
        self,
        added: Float[Tensor, "_ head query place"],
        items: Int[Tensor, "batch slot"],
        catalog: Catalog,
        *,
        slot: Int[Tensor, " place"] | None = None,
        query: Int[Tensor, " batch"] | None = None,
    ) -> AttentionBias:
        """`added` with the likeness of `items` applied.

        Args:
            slot: whose place each place is.
            query: as of `buckets`, and of `added`.
        """
        bias = self(self.buckets(items, catalog, query))
        if slot is not None:
            bias = bias.index_select(2, slot).index_select(3, slot)
        if self.is_multiplicative:
            return AttentionBias(added, gain=bias.add_(1))
        return AttentionBias(bias.add_(added))

    @torch.no_grad()
    def buckets(
        self,
        items: Int[Tensor, "batch place"],
        catalog: Catalog,
        query: Int[Tensor, " batch"] | None = None,
    ) -> dict[str, Int[Tensor, "batch query place"]]:
        """Per modality the bucket of every pair of places; -1 in `items` is "not an item".

        Args:
            query: the one place of each row whose pairs are wanted; None for all places.
        """
        is_item = items >= 0
        item = items.clamp(min=0)
        asking = item if query is None else item.gather(1, query[:, None])
        is_asking = is_item if query is None else is_item.gather(1, query[:, None])
        is_pair = is_asking[:, :, None] & is_item[:, None, :]
        result = {}
        for name in self.names:
            # In full precision always: in half of it training would see other buckets.
            with torch.autocast(items.device.type, enabled=False):
                if self.remember_pairs:
                    table = self._all_pairs(name, catalog)
                    pair = asking[:, :, None] * catalog.num_items + item[:, None, :]
                    bucket = table.flatten()[pair].long()
                else:
                    bucket = _pair_buckets(asking, item, name, catalog)
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
            if name == SHARED_CODES:
                numbers = [f"{number} shared codes" for number in range(catalog.num_levels + 1)]
                result[name] = [*numbers, *SPECIAL_BUCKETS]
                continue
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
    if name == SHARED_CODES:
        likeness = shared_codes(catalog.codes[left], catalog.codes[right]).float()
        bucket = torch.bucketize(likeness, edges)
    else:
        a, b = sides(name)
        # As embeddings, since by their numbers rows are looked up two or three times as slowly.
        rows = F.embedding(left, catalog.similarity[a])
        is_same = a == b and left is right
        columns = rows if is_same else F.embedding(right, catalog.similarity[b])
        cosine = rows @ columns.transpose(-1, -2)
        bucket = torch.bucketize(cosine, edges)
        present = catalog.similarity_present
        is_known = present[a][left][:, :, None] & present[b][right][:, None, :]
        bucket = bucket.masked_fill(~is_known, missing)
    return bucket.masked_fill(left[:, :, None] == right[:, None, :], same)
