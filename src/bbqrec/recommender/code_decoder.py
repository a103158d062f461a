"""Writing a semantic ID code by code while looking at the encoded history (T5's decoder).

Teacher forcing and search run the same layers: in search, beams are queries against one memory
per user, and a beam finds its own past through the numbers of its ancestors.
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.transformer import (
    NORM_EPSILON,
    Attention,
    AttentionBias,
    Dropout,
    FeedForward,
    Layout,
    RelativePositionBias,
    hide,
)
from bbqrec.semantic_ids import PAD_TOKEN


class KeysValues(NamedTuple):
    """What one layer's attention reads: by head for the history, else a row for each beam."""

    keys: Float[Tensor, "*places dim"]
    values: Float[Tensor, "*places dim"]

    def rows(self, index: Int[Tensor, " row"]) -> "KeysValues":
        """Of beams' keys and values those with these numbers."""
        return KeysValues(self.keys.index_select(0, index), self.values.index_select(0, index))


class DecoderLayer(nn.Module):
    """Self-attention within the semantic ID, attention to the history, feed-forward."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.self_attention_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        num_layers = config.num_decoder_layers
        self.self_attention = Attention(config, num_layers=num_layers)
        self.cross_attention_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.cross_attention = Attention(config, num_layers=num_layers)
        self.feed_forward_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(config, num_layers=num_layers)
        self.dropout = Dropout(config.dropout)

    def remember(self, places: Float[Tensor, "batch place dim"]) -> KeysValues:
        """What this layer's attention to the history reads."""
        attention = self.cross_attention
        keys, values = (attention.split(part(places)) for part in (attention.key, attention.value))
        return KeysValues(keys.contiguous(), values.contiguous())

    def forward(
        self,
        x: Float[Tensor, "entry level dim"],
        self_bias: AttentionBias,
        memory: KeysValues,
        memory_bias: AttentionBias,
        layout: Layout,
    ) -> Float[Tensor, "entry level dim"]:
        """All levels of each entry at once."""
        normed = self.self_attention_norm(x)
        attention = self.self_attention
        keys, values = (attention.split(part(normed)) for part in (attention.key, attention.value))
        mixed = attention.attend(attention.query(normed), keys, values, self_bias)
        x = x + self.dropout(attention.output(mixed))

        attention = self.cross_attention
        query = layout.spread(attention.query(self.cross_attention_norm(x)))
        mixed = attention.attend(query.flatten(1, 2), memory.keys, memory.values, memory_bias)
        mixed = layout.collect(mixed.view(query.shape))
        x = x + self.dropout(attention.output(mixed))
        changed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + changed

    def step(
        self,
        x: Float[Tensor, "row dim"],
        past: list[KeysValues],
        self_bias: Float[Tensor, "head level"],
        memory: KeysValues,
        memory_bias: AttentionBias,
    ) -> tuple[Float[Tensor, "row dim"], KeysValues]:
        """One more level of every beam, and its own keys and values for later steps.

        Args:
            past: at each level before this one, what belongs to each row's ancestor there.
        """
        normed = self.self_attention_norm(x)
        attention = self.self_attention
        own = KeysValues(attention.key(normed), attention.value(normed))
        mixed = own.values  # with nothing else to look at, all attention is there
        if past:
            mixed = _attend_to_few(attention.query(normed), [*past, own], self_bias)
        x = x + attention.output(mixed)

        attention = self.cross_attention
        query = attention.query(self.cross_attention_norm(x))
        beams = query.view(memory.keys.shape[0], -1, query.shape[-1])  # (batch, beam, inner)
        mixed = attention.attend(beams, memory.keys, memory.values, memory_bias)
        x = x + attention.output(mixed.view(query.shape))
        return x + self.feed_forward(self.feed_forward_norm(x)), own


def _attend_to_few(
    query: Float[Tensor, "row inner"],
    seen: list[KeysValues],
    bias: Float[Tensor, "head level"],
) -> Float[Tensor, "row inner"]:
    """As `Attention.attend` for one query and at most a handful of keys per row: products of
    whole rows, since a matrix product for each row costs more in calls than in arithmetic."""
    q, *keys = (x.view(len(x), len(bias), -1) for x in (query, *(part.keys for part in seen)))
    values = [part.values.view(q.shape) for part in seen]
    logits = torch.stack([(q * key).sum(-1) for key in keys], -1) + bias  # (row, head, level)
    weights = logits.softmax(-1).to(query.dtype).unbind(-1)
    mixed = weights[0][..., None] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed.addcmul_(weight[..., None], value)
    return mixed.view(query.shape)


def _visible(
    places: Float[Tensor, "batch place dim"], last_place: Int[Tensor, "_ _"], levels: int
) -> AttentionBias:
    """Each query, `levels` tokens of it, sees the places up to its last one."""
    place = torch.arange(places.shape[1], device=places.device)
    is_visible = place <= last_place[:, :, None]  # (batch, query, place)
    if last_place.shape[1] > 1:
        is_visible = is_visible.repeat_interleave(levels, dim=1)
    return AttentionBias(hide(is_visible[:, None], places))


class CodeDecoder(nn.Module):
    """A stack of decoder layers from an encoded history to the codes of the next item."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.position_bias = RelativePositionBias(config, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        inputs: Float[Tensor, "entry level dim"],
        places: Float[Tensor, "batch place dim"],
        last_place: Int[Tensor, "_ _"],
        layout: Layout,
    ) -> Float[Tensor, "entry level dim"]:
        """Output vectors when the codes before each level are given.

        Args:
            inputs: vectors of the start token and of all codes but the last.
            last_place: (batch or 1, query or 1): the last place of the history a query sees.
            layout: where each entry sits among its row's queries.
        """
        visible = _visible(places, last_place, inputs.shape[1])
        return self.write(inputs, self.remember(places), visible, layout)

    def write(
        self,
        inputs: Float[Tensor, "entry level dim"],
        memories: list[KeysValues],
        memory_bias: AttentionBias,
        layout: Layout,
    ) -> Float[Tensor, "entry level dim"]:
        """As `forward`, of histories that were read before.

        Args:
            memories: what `remember` returned.
            memory_bias: hides the places that a query must not look at.
        """
        levels = inputs.shape[1]
        level = torch.arange(levels, device=inputs.device)
        own_bias = self.position_bias(levels) + hide(level <= level[:, None], inputs)
        x = self.dropout(inputs)
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, AttentionBias(own_bias), memory, memory_bias, layout)
        hidden: Tensor = self.dropout(self.norm(x))
        return hidden

    def remember(self, places: Float[Tensor, "batch place dim"]) -> list[KeysValues]:
        """Each layer's keys and values of the encoded history, however many queries follow."""
        return [cast(DecoderLayer, layer).remember(places) for layer in self.layers]


class DecoderSession:
    """A search in progress: call `first` once, then `extend` once per further level.

    Args:
        places: encoded histories, one row per user however many beams follow.
        last_place: the last place of each history.
    """

    def __init__(
        self,
        decoder: CodeDecoder,
        embedding: CodeEmbedding,
        places: Float[Tensor, "batch place dim"],
        last_place: Int[Tensor, " batch"],
    ) -> None:
        self._decoder, self._embedding = decoder, embedding
        self._memory = decoder.remember(places)
        self._memory_bias = _visible(places, last_place[:, None], 1)
        self._self_bias = decoder.position_bias(len(embedding.sizes))[0]  # (head, level, level)
        self._batch = len(places)
        # Keys and values stay where they were born: per level and layer, a row per beam. A beam
        # knows the rows of its ancestors, so that nothing is re-ordered when beams change.
        self._born: list[list[KeysValues]] = []
        self._ancestors: list[Int[Tensor, " row"]] = []

    @property
    def level(self) -> int:
        """The level whose codes were scored last; -1 before `first`."""
        return len(self._born) - 1

    def first(self) -> Float[Tensor, "batch code"]:
        """Log-probabilities of the first level's codes."""
        tokens = self._embedding.level_offsets.new_full((self._batch, 1), PAD_TOKEN)
        return self._step(tokens)[:, 0]

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Append `codes` to the previous beams `parents`; log-probabilities of the next codes."""
        tokens = codes + self._embedding.offsets[self.level]
        num_parents = self._born[-1][0].keys.shape[0] // self._batch
        first_row = torch.arange(self._batch, device=parents.device)[:, None] * num_parents
        rows = (parents + first_row).flatten()
        self._ancestors = [ancestors[rows] for ancestors in self._ancestors] + [rows]
        return self._step(tokens)

    def _step(self, tokens: Int[Tensor, "batch beam"]) -> Float[Tensor, "batch beam code"]:
        decoder, level = self._decoder, len(self._born)
        x = self._embedding(tokens.flatten())
        bias = self._self_bias[:, level, : level + 1]
        born = []
        for number, (layer, memory) in enumerate(zip(decoder.layers, self._memory, strict=True)):
            past = [
                layers[number].rows(rows)
                for layers, rows in zip(self._born, self._ancestors, strict=True)
            ]
            x, own = cast(DecoderLayer, layer).step(x, past, bias, memory, self._memory_bias)
            born.append(own)
        self._born.append(born)
        hidden = decoder.norm(x).view(*tokens.shape, -1)
        return self._embedding.log_probabilities(hidden, level)
