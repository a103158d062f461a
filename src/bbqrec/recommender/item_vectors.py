"""An item's vector: what it is itself, what its content says, and what its codes share."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.tables import Catalog
from bbqrec.recommender.transformer import random_linear

# Norm of an item's own vector at the start. Where content and codes of norm 1 are beside it, what
# items share speaks first, and their own vectors learn what is left.
ID_START = 0.2
# Shorter vectors are not drawn out to length 1: of an item without content that training treats as
# unseen nothing is known at first, and what turns nothing into a direction has no gradient.
MIN_NORM = 1e-3


def unit(vectors: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
    """Vectors of length 1, or shorter where they are all but zero."""
    return F.normalize(vectors, dim=-1, eps=MIN_NORM)


class ItemVectors(nn.Module):
    """ID vector + projected content of every modality + summed vectors of the codes.

    Unseen items, of which no behavior is known, have their content and, in place of an ID vector,
    one that all of them share: their codes are a guess from the same content, which would be
    taken for behavior. Where nothing reads content, codes are all they have.

    A part that is switched off and a modality that an item lacks contribute nothing. The same
    vectors are read as input and ranked as output.

    With `item_start="own"` content and codes begin at nothing, and codes have vectors apart from
    those that a decoder writes them by. While training sets `is_own_alone`, they are left out.
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
        self.starts_own = config.item_start == "own"
        self.code_vectors = (
            nn.Parameter(torch.zeros(catalog.num_tokens, width))
            if self.starts_own and config.use_codes
            else None
        )
        self.is_own_alone = False
        self.projections = nn.ModuleDict(
            {
                # Standardized content of n dimensions has norm n**0.5: project to norm 1.
                name: random_linear(vectors.shape[1], width, (vectors.shape[1] * width) ** -0.5)
                for name, vectors in catalog.content.named_buffers()
            }
        )
        self.unseen_vector = nn.Parameter(torch.zeros(width)) if self.projections else None
        if self.starts_own and self.unseen_vector is not None:
            for weight in self.projections.parameters():
                nn.init.zeros_(weight)
            # Not zero: with content that is, yet, an unseen item would have no direction.
            nn.init.normal_(self.unseen_vector, std=ID_START * width**-0.5)

    @torch.no_grad()
    def begin_as(self, items: Int[Tensor, " known"], vectors: Float[Tensor, "known dim"]) -> None:
        """Let own vectors of `items` begin as these, scaled together to a mean length of 1."""
        assert self.id_vectors is not None
        self.id_vectors[items] = vectors / vectors.norm(dim=-1).mean().clamp(min=MIN_NORM)

    def forward(
        self,
        items: Int[Tensor, " entry"] | slice,
        catalog: Catalog,
        code_vectors: Float[Tensor, "token dim"],
        is_unseen: Bool[Tensor, " item"],
    ) -> Float[Tensor, "entry dim"]:
        """The vectors of `items` (a slice reads rows without copying them)."""
        parts = list(self.parts(items, catalog, code_vectors, is_unseen).values())
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def parts(
        self,
        items: Int[Tensor, " entry"] | slice,
        catalog: Catalog,
        code_vectors: Float[Tensor, "token dim"],
        is_unseen: Bool[Tensor, " item"],
    ) -> dict[str, Float[Tensor, "entry dim"]]:
        """The summands: "content.MODALITY", "codes" and "own", as far as there are any."""
        unseen = is_unseen[items][:, None]
        if self.is_own_alone:
            assert self.id_vectors is not None
            return {"own": self.id_vectors[items] * ~unseen}
        parts = {
            f"content.{name}": projection(catalog.content[name][items])
            for name, projection in self.projections.items()
        }
        shared = self.unseen_vector
        if self.use_codes:
            table = code_vectors if self.code_vectors is None else self.code_vectors
            codes = F.embedding_bag(catalog.tokens[items], table, mode="sum")
            parts["codes"] = codes if shared is None else codes * ~unseen
        if self.id_vectors is not None:
            parts["own"] = self.id_vectors[items] * ~unseen
        if shared is not None:
            parts["own"] = parts.get("own", 0.0) + shared * unseen
        return parts
