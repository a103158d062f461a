"""An item's vector: what it is itself, what its content says, and what its codes share."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.tables import Catalog
from bbqrec.recommender.transformer import random_linear

# Norm of an item's own vector at the start, beside content and codes of norm 1: what items share
# speaks first, and their own vectors learn what is left.
ID_START = 0.2


class ItemVectors(nn.Module):
    """ID vector + projected content of every modality + summed vectors of the codes.

    Unseen items, of which no behavior is known, are told by content alone: projected by maps of
    its own, since content says more where it is all there is, beside a vector that all of them
    share. Their codes are a guess from the same content and add nothing to it.

    A part that is switched off and a modality that an item lacks contribute nothing; without
    content unseen items keep their codes. The same vectors are read as input and ranked as output.
    """

    def __init__(self, config: RecommenderConfig, catalog: Catalog) -> None:
        super().__init__()
        width = config.d_model
        self.use_codes = config.use_codes
        self.id_vectors = (
            nn.Parameter(torch.randn(catalog.num_items, width) * ID_START * width**-0.5)
            if config.use_id
            else None
        )
        self.projections = _projections(catalog, width)
        self.unseen_projections = _projections(catalog, width)
        self.unseen_vector = nn.Parameter(torch.zeros(width)) if self.projections else None

    def forward(
        self,
        items: Int[Tensor, " entry"] | slice,
        catalog: Catalog,
        code_vectors: Float[Tensor, "token dim"],
        is_unseen: Bool[Tensor, " item"],
    ) -> Float[Tensor, "entry dim"]:
        """The vectors of `items` (a slice reads rows without copying them)."""
        content = {name: catalog.content[name][items] for name in self.projections}
        vectors = self._of_seen(items, content, catalog, code_vectors, ~is_unseen[items])
        if self.unseen_vector is None:
            return vectors
        rows = is_unseen[items].nonzero().squeeze(1)
        of_unseen = [self.unseen_projections[name](x[rows]) for name, x in content.items()]
        alone = torch.stack(of_unseen).sum(0) + self.unseen_vector
        return vectors.index_copy(0, rows, alone.to(vectors.dtype))

    def _of_seen(
        self,
        items: Int[Tensor, " entry"] | slice,
        content: Mapping[str, Float[Tensor, "entry _"]],
        catalog: Catalog,
        code_vectors: Float[Tensor, "token dim"],
        has_id: Bool[Tensor, " entry"],
    ) -> Float[Tensor, "entry dim"]:
        parts = [self.projections[name](x) for name, x in content.items()]
        if self.use_codes:
            parts.append(F.embedding_bag(catalog.tokens[items], code_vectors, mode="sum"))
        if self.id_vectors is not None:
            parts.append(self.id_vectors[items] * has_id[:, None])
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _projections(catalog: Catalog, width: int) -> nn.ModuleDict:
    """Standardized content of n dimensions has norm n**0.5: projected to norm 1."""
    return nn.ModuleDict(
        {
            name: random_linear(vectors.shape[1], width, (vectors.shape[1] * width) ** -0.5)
            for name, vectors in catalog.content.named_buffers()
        }
    )
