"""What a recommender reads of the catalog, kept as buffers beside its weights."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bbqrec.errors import FeatureError
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.semantic_ids import SemanticIds


class ItemTables(NamedTuple):
    """Row by item number, modality by name.

    Args:
        content: standardized vectors that an item's own vector is projected from.
        is_present: False where the item lacks that modality of `content`.
        similarity: vectors whose cosines bias the attention.
        similarity_present: False where the item lacks that modality of `similarity`.
        is_unseen: items without training interactions: they get no vector of their own.
    """

    semantic_ids: SemanticIds
    content: dict[str, Float[Tensor, "item _"]]
    is_present: dict[str, Bool[Tensor, " item"]]
    similarity: dict[str, Float[Tensor, "item _"]]
    similarity_present: dict[str, Bool[Tensor, " item"]]
    is_unseen: Bool[Tensor, " item"]


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
    """`tables` without what `config` never reads; FeatureError when rows do not match."""
    has_content = config.form == "one_pass" and config.use_content
    compares = config.similarity.enabled and config.similarity.source != "codes"
    content = tables.content if has_content else {}
    similarity = tables.similarity if compares else {}
    rows = [*content.items(), *similarity.items(), ("is_unseen", tables.is_unseen)]
    for name, table in rows:
        if len(table) != len(tables.semantic_ids):
            raise FeatureError(
                f"{name} has {len(table)} rows, but there are {len(tables.semantic_ids)} items "
                "with semantic IDs; both must come from the same catalog"
            )
        if "." in name or ">" in name:
            raise FeatureError(f"the modality name {name!r} must not contain . or >; rename it")
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


def catalog_from_weights(
    weights: Mapping[str, Tensor],
) -> tuple[ItemTables, dict[str, Tensor]]:
    """The tables and edges that `Catalog` stored among a model's weights."""

    def group(name: str) -> dict[str, Tensor]:
        prefix = f"catalog.{name}."
        return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    sizes = tuple(weights["catalog.codebook_sizes"].tolist())
    tables = ItemTables(
        SemanticIds(weights["catalog.codes"].cpu(), sizes),
        group("content"),
        group("is_present"),
        group("similarity"),
        group("similarity_present"),
        weights["catalog.is_unseen"],
    )
    return tables, group("edges")
