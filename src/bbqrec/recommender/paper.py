"""The form the paper builds on: TIGER's encoder-decoder over the history's code tokens.

Every code of the latest items is a token, an end token closes the history (so that an empty one
has a token, too), the encoder looks both ways, and the decoder writes one semantic ID. With the
similarity bias off this is T5 (Raffel et al., 2020) weight for weight.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.code_decoder import CodeDecoder, DecoderSession
from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.similarity import SimilarityBias
from bbqrec.recommender.tables import Catalog, ItemTables
from bbqrec.recommender.transformer import (
    AttentionBias,
    Encoder,
    Layout,
    RelativePositionBias,
    hide,
)
from bbqrec.semantic_ids import EOS_TOKEN, PAD_TOKEN


class PaperRecommender(nn.Module):
    """Bidirectional encoder over code tokens, decoder over the next item's codes."""

    def __init__(
        self, config: RecommenderConfig, tables: ItemTables, edges: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.max_history = config.max_history
        self.catalog = Catalog(tables, edges)
        self.code_embedding = CodeEmbedding(config, self.catalog, as_t5=True)
        self.position_bias = RelativePositionBias(config, bidirectional=True)
        self.similarity = SimilarityBias(config, self.catalog) if edges else None
        self.encoder = Encoder(config)
        self.decoder = CodeDecoder(config)

    def forward(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, "batch"],
        targets: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch level token_or_code"]:
        """Logits of each level of the targets, the codes before it given."""
        places, last_place = self._encode(items, lengths)
        hidden = self._write(targets, places, last_place, Layout.full(len(targets), 1))
        return self.code_embedding.logits(hidden)

    def code_targets(self, items: Int[Tensor, "entry"]) -> Int[Tensor, "entry level"]:
        """The class of each level of `items` among the last axis of the logits."""
        return self.code_embedding.targets(self.catalog.tokens[items])

    def begin(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, "batch"]
    ) -> DecoderSession:
        """Start a search for the next item of each history; see `Histories.latest`."""
        places, last_place = self._encode(items, lengths)
        return DecoderSession(self.decoder, self.code_embedding, places, last_place[:, 0])

    def score_items(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, "batch"],
        candidates: Int[Tensor, "batch candidate"],
    ) -> Float[Tensor, "batch candidate"]:
        """Exact log-probability of each candidate's whole semantic ID."""
        places, last_place = self._encode(items, lengths)
        layout = Layout.full(*candidates.shape)
        target = layout.collect(candidates)
        hidden = self._write(target, places, last_place, layout)
        return layout.spread(self.code_embedding.score(hidden, self.catalog.tokens[target]))

    def similarity_tables(self) -> dict[str, Float[Tensor, "bucket head"]]:
        """The learned bias per modality, bucket and head; empty without similarity."""
        return dict(self.similarity.tables) if self.similarity is not None else {}

    def similarity_labels(self) -> dict[str, list[str]]:
        """What each row of `similarity_tables` stands for."""
        return self.similarity.labels(self.catalog) if self.similarity is not None else {}

    def history_tokens(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, "batch"]
    ) -> Int[Tensor, "batch token"]:
        """All codes of the history as tokens, the end token, then padding."""
        tokens = self.catalog.tokens[items.clamp(min=0)].flatten(1)
        tokens = F.pad(tokens, (0, 1), value=PAD_TOKEN)
        end = (lengths * self.catalog.num_levels)[:, None]
        place = torch.arange(tokens.shape[1], device=items.device)
        return tokens.masked_fill(place > end, PAD_TOKEN).masked_fill(place == end, EOS_TOKEN)

    def _encode(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch place dim"], Int[Tensor, "batch 1"]]:
        """The encoded tokens and the place of each row's end token."""
        tokens = self.history_tokens(items, lengths)
        last_place = (lengths * self.catalog.num_levels)[:, None]
        is_used = torch.arange(tokens.shape[1], device=items.device) <= last_place
        layout = Layout(is_used)
        vectors = self.code_embedding(layout.collect(tokens))
        added = self.position_bias(tokens.shape[1]) + hide(is_used[:, None, None], vectors)
        encoded = self.encoder(vectors, layout, self._bias(added, items))
        return layout.spread(encoded), last_place

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

    def _write(
        self,
        target: Int[Tensor, "entry"],
        places: Float[Tensor, "batch place dim"],
        last_place: Int[Tensor, "_ _"],
        layout: Layout,
    ) -> Float[Tensor, "entry level dim"]:
        embedding = self.code_embedding
        inputs = embedding(embedding.shifted(self.catalog.tokens[target]))
        hidden: Tensor = self.decoder(inputs, places, last_place, layout)
        return hidden
