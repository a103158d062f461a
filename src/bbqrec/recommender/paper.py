"""The form the paper builds on: TIGER's encoder-decoder over the history's code tokens.

Every code of the latest items is a token, an end token closes the history (so that an empty one
has a token, too), the encoder looks both ways, and the decoder writes one semantic ID. With the
similarity bias off this is T5 (Raffel et al., 2020) weight for weight.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.recommender.code_decoder import CodeDecoder
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.sequence_model import Encoded, SequenceModel
from bbqrec.recommender.tables import ItemTables
from bbqrec.recommender.transformer import AttentionBias, Layout, hide
from bbqrec.semantic_ids import EOS_TOKEN, PAD_TOKEN


class PaperRecommender(SequenceModel):
    """Bidirectional encoder over code tokens, decoder over the next item's codes."""

    def __init__(
        self, config: RecommenderConfig, tables: ItemTables, edges: Mapping[str, Tensor]
    ) -> None:
        super().__init__(config, tables, edges, bidirectional=True, as_t5=True)
        self.decoder = CodeDecoder(config)

    def forward(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
        targets: Int[Tensor, " batch"],
        *,
        num_items: int | None = None,
    ) -> Float[Tensor, "batch level token_or_code"]:
        """Logits of each level of the targets, the codes before it given.

        Args:
            num_items: the sum of `lengths`, if it is known; a GPU must stop to count.
        """
        encoded = self.read(items, lengths, num_items=num_items)
        hidden = self.write(targets, encoded, Layout.full(len(targets), 1))
        return self.code_embedding.logits(hidden)

    def history_tokens(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> Int[Tensor, "batch token"]:
        """All codes of the history as tokens, the end token, then padding."""
        tokens = self.catalog.tokens[items.clamp(min=0)].flatten(1)
        tokens = F.pad(tokens, (0, 1), value=PAD_TOKEN)
        end = (lengths * self.catalog.num_levels)[:, None]
        place = torch.arange(tokens.shape[1], device=items.device)
        return tokens.masked_fill(place > end, PAD_TOKEN).masked_fill(place == end, EOS_TOKEN)

    def read(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
        *,
        num_items: int | None = None,
    ) -> Encoded:
        """Encode the tokens of the histories; the last place is that of the end token."""
        tokens = self.history_tokens(items, lengths)
        last_place = (lengths * self.catalog.num_levels)[:, None]
        is_used = torch.arange(tokens.shape[1], device=items.device) <= last_place
        num_used = None
        if num_items is not None:
            num_used = len(items) + num_items * self.catalog.num_levels
        layout = Layout(is_used, num_used)
        vectors = self.code_embedding(layout.collect(tokens))
        added = self.position_bias(tokens.shape[1]) + hide(is_used[:, None, None], vectors)
        encoded = self.encoder(vectors, layout, self._bias(added, items))
        return Encoded(layout.spread(encoded), last_place)

    def _bias(
        self, added: Float[Tensor, "_ head place place"], items: Int[Tensor, "batch position"]
    ) -> AttentionBias:
        if self.similarity is None:
            return AttentionBias(added)
        # Likeness is between items: look it up once per pair of items, then repeat for tokens.
        # The end token and padding belong to the item after the last, which is none.
        slots = F.pad(items, (0, 1), value=-1)
        place = torch.arange(added.shape[-1], device=items.device)
        return self.similarity.applied(
            added, slots, self.catalog, slot=place // self.catalog.num_levels
        )
