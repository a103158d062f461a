"""The default form: one token per item of the history, predictions at every position at once.

The encoder is causal, so its output at a position is the state of a user who stopped there. Both
answers start from it: the next item's codes, written by a decoder that sees the states up to that
position or found on a walk down the tree of semantic IDs, and the dense score, the cosine between
the state and every item's vector.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.ranking import Histories
from bbqrec.recommender.code_decoder import CodeDecoder
from bbqrec.recommender.code_search import DecoderSession
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.dense_score import Evidence, additions, dense_logits, sum_up
from bbqrec.recommender.fixed_maps import Kept, is_reading
from bbqrec.recommender.item_vectors import ItemVectors, unit
from bbqrec.recommender.light_decoder import LightDecoder, LightSession
from bbqrec.recommender.neighbor_bias import num_age_buckets, recent_items
from bbqrec.recommender.repeat_bias import (
    AGE_LABELS,
    EntryCounts,
    find_repeats,
    latest_first,
    repeat_values,
)
from bbqrec.recommender.sequence_model import Encoded, SequenceModel
from bbqrec.recommender.tables import OF_TRAINING, ItemTables
from bbqrec.recommender.transformer import AttentionBias, Count, Layout, hide
from bbqrec.recommender.tree_decoder import (
    Compared,
    Factors,
    TreeDecoder,
)
from bbqrec.recommender.tree_walk import ScoredWalk, TreeSession, TreeWalk

# Knows states after histories that were encoded before, and encodes others (`serving.encoded`).
Recall = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
MAX_HAD = 50  # latest items of a history that a walk down the tree knows as such


class OnePassOutput(NamedTuple):
    """One entry for every position that has a target, row by row.

    `code_logits` is None when only the dense score was asked for, or where a walk scores all items;
    `user_states` are what `dense_logits` compares with the output table; `places` of the items of
    row `rows` come before the target.
    """

    code_logits: Float[Tensor, "entry level token_or_code"] | None
    user_states: Float[Tensor, "entry dim"]
    targets: Int[Tensor, " entry"]
    rows: Int[Tensor, " entry"]
    places: Int[Tensor, " entry"]


class ItemRows(NamedTuple):
    """A row for every item of the catalog, and for every prefix of their semantic IDs."""

    vectors: Float[Tensor, "item dim"]
    output: Float[Tensor, "item dim"]
    prefixes: list[Float[Tensor, "_ dim"]]


class OnePassRecommender(SequenceModel):
    """Causal item-level encoder, code decoder at every position, and a dense score."""

    def __init__(
        self, config: RecommenderConfig, tables: ItemTables, edges: Mapping[str, Tensor]
    ) -> None:
        super().__init__(config, tables, edges, bidirectional=False, as_t5=False)
        width = config.d_model
        self.item_vectors = ItemVectors(config, self.catalog)
        self.is_cosine = config.dense_score == "cosine"
        # Before the first item stands a learned vector: an empty history is one place, not none.
        self.start = nn.Parameter(torch.randn(width) * width**-0.5)
        if config.decoder == "tree":
            self.decoder = TreeDecoder(config, self.catalog)
        elif config.decoder == "light":
            self.decoder = LightDecoder(config, self.catalog.num_levels)
        else:
            self.decoder = CodeDecoder(config)
        self.user_projection = _user_projection(config)
        ages = torch.zeros(len(AGE_LABELS))
        self.repeat_bias = nn.Parameter(ages) if config.repeat_bias else None
        self.item_dropout = config.item_dropout if self.item_vectors.projections else 0.0
        self.unseen_bias = nn.Parameter(torch.zeros(())) if self.item_vectors.projections else None
        self.num_recent = config.neighbors.num_recent
        cells = (num_age_buckets(self.num_recent), config.neighbors.num_buckets)
        shape = (len(tables.neighbors), 2 if self.item_dropout else 1, *cells)
        self.neighbor_bias = nn.Parameter(torch.zeros(shape)) if tables.neighbors else None
        self.kept = Kept()
        self.recall: Recall | None = None
        self._remembered: tuple[object, ItemRows] | None = None
        log_temperature = torch.tensor(config.temperature).log()
        self.log_temperature = nn.Parameter(log_temperature, requires_grad=config.learn_temperature)

    def forward(
        self,
        items: Int[Tensor, "batch position"],
        targets: Int[Tensor, "batch position"],
        *,
        with_codes: bool = True,
        start_targets: Int[Tensor, " batch"] | None = None,
        is_unseen: Bool[Tensor, " item"] | None = None,
        num_targets: int | None = None,
    ) -> OnePassOutput:
        """Predict at every position that has a target.

        Args:
            items: oldest first, left-aligned, -1 in unused places.
            targets: the item that followed each position; -1 where none is to be predicted.
            with_codes: False leaves out the decoder, for training on the dense score alone.
            start_targets: the item that an empty history should predict, or -1.
            is_unseen: in training, what `draw_unseen` gave.
            num_targets: where every item has a target and the start has none, how many that is:
                a GPU must stop to count them.
        """
        places = self._encode(items, None, is_unseen, num_items=num_targets)
        if start_targets is None:
            start_targets = targets.new_full((len(targets),), -1)
        wanted = torch.cat([start_targets[:, None], targets], dim=1)  # (batch, place)
        layout = Layout(wanted >= 0, num_targets)
        target = layout.collect(wanted)
        every_row, every_place = (torch.arange(n, device=items.device) for n in wanted.shape)
        row = layout.collect(every_row[:, None].expand(wanted.shape))
        place = layout.collect(every_place.expand(wanted.shape))
        states, logits = self._projected(layout.collect(places)), None
        if self.walks_by_items:
            with_codes = False
        if with_codes and isinstance(self.decoder, TreeDecoder):
            compared = self.decoder.compare(states, self.prefix_vectors(self.decoder, is_unseen))
            factors = self._repeat_factors(self.decoder, compared, items[row], place)
            logits = self.decoder.log_probabilities(compared, target[:, None], factors)[:, 0]
        elif with_codes:
            hidden = self.write(target, Encoded(places, every_place[None]), layout)
            logits = self.code_embedding.logits(hidden)
        return OnePassOutput(logits, states, target, row, place)

    def draw_unseen(self) -> Bool[Tensor, " item"]:
        """Items that one training step treats as unseen: those that are, and some at random."""
        is_unseen = self.catalog.is_unseen
        if self.item_dropout == 0:
            return is_unseen
        chance = torch.rand(is_unseen.shape, device=is_unseen.device)
        return is_unseen | (chance < self.item_dropout)

    def output_table(
        self, is_unseen: Bool[Tensor, " item"] | None = None
    ) -> Float[Tensor, "item dim"]:
        """What user states are compared with: unit item vectors, divided by the temperature.

        For the dot product the item vectors as they are.
        """
        if self._is_remembered(is_unseen):
            return self._remember().output
        return self._compared(self.item_table(is_unseen))

    def _compared(self, vectors: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
        return unit(vectors) / self.log_temperature.exp() if self.is_cosine else vectors

    def user_states(self, histories: Histories) -> Float[Tensor, "batch dim"]:
        """What `output_table` is compared with after each history; of it the latest are read."""
        return self.states_after(*histories.latest(self.max_history))

    def states_after(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """As `user_states`, of what is read alone: left-aligned, -1 in unused places."""
        if self.recall is None or not is_reading(self):
            return self._states_after(items, lengths)
        return self.recall(items, lambda rows: self._states_after(items[rows], lengths[rows]))

    def _states_after(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        places = self._encode(items, lengths)
        # In full precision always: in half of it items would tie.
        with torch.autocast(places.device.type, enabled=False):
            return self._projected(places.float())

    def _projected(self, places: Float[Tensor, "entry dim"]) -> Float[Tensor, "entry dim"]:
        states: Tensor = self.user_projection(places)
        return unit(states) if self.is_cosine else states

    def item_table(
        self, is_unseen: Bool[Tensor, " item"] | None = None
    ) -> Float[Tensor, "item dim"]:
        """The vector of every item of the catalog."""
        return self._vectors(slice(None), is_unseen)

    def _vectors(
        self, items: Int[Tensor, " entry"] | slice, is_unseen: Bool[Tensor, " item"] | None
    ) -> Float[Tensor, "entry dim"]:
        is_unseen = self.catalog.is_unseen if is_unseen is None else is_unseen
        embedding = self.code_embedding.weight
        vectors: Tensor = self.item_vectors(items, self.catalog, embedding, is_unseen)
        return vectors

    def learned_repeats(self) -> dict[str, float]:
        """See `SequenceModel.learned_repeats`."""
        bias = self.repeat_bias
        return {} if bias is None else dict(zip(AGE_LABELS, bias.tolist(), strict=True))

    def learned_neighbors(self) -> dict[str, Float[Tensor, "age bucket"]]:
        """See `SequenceModel.learned_neighbors`."""
        if self.neighbor_bias is None:
            return {}
        learned: dict[str, Tensor] = {}
        for kind, table in zip(self.catalog.neighbors(), self.neighbor_bias.data, strict=True):
            learned[kind] = table[0].clone()
            if kind not in OF_TRAINING and len(table) > 1:
                learned[f"{kind}, unseen items"] = table[1].clone()
        return learned

    def train(self, mode: bool = True) -> "OnePassRecommender":
        """As `nn.Module.train`."""
        if mode:
            self._remembered = None
        return super().train(mode)

    def prefix_vectors(
        self, decoder: TreeDecoder, is_unseen: Bool[Tensor, " item"] | None = None
    ) -> list[Float[Tensor, "_ dim"]]:
        """See `TreeDecoder.vectors`; remembered likewise."""
        if self._is_remembered(is_unseen):
            return self._remember().prefixes
        return decoder.vectors(unit(self.item_table(is_unseen)))

    @property
    def walks_by_items(self) -> bool:
        """Whether a walk down the tree knows what neighbors gain: then all items are scored."""
        return isinstance(self.decoder, TreeDecoder) and self.neighbor_bias is not None

    def _evidence_of(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> Evidence:
        """`evidence` after histories of which these items, all that are read, are known."""
        histories = Histories(items[items >= 0], F.pad(lengths.cumsum(0), (1, 0)))
        return self.evidence(histories, torch.arange(len(items), device=items.device), lengths)

    def _repeat_factors(
        self,
        decoder: TreeDecoder,
        compared: list[Compared],
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
    ) -> list[Factors] | None:
        """How much more or less likely the latest items of the histories are as repeats."""
        if self.repeat_bias is None:
            return None
        had, ages = latest_first(items, lengths, MAX_HAD)
        values = repeat_values(self.repeat_bias, ages)
        return decoder.factors(compared, had, values.expand(had.shape))

    def _is_remembered(self, is_unseen: Bool[Tensor, " item"] | None) -> bool:
        # What a graph is made of has rows in the place of item vectors: nothing to remember.
        has_parts = isinstance(self.item_vectors, ItemVectors)
        return is_unseen is None and has_parts and is_reading(self)

    def _remember(self) -> "ItemRows":
        """Outside training made once, for fast answers, and anew where what makes it changed."""
        decoder = self.decoder if isinstance(self.decoder, TreeDecoder) else None
        # Loading weights changes versions; a fused optimizer does not, but it follows `train()`.
        parts: list[nn.Module] = [self.item_vectors, *([] if decoder is None else [decoder])]
        sources = [self.code_embedding.weight, self.log_temperature, *self.catalog.buffers()]
        sources += [parameter for part in parts for parameter in part.parameters()]
        state = tuple((x.data_ptr(), x._version) for x in sources)
        if self._remembered is None or self._remembered[0] != state:
            vectors = self.item_table()
            prefixes = [] if decoder is None else decoder.vectors(unit(vectors))
            self._remembered = state, ItemRows(vectors, self._compared(vectors), prefixes)
        return self._remembered[1]

    def read(self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]) -> Encoded:
        """Encode the histories; place p is the state after p items, or the last is the only one."""
        if isinstance(self.decoder, CodeDecoder):
            return Encoded(self._encode(items, None), lengths[:, None])
        return Encoded(self._encode(items, lengths)[:, None], torch.zeros_like(lengths)[:, None])

    def begin(
        self, items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"]
    ) -> DecoderSession | LightSession | TreeSession:
        """See `SequenceModel.begin`."""
        if not isinstance(self.decoder, TreeDecoder):
            return super().begin(items, lengths)
        return TreeSession(self.decoder, self._walk(self.decoder, items, lengths), len(items))

    def _walk(
        self,
        decoder: TreeDecoder,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
    ) -> TreeWalk | ScoredWalk:
        states, vectors = self.states_after(items, lengths), self.prefix_vectors(decoder)
        compared = decoder.compare(states, vectors)
        if self.walks_by_items:
            scores = decoder.item_log_probabilities(compared)
            added = additions(self.dense_biases(), self._evidence_of(items, lengths))
            return ScoredWalk(decoder, sum_up(scores, added).log_softmax(-1))
        factors = self._repeat_factors(decoder, compared, items, lengths)
        return TreeWalk(decoder, compared, factors)

    def score_items(
        self,
        items: Int[Tensor, "batch position"],
        lengths: Int[Tensor, " batch"],
        candidates: Int[Tensor, "batch candidate"],
    ) -> Float[Tensor, "batch candidate"]:
        """See `SequenceModel.score_items`."""
        if not isinstance(self.decoder, TreeDecoder):
            return super().score_items(items, lengths, candidates)
        if self.walks_by_items:
            scores = self._walk(self.decoder, items, lengths).every_item()
            return scores.gather(1, candidates.clone())  # autograd cannot keep what a search found
        states, vectors = self.states_after(items, lengths), self.prefix_vectors(self.decoder)
        compared = self.decoder.compare(states, vectors)
        factors = self._repeat_factors(self.decoder, compared, items, lengths)
        scores = self.decoder.log_probabilities(compared, candidates, factors)
        return scores.gather(-1, self.catalog.codes[candidates][..., None]).sum((2, 3))

    def code_targets(self, items: Int[Tensor, " entry"]) -> Int[Tensor, "entry level"]:
        """See `SequenceModel.code_targets`."""
        if isinstance(self.decoder, TreeDecoder):
            return self.catalog.codes[items]
        return super().code_targets(items)

    def dense_scores(
        self, histories: Histories, *, new_item_boost: float = 0.0
    ) -> Float[Tensor, "batch item"]:
        """Log-probability of every item under the dense score, see `DenseModel`.

        The latest `max_history` items are read; what was had before them still counts as had.
        """
        states = self.user_states(histories)
        every_row = torch.arange(histories.num_users, device=states.device)
        evidence = self.evidence(histories, every_row, histories.offsets.diff())
        with torch.autocast(states.device.type, enabled=False):
            table, biases = self.output_table(), self.dense_biases(new_item_boost)
            return dense_logits(states, table, biases, evidence).log_softmax(-1)

    def dense_biases(self, new_item_boost: float = 0.0) -> dict[str, Tensor]:
        """What `dense_logits` adds to the product of the vectors: learned, but for the boost."""
        unseen: Tensor | None = self.unseen_bias
        if new_item_boost:
            boost = self.log_temperature.new_tensor(new_item_boost)
            unseen = boost if unseen is None else unseen + boost
        tables = {"unseen": unseen, "repeat": self.repeat_bias, "neighbor": self.neighbor_bias}
        return {name: table for name, table in tables.items() if table is not None}

    def evidence(
        self,
        histories: Histories,
        rows: Int[Tensor, " entry"],
        places: Int[Tensor, " entry"],
        *,
        following: Int[Tensor, " occurrence"] | None = None,
        counts: EntryCounts | None = None,
    ) -> Evidence:
        """What those tables read for entries after `places` items of the histories `rows`.

        Args:
            following, counts: see `find_repeats`.
        """
        repeats = recent = None
        if self.repeat_bias is not None:
            repeats = find_repeats(histories, rows, places, following=following, counts=counts)
        if self.neighbor_bias is not None:
            longest = None if counts is None else counts.longest
            recent = recent_items(histories, rows, places, self.num_recent, longest=longest)
        return Evidence(self.catalog.is_unseen, repeats, recent, None, self.catalog.neighbors())

    def _encode(
        self,
        items: Int[Tensor, "batch position"],
        only: Int[Tensor, " batch"] | None,
        is_unseen: Bool[Tensor, " item"] | None = None,
        *,
        num_items: int | None = None,
    ) -> Float[Tensor, "batch *place dim"]:
        """Place 0 is the state before any item, place p the state after p items.

        Args:
            only: the one place of each row that is wanted; None for all places.
        """
        num_used = None if num_items is None else len(items) + num_items
        layout = Layout(F.pad(items >= 0, (1, 0), value=True), num_used)
        placed = F.pad(items, (1, 0), value=-1)
        item = layout.collect(placed)
        if self._is_remembered(is_unseen):
            vectors = F.embedding(item.clamp(min=0), self._remember().vectors)
        else:
            vectors = self._vectors(item.clamp(min=0), is_unseen)
        vectors = torch.where((item < 0)[:, None], self.start, vectors)
        vectors = vectors * self.code_embedding.input_scale
        # A single layer asks for that place alone.
        query = only if len(self.encoder.layers) == 1 else None
        encoded: Tensor = self.encoder(vectors, layout, self._bias(placed, query), only)
        return layout.spread(encoded) if only is None else encoded

    def _bias(
        self, items: Int[Tensor, "batch place"], query: Int[Tensor, " batch"] | None = None
    ) -> AttentionBias:
        length = items.shape[1]
        if is_reading(self) and length <= self.max_history + 1:
            # It depends on the distance alone, so that of fewer places is a part of it.
            longest = self.max_history + 1
            every = self.kept.get([self.position_bias], lambda _: self._place_bias(longest))
            added = every[:, :, :length, :length]
        else:
            added = self._place_bias(length)
        bias = AttentionBias(added)
        if query is not None:
            bias = bias.of_query(query)
        likeness = self.similarity
        return likeness.applied(bias.added, items, self.catalog, query=query) if likeness else bias

    def _place_bias(self, length: Count) -> Float[Tensor, "1 head place place"]:
        """Of the places' distance; minus infinity towards places that come later."""
        place = torch.arange(length, device=self.start.device)  # type: ignore[arg-type]
        bias: Tensor = self.position_bias(length)
        return bias + hide(place <= place[:, None], self.start)


def _user_projection(config: RecommenderConfig) -> nn.Module:
    """From the encoder's states to where item vectors are."""
    width = config.d_model
    if config.user_start == "fixed":
        return nn.Identity()
    projection = nn.Linear(width, width, bias=False)
    if config.user_start == "last_item":
        nn.init.eye_(projection.weight)
    else:
        nn.init.normal_(projection.weight, std=width**-0.5)
    return projection
