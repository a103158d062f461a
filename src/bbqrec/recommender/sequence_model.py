"""What both forms of the sequence model share: they differ in how they read a history."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.code_decoder import CodeDecoder
from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.code_search import DecoderSession
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.encoder import Encoder, EncoderLayer
from bbqrec.recommender.light_decoder import LightDecoder, LightSession
from bbqrec.recommender.plain_layer import PlainLayer
from bbqrec.recommender.similarity import SimilarityBias
from bbqrec.recommender.tables import Catalog, ItemTables
from bbqrec.recommender.transformer import Layout, RelativePositionBias
from bbqrec.recommender.tree_decoder import TreeDecoder
from bbqrec.recommender.tree_walk import TreeSession


class Encoded(NamedTuple):
    """A batch of histories as the decoder sees them.

    Args:
        last_place: (batch or 1, query or 1): the last place that each query may look at.
    """

    places: Float[Tensor, "batch place dim"]
    last_place: Int[Tensor, "_ _"]


class SequenceModel(nn.Module):
    """Reads histories of items and writes the next item's semantic ID.

    Histories are left-aligned, oldest item first, with -1 in unused places and at most
    `max_history` items; `bbqrec.ranking.Histories.latest` makes them. A length may be 0.
    """

    decoder: CodeDecoder | LightDecoder | TreeDecoder

    def __init__(
        self,
        config: RecommenderConfig,
        tables: ItemTables,
        edges: Mapping[str, Tensor],
        *,
        bidirectional: bool,
        as_t5: bool,
    ) -> None:
        super().__init__()
        self.max_history = config.max_history
        self.catalog = Catalog(tables, edges)
        self.code_embedding = CodeEmbedding(config, self.catalog, as_t5=as_t5)
        self.position_bias = RelativePositionBias(config, bidirectional=bidirectional)
        self.similarity = SimilarityBias(config, self.catalog) if edges else None
        layer = PlainLayer if config.encoder_layer == "plain" else EncoderLayer
        self.encoder = Encoder(config, layer, drops_output=config.form == "paper")

    @abstractmethod
    def read(self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]) -> Encoded:
        """Encode the histories."""

    def write(
        self, items: Int[Tensor, " entry"], encoded: Encoded, layout: Layout
    ) -> Float[Tensor, "entry level dim"]:
        """The decoder's output for each level of `items`, the codes before it given.

        For decoders that write tokens; a `TreeDecoder` compares.
        """
        assert not isinstance(self.decoder, TreeDecoder)
        embedding = self.code_embedding
        inputs = embedding(embedding.shifted(self.catalog.tokens[items]))
        hidden: Tensor = self.decoder(inputs, encoded.places, encoded.last_place, layout)
        return hidden

    def code_targets(self, items: Int[Tensor, " entry"]) -> Int[Tensor, "entry level"]:
        """The class of each level of `items` among the last axis of the code logits."""
        return self.code_embedding.targets(self.catalog.tokens[items])

    def begin(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> DecoderSession | LightSession | TreeSession:
        """Read the histories once and start a search for the item that follows each."""
        assert not isinstance(self.decoder, TreeDecoder)
        encoded = self.read(items, lengths)
        last_place = encoded.last_place[:, 0]
        if isinstance(self.decoder, LightDecoder):
            return LightSession(self.decoder, self.code_embedding, encoded.places, last_place)
        return DecoderSession(self.decoder, self.code_embedding, encoded.places, last_place)

    def score_items(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
        candidates: Int[Tensor, "batch candidate"],
    ) -> Float[Tensor, "batch candidate"]:
        """Exact log-probability of each candidate's whole semantic ID."""
        layout = Layout.full(*candidates.shape)
        target = layout.collect(candidates)
        hidden = self.write(target, self.read(items, lengths), layout)
        return layout.spread(self.code_embedding.score(hidden, self.catalog.tokens[target]))

    def learned_repeats(self) -> dict[str, float]:
        """What a repeat adds to the dense score, by events ago; empty without it."""
        return {}

    def learned_neighbors(self) -> dict[str, Float[Tensor, "age bucket"]]:
        """What neighbors of latest items gain in the dense score, by kind of likeness."""
        return {}

    def similarity_tables(self) -> dict[str, Float[Tensor, "bucket head"]]:
        """The learned bias per comparison, bucket and head; empty without similarity."""
        return dict(self.similarity.tables) if self.similarity is not None else {}

    def similarity_labels(self) -> dict[str, list[str]]:
        """What each row of `similarity_tables` stands for."""
        return self.similarity.labels(self.catalog) if self.similarity is not None else {}
