"""What a recommender reads of the catalog, kept as buffers beside its weights."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int32, UInt8
from torch import Tensor, nn

from bbqrec.errors import FeatureError
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.semantic_ids import SemanticIds

# Neighbors by what training tells, beside those by content: how often items met, and what a linear
# model makes of what followed.
BEHAVIOR, TRANSITION = OF_TRAINING = "behavior", "transition"


class Neighbors(NamedTuple):
    """The nearest neighbors of every item, in one table per fold.

    Table 0 has read all of training. Table 1 + f has not read the users u with u % folds == f:
    training scores each user by a table without them. Else every target would be a neighbor of
    the items before it, and neighbors would be trusted more than held-out targets bear out.

    Rows that are not full end in item 0 with bucket `num_buckets`, which stands for nothing. One
    more row, all nothing, serves places of a history that hold no item: number -1 finds it.

    Args:
        buckets: how alike the two are, from 0, the least.
        edges: the inner borders of the buckets, of log likeness.
    """

    items: Int32[Tensor, "fold row neighbor"]
    buckets: UInt8[Tensor, "fold row neighbor"]
    edges: Float[Tensor, " edge"]

    def of(
        self, items: Int[Tensor, "entry age"], folds: Int[Tensor, " entry"] | None
    ) -> tuple[Int32[Tensor, "entry age neighbor"], UInt8[Tensor, "entry age neighbor"]]:
        """Neighbors and buckets of `items` (-1: none) in the table of each entry's fold."""
        num_tables, num_rows, _ = self.items.shape
        row = items % num_rows
        if folds is not None and num_tables > 1:
            row = row + ((1 + folds) * num_rows)[:, None]
        return self.items.flatten(0, 1)[row], self.buckets.flatten(0, 1)[row]


class ItemTables(NamedTuple):
    """Row by item number, modality by name.

    Args:
        content: standardized vectors that an item's own vector is projected from.
        is_present: False where the item lacks that modality of `content`.
        similarity: vectors whose cosines bias the attention.
        similarity_present: False where the item lacks that modality of `similarity`.
        is_unseen: items without training interactions: only their content speaks for them.
        neighbors: by kind of likeness, in the order of the names.
    """

    semantic_ids: SemanticIds
    content: dict[str, Float[Tensor, "item _"]]
    is_present: dict[str, Bool[Tensor, " item"]]
    similarity: dict[str, Float[Tensor, "item _"]]
    similarity_present: dict[str, Bool[Tensor, " item"]]
    is_unseen: Bool[Tensor, " item"]
    neighbors: Mapping[str, Neighbors] = MappingProxyType({})


def directions(
    vectors: Float[Tensor, "item dim"], is_present: Bool[Tensor, " item"]
) -> Float[Tensor, "item dim"]:
    """Unit vectors around the catalog's mean, so that products are centered cosines.

    Missing items are zero. Without centering, pretrained features crowd a narrow range.
    """
    mean = vectors[is_present].double().mean(0) if is_present.any() else 0.0
    centered = (vectors.double() - mean) * is_present[:, None]
    return F.normalize(centered, dim=-1).float()


def needed(tables: ItemTables, config: RecommenderConfig) -> ItemTables:
    """`tables` without what `config` never reads; FeatureError when rows or names do not match."""
    has_content = config.form == "one_pass" and config.use_content
    compares = config.similarity.enabled and config.similarity.source != "codes"
    content = tables.content if has_content else {}
    similarity = tables.similarity if compares else {}
    wanted = config.similarity.modalities
    if compares and wanted is not None:
        if unknown := set(wanted) - similarity.keys():
            raise FeatureError(
                f"recommender.similarity.modalities names {min(unknown)!r}, but what is compared "
                f"is {', '.join(similarity) or 'nothing'}; leave it out"
            )
        similarity = {name: similarity[name] for name in wanted}
    rows = [*content.items(), *similarity.items(), ("is_unseen", tables.is_unseen)]
    for name, table in rows:
        if len(table) != len(tables.semantic_ids):
            raise FeatureError(
                f"{name} has {len(table)} rows, but there are {len(tables.semantic_ids)} items "
                "with semantic IDs; both must come from the same catalog"
            )
        if "." in name or ">" in name:
            raise FeatureError(f"the modality name {name!r} must not contain . or >; rename it")
        if name in OF_TRAINING:
            raise FeatureError(f"the modality name {name!r} is that of training's own; rename it")
    return tables._replace(
        content=content,
        is_present={name: tables.is_present[name] for name in content},
        similarity=similarity,
        similarity_present={name: tables.similarity_present[name] for name in similarity},
    )


class NamedBuffers(nn.Module):
    """A dictionary of tensors that travel with the weights."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def names(self) -> list[str]:
        return [name for name, _ in self.named_buffers()]


class Catalog(nn.Module):
    """The item tables as buffers: with the config, a model's weights are the whole model."""

    codes: Tensor
    codebook_sizes: Tensor
    level_offsets: Tensor
    tokens: Tensor
    is_unseen: Tensor

    def __init__(self, tables: ItemTables, edges: Mapping[str, Tensor]) -> None:
        """`tables.similarity` holds directions here; see `directions`."""
        super().__init__()
        ids = tables.semantic_ids
        self.num_items, self.num_levels = ids.codes.shape
        self.sizes = ids.codebook_sizes
        self.num_tokens = ids.num_tokens
        self.register_buffer("codes", ids.codes.long())
        self.register_buffer("codebook_sizes", torch.tensor(ids.codebook_sizes))
        self.register_buffer("is_unseen", tables.is_unseen)
        self.register_buffer("level_offsets", ids.level_offsets, persistent=False)
        self.register_buffer("tokens", ids.tokens.long(), persistent=False)
        self.content = NamedBuffers(
            {name: x * tables.is_present[name][:, None] for name, x in tables.content.items()}
        )
        self.is_present = NamedBuffers(tables.is_present)
        self.similarity = NamedBuffers(tables.similarity)
        self.similarity_present = NamedBuffers(tables.similarity_present)
        self.edges = NamedBuffers(edges)
        # Folds are for training alone.
        self.neighbor_items = NamedBuffers({n: x.items[:1] for n, x in tables.neighbors.items()})
        self.neighbor_buckets = NamedBuffers(
            {n: x.buckets[:1] for n, x in tables.neighbors.items()}
        )
        self.neighbor_edges = NamedBuffers({n: x.edges for n, x in tables.neighbors.items()})

    def add_neighbors(self, kind: str, found: Neighbors) -> None:
        """One more kind of likeness, for a model that is finished."""
        device = self.codes.device
        self.neighbor_items.register_buffer(kind, found.items[:1].to(device))
        self.neighbor_buckets.register_buffer(kind, found.buckets[:1].to(device))
        self.neighbor_edges.register_buffer(kind, found.edges.to(device))

    def remove_neighbors(self, kind: str) -> None:
        """One kind of likeness less."""
        for part in (self.neighbor_items, self.neighbor_buckets, self.neighbor_edges):
            delattr(part, kind)

    def neighbors(self) -> dict[str, Neighbors]:
        """The tables that have read all of training, by kind of likeness."""
        parts = (self.neighbor_items, self.neighbor_buckets, self.neighbor_edges)
        names = sorted(self.neighbor_items.names())  # as a bias has them
        return {name: Neighbors._make(part[name] for part in parts) for name in names}


def catalog_from_weights(
    weights: Mapping[str, Tensor],
) -> tuple[ItemTables, dict[str, Tensor]]:
    """The tables and edges that `Catalog` stored among a model's weights."""

    def group(name: str) -> dict[str, Tensor]:
        prefix = f"catalog.{name}."
        return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    sizes = tuple(weights["catalog.codebook_sizes"].tolist())
    buckets, edges = group("neighbor_buckets"), group("neighbor_edges")
    tables = ItemTables(
        SemanticIds(weights["catalog.codes"].cpu(), sizes),
        group("content"),
        group("is_present"),
        group("similarity"),
        group("similarity_present"),
        weights["catalog.is_unseen"],
        {
            name: Neighbors(items, buckets[name], edges[name])
            for name, items in sorted(group("neighbor_items").items())  # as a bias has them
        },
    )
    return tables, group("edges")
