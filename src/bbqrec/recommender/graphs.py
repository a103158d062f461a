"""A trained model cut into graphs of plain tensors, as programs without this package call it.

Every graph takes histories as one padded table, oldest item first and -1 in unused places at the
end, and reads the model's window out of it. All places are computed alike, padding too, so that no
shape depends on what is in a tensor. Tables of items are baked in as the numbers they come to.
"""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.code_decoder import CodeDecoder, KeysValues
from bbqrec.recommender.item_vectors import unit
from bbqrec.recommender.light_decoder import LightDecoder, state_at
from bbqrec.recommender.neighbor_bias import num_age_buckets
from bbqrec.recommender.one_pass import MAX_HAD, OnePassRecommender
from bbqrec.recommender.repeat_bias import latest_first, repeat_values
from bbqrec.recommender.sequence_model import SequenceModel
from bbqrec.recommender.tables import NamedBuffers
from bbqrec.recommender.transformer import AttentionBias, Count, Layout, hide
from bbqrec.recommender.tree_decoder import TreeDecoder
from bbqrec.recommender.tree_walk import ScoredWalk, TreeWalk, Walk


class Graph(NamedTuple):
    """One graph: tensors in the order of `inputs` in, those of `outputs` out.

    Args:
        inputs, outputs: the axes of each tensor by name; an axis given as a number has that size.
        examples: inputs to trace it with.
        largest: for axes that end somewhere, where.
    """

    module: nn.Module
    inputs: Mapping[str, tuple[str | int, ...]]
    outputs: Mapping[str, tuple[str | int, ...]]
    examples: tuple[Tensor, ...]
    largest: Mapping[str, int] = MappingProxyType({})

    def dynamic_axes(self) -> list[dict[int, str]]:
        """For each input the axes that may have any size from 1, by number."""
        return [
            {number: axis for number, axis in enumerate(axes) if isinstance(axis, str)}
            for axes in self.inputs.values()
        ]


class _Rows(nn.Module):
    """In the place of `ItemVectors`: the vectors that it would compute."""

    def __init__(self, table: Float[Tensor, "item dim"]) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, items: Tensor, *unread: object) -> Tensor:
        return self.get_buffer("table")[items]


def graphs(model: SequenceModel, *, new_item_boost: float = 0.0) -> dict[str, Graph]:
    """The graphs of a model, by name; the model itself is left as it is.

    `user_vector` and `scores` are there where the model has a dense score, `encoder` and
    `decoder_step` always.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    some = torch.zeros((2, 3), dtype=torch.int64)
    if model.similarity is not None:
        model.similarity.buckets(some, model.catalog)  # tables of all pairs become part of graphs
    reads = {"history": ("batch", "position")}
    result = {}
    with torch.no_grad():
        if isinstance(model, OnePassRecommender):
            output_table = model.output_table()
            vectors = UserVector(model)
            num_items, width = output_table.shape
            scores = Scores(vectors, model, output_table, new_item_boost)
            result["scores"] = Graph(scores, reads, {"scores": ("batch", num_items)}, (some,))
            outputs = {"user_vector": ("batch", width)}
            result["user_vector"] = Graph(vectors, reads, outputs, (some,))
        encoder: SearchEncoder | WalkScores = SearchEncoder(model)
        if isinstance(model, OnePassRecommender) and model.walks_by_items:
            assert isinstance(model.decoder, TreeDecoder)
            encoder = WalkScores(model, model.decoder)
        read = encoder(some)
    memory = {
        name: ("batch", *tensor.shape[1:])
        for name, tensor in zip(encoder.outputs, read, strict=True)
    }
    result["encoder"] = Graph(encoder, reads, memory, (some,))
    step: nn.Module
    if isinstance(model, OnePassRecommender) and isinstance(model.decoder, TreeDecoder):
        step = (ScoredStep if model.walks_by_items else TreeStep)(model, model.decoder)
    elif isinstance(model.decoder, LightDecoder):
        step = LightStep(model)
    else:
        step = DecoderStep(model)
    levels = model.catalog.num_levels
    beams = torch.zeros((2, 3, min(2, levels)), dtype=torch.int64)
    result["decoder_step"] = Graph(
        step,
        {**memory, "tokens": ("batch", "beam", "step" if levels > 1 else 1)},
        {"log_probabilities": ("batch", "beam", model.catalog.num_tokens)},
        (*read, beams),
        {"step": levels},
    )
    return result


def dense_tables(model: OnePassRecommender, *, new_item_boost: float = 0.0) -> dict[str, Tensor]:
    """What the dense score adds to the product of user vector and item vector.

    item_bias[i] is added for every item i; then, of these, either part may be absent:
    repeat_by_age[a] is added for an item that the user had a events ago, the last entry for all
    longer ago. For others: neighbor_gain[kind, a, neighbor_buckets[kind, j, n]] for each item
    neighbor_items[kind, j, n], where j is the item had a + 1 events ago.
    """
    is_unseen, biases = model.catalog.is_unseen, model.dense_biases(new_item_boost)
    tables = {"item_bias": is_unseen * biases.get("unseen", torch.zeros(())).detach()}
    if model.repeat_bias is not None:
        ages = torch.arange(1, 2 ** (len(model.repeat_bias) - 1) + 1)
        values = repeat_values(model.repeat_bias.detach(), ages)
        tables["repeat_by_age"] = F.pad(values, (1, 0))
    if model.neighbor_bias is not None:
        ages = torch.arange(1, model.num_recent + 1)
        bucket = torch.tensor([age.bit_length() - 1 for age in ages.tolist()])
        assert int(bucket[-1]) < num_age_buckets(model.num_recent)
        bias = F.pad(model.neighbor_bias.detach(), (0, 1))  # the last bucket is nothing
        # Buckets go on where those of unseen items have a table of their own.
        tables["neighbor_gain"] = bias[:, :, bucket].transpose(1, 2).flatten(2)
        # Kinds have as many neighbors as they found: fill up with item 0, which gains nothing.
        neighbors = list(model.catalog.neighbors().values())
        width = max(x.items.shape[2] for x in neighbors)
        nothing = bias.shape[3] - 1
        shift = bias.shape[3] * (bias.shape[1] - 1)
        for name, fill in (("items", 0), ("buckets", nothing)):
            parts = [getattr(x, name)[0] for x in neighbors]
            padded = [F.pad(x, (0, width - x.shape[1]), value=fill) for x in parts]
            tables[f"neighbor_{name}"] = torch.stack(padded)
        is_new = is_unseen[tables["neighbor_items"]]
        tables["neighbor_buckets"] = tables["neighbor_buckets"].int() + shift * is_new
    return tables


class UserVector(nn.Module):
    """A history -> the vector that item vectors are multiplied with."""

    def __init__(self, model: OnePassRecommender) -> None:
        super().__init__()
        self.model = _reader(model)
        del self.model.decoder

    def forward(self, history: Int[Tensor, "batch position"]) -> Float[Tensor, "batch dim"]:
        items, lengths = _window(history, self.model.max_history)
        vectors: Tensor = self.model.states_after(items, lengths)
        return vectors


class Scores(nn.Module):
    """A history -> the dense score, a log-probability, of every item."""

    def __init__(
        self,
        user_vector: UserVector,
        model: OnePassRecommender,
        output_table: Tensor,
        new_item_boost: float,
    ) -> None:
        super().__init__()
        self.user_vector = user_vector
        self.register_buffer("output_table", output_table)
        self.additions = _Additions(model, new_item_boost)

    def forward(self, history: Int[Tensor, "batch position"]) -> Float[Tensor, "batch item"]:
        product: Tensor = self.user_vector(history) @ self.get_buffer("output_table").T
        scores: Tensor = self.additions(product, history)
        return scores


class _Additions(nn.Module):
    """Scores of all items and a history -> log-probabilities, with what `dense_tables` add."""

    def __init__(self, model: OnePassRecommender, new_item_boost: float = 0.0) -> None:
        super().__init__()
        self.tables = NamedBuffers(dense_tables(model, new_item_boost=new_item_boost))
        self.names = self.tables.names()

    def forward(
        self, scores: Float[Tensor, "batch item"], history: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch item"]:
        logits = own = scores + self.tables["item_bias"]
        if "neighbor_gain" in self.names:
            logits = self._with_neighbors(logits, history)
        if "repeat_by_age" in self.names:
            logits = self._with_repeats(logits, own, history)
        return logits.log_softmax(-1)

    def _with_neighbors(self, logits: Tensor, history: Tensor) -> Tensor:
        gains = self.tables["neighbor_gain"]
        kinds, num_recent, width = gains.shape
        age = torch.arange(num_recent)
        # Padded in front, so that a place before the first item holds -1: the row of nothing.
        place = num_recent - 1 - age + (history >= 0).sum(1, keepdim=True)
        recent = F.pad(history, (num_recent, 0), value=-1).gather(1, place)  # (batch, age)
        row = recent.remainder(self.tables["neighbor_items"].shape[1])
        for kind in range(kinds):
            items = self.tables["neighbor_items"][kind][row].long()  # (batch, age, neighbor)
            cell = self.tables["neighbor_buckets"][kind][row].long() + width * age[:, None]
            gained = gains[kind].flatten()[cell]
            logits = logits.scatter_add(1, items.flatten(1), gained.flatten(1))
        return logits

    def _with_repeats(self, logits: Tensor, own: Tensor, history: Tensor) -> Tensor:
        values = self.tables["repeat_by_age"]
        is_used = history >= 0
        num_items = logits.shape[1]
        item = torch.where(is_used, history, num_items)  # what is no item goes to one more column
        end = (torch.arange(history.shape[1]) + 1).expand_as(history)
        nothing = history.new_zeros(history.shape[0], num_items + 1)
        had = nothing.scatter_reduce(1, item, end, "amax")[:, :num_items]
        age = (is_used.sum(1, keepdim=True) + 1 - had).clamp(max=values.shape[0] - 1)
        return torch.where(had > 0, own + values[age], logits)


class WalkScores(nn.Module):
    """As `SearchEncoder`, where a walk scores all items: a history -> their log-probabilities."""

    outputs = ("item_scores",)

    def __init__(self, model: OnePassRecommender, decoder: TreeDecoder) -> None:
        super().__init__()
        self.user_vector = UserVector(model)
        self.decoder = decoder
        vectors = decoder.vectors(unit(model.item_table()))
        self.vectors = NamedBuffers({f"level_{n}": x for n, x in enumerate(vectors)})
        self.additions = _Additions(model)

    def forward(self, history: Int[Tensor, "batch position"]) -> tuple[Tensor]:
        vectors = [self.vectors[f"level_{n}"] for n in range(len(self.decoder.levels))]
        compared = self.decoder.compare(self.user_vector(history), vectors)
        items, _ = _window(history, self.user_vector.model.max_history)
        return (self.additions(self.decoder.item_log_probabilities(compared), items),)


class SearchEncoder(nn.Module):
    """A history -> what the steps of a search for its semantic ID look at."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = _reader(model)
        self.outputs: tuple[str, ...] = ("state",)
        if isinstance(model.decoder, CodeDecoder):
            self.outputs = ("keys", "values", "last_place")
        elif isinstance(model.decoder, TreeDecoder):
            self.outputs = ("state", "had")

    def forward(self, history: Int[Tensor, "batch position"]) -> tuple[Tensor, ...]:
        items, lengths = _window(history, self.model.max_history)
        if isinstance(self.model.decoder, TreeDecoder):
            assert isinstance(self.model, OnePassRecommender)
            had, _ = latest_first(items, lengths, MAX_HAD)
            return self.model.states_after(items, lengths), had
        places, last_place = self.model.read(items, lengths)
        if isinstance(self.model.decoder, LightDecoder):
            return (state_at(places, last_place)[:, 0],)
        assert isinstance(self.model.decoder, CodeDecoder)
        memories = self.model.decoder.remember(places)
        is_unread = torch.arange(places.shape[1]) > last_place  # (batch, place)
        keys, values = (
            torch.stack(parts, 1).masked_fill(is_unread[:, None, None, :, None], 0)
            for parts in zip(*memories, strict=True)
        )
        return keys, values, last_place[:, 0]


class DecoderStep(nn.Module):
    """Beams of tokens -> log-probabilities of each beam's next token.

    The few tokens of a semantic ID are decoded anew at each step: all that a caller carries from
    step to step is the beams themselves.
    """

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        assert isinstance(model.decoder, CodeDecoder)
        self.decoder = model.decoder
        self.scorer = _NextToken(model)

    def forward(
        self,
        keys: Float[Tensor, "batch layer head place head_dim"],
        values: Float[Tensor, "batch layer head place head_dim"],
        last_place: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch beam step"],
    ) -> Float[Tensor, "batch beam token"]:
        batch, beams, steps = tokens.shape
        place = torch.arange(keys.shape[3])
        is_visible = (place <= last_place[:, None])[:, None, None]  # (batch, head, query, place)
        bias = AttentionBias(hide(is_visible, keys))
        memories = [KeysValues(*x) for x in zip(keys.unbind(1), values.unbind(1), strict=True)]
        inputs = self.scorer.embedding(tokens.flatten(0, 1))  # (entry, step, dim)
        hidden = self.decoder.write(inputs, memories, bias, Layout.full(batch, beams))
        answer: Tensor = self.scorer(hidden[:, -1].view(batch, beams, -1), steps)
        return answer


class LightStep(nn.Module):
    """As `DecoderStep`, for the light decoder: a sum of vectors through one level's network."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        assert isinstance(model.decoder, LightDecoder)
        self.decoder = model.decoder
        self.scorer = _NextToken(model)

    def forward(
        self, state: Float[Tensor, "batch dim"], tokens: Int[Tensor, "batch beam step"]
    ) -> Float[Tensor, "batch beam token"]:
        prefix = state[:, None] + self.scorer.embedding(tokens).sum(2)
        every_level = [self.decoder.step(prefix, n) for n in range(len(self.decoder.levels))]
        hidden = torch.stack(every_level)[tokens.shape[2] - 1]
        answer: Tensor = self.scorer(hidden, tokens.shape[2])
        return answer


class TreeStep(nn.Module):
    """As `DecoderStep`, for the tree decoder: beams walk down from the root anew at each step."""

    def __init__(self, model: OnePassRecommender, decoder: TreeDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.offsets = model.code_embedding.offsets
        self.num_tokens = model.catalog.num_tokens
        vectors = decoder.vectors(unit(model.item_table()))
        self.vectors = NamedBuffers({f"level_{n}": x for n, x in enumerate(vectors)})
        bias = torch.zeros(1) if model.repeat_bias is None else model.repeat_bias.detach()
        self.register_buffer("repeat_bias", bias)

    def forward(
        self,
        state: Float[Tensor, "batch dim"],
        had: Int[Tensor, "batch had"],
        tokens: Int[Tensor, "batch beam step"],
    ) -> Float[Tensor, "batch beam token"]:
        values = repeat_values(self.get_buffer("repeat_bias"), torch.arange(1, had.shape[1] + 1))
        vectors = [self.vectors[f"level_{n}"] for n in range(len(self.offsets))]
        compared = self.decoder.compare(state, vectors)
        factors = self.decoder.factors(compared, had, values.expand(had.shape))
        return self._walked(tokens, TreeWalk(self.decoder, compared, factors))

    def _walked(
        self, tokens: Int[Tensor, "batch beam step"], walk: Walk
    ) -> Float[Tensor, "batch beam token"]:
        # All levels are walked whatever the step; what lies past it is not returned.
        codes = F.pad(tokens, (0, len(self.offsets)))
        prefixes, by_level = torch.zeros_like(tokens[:, :, 0]), []
        for number, offset in enumerate(self.offsets):
            if number:
                last = self.decoder.level(number - 1)
                prefixes = last.follow(prefixes, codes[:, :, number] - self.offsets[number - 1])
            after = self.num_tokens - offset - self.decoder.level(number).num_codes
            found = walk.after(number, prefixes)
            by_level.append(F.pad(found, (offset, after), value=-torch.inf))
        return torch.stack(by_level)[tokens.shape[2] - 1]


class ScoredStep(TreeStep):
    """As `TreeStep`, by the log-probabilities of all items."""

    def forward(  # type: ignore[override]
        self, item_scores: Float[Tensor, "batch item"], tokens: Int[Tensor, "batch beam step"]
    ) -> Float[Tensor, "batch beam token"]:
        return self._walked(tokens, ScoredWalk(self.decoder, item_scores))


class _NextToken(nn.Module):
    """The decoder's output -> log-probabilities of tokens, -inf for those of other levels."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.embedding = model.code_embedding
        is_of_level = torch.zeros(model.catalog.num_levels, model.catalog.num_tokens).bool()
        for level, (start, size) in enumerate(
            zip(self.embedding.offsets, self.embedding.sizes, strict=True)
        ):
            is_of_level[level, start : start + size] = True
        self.register_buffer("hidden_tokens", ~is_of_level)

    def forward(
        self, hidden: Float[Tensor, "batch beam dim"], num_steps: Count
    ) -> Float[Tensor, "batch beam token"]:
        logits = hidden * self.embedding.output_scale @ self.embedding.weight.T
        is_hidden = self.get_buffer("hidden_tokens")[num_steps - 1]
        if self.embedding.normalize == "level":
            return logits.masked_fill(is_hidden, -torch.inf).log_softmax(-1)
        return logits.log_softmax(-1).masked_fill(is_hidden, -torch.inf)


def _window(
    history: Int[Tensor, "batch position"], length: int
) -> tuple[Int[Tensor, "batch window"], Int[Tensor, " batch"]]:
    """As `Histories.latest`, but `length` places wide always."""
    lengths = (history >= 0).sum(1)
    kept = lengths.clamp(max=length)
    place = (lengths - kept)[:, None] + torch.arange(length)
    return F.pad(history, (0, length), value=-1).gather(1, place), kept


M = TypeVar("M", bound=SequenceModel)


def _reader(model: M) -> M:
    """A copy of the part that reads histories, with the vectors of items in place of what makes
    them, and of the catalog only what likeness is looked up in."""
    model = copy.deepcopy(model)
    if isinstance(model, OnePassRecommender):
        model.item_vectors = _Rows(model.item_table())  # type: ignore[assignment]
        model.neighbor_bias = model.repeat_bias = None
    catalog = model.catalog
    unread = ["content", "is_present", "neighbor_items", "neighbor_buckets", "neighbor_edges"]
    if model.similarity is None or model.similarity.remember_pairs:
        unread += ["similarity", "similarity_present"]
    for name in unread:
        setattr(catalog, name, NamedBuffers({}))
    return model
