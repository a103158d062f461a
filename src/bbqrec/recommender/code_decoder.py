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
    """What one layer's attention reads."""

    keys: Float[Tensor, "row place inner"]
    values: Float[Tensor, "row place inner"]


class DecoderLayer(nn.Module):
    """Self-attention within the semantic ID, attention to the history, feed-forward."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.self_attention_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.self_attention = Attention(config)
        self.cross_attention_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.cross_attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def remember(self, places: Float[Tensor, "batch place dim"]) -> KeysValues:
        """What this layer's attention to the history reads."""
        return KeysValues(self.cross_attention.key(places), self.cross_attention.value(places))

    def forward(
        self,
        x: Float[Tensor, "entry level dim"],
        past: KeysValues | None,
        self_bias: AttentionBias,
        memory: KeysValues,
        memory_bias: AttentionBias,
        layout: Layout,
    ) -> tuple[Float[Tensor, "entry level dim"], KeysValues]:
        """The layer's output, and its own keys and values for later steps."""
        normed = self.self_attention_norm(x)
        attention = self.self_attention
        own = KeysValues(attention.key(normed), attention.value(normed))
        seen = own if past is None else KeysValues(*map(_append, past, own))
        mixed = attention.attend(attention.query(normed), seen.keys, seen.values, self_bias)
        x = x + self.dropout(attention.output(mixed))

        attention = self.cross_attention
        query = layout.spread(attention.query(self.cross_attention_norm(x)))
        mixed = attention.attend(query.flatten(1, 2), memory.keys, memory.values, memory_bias)
        mixed = layout.collect(mixed.view(query.shape))
        x = x + self.dropout(attention.output(mixed))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), own


def _append(past: Tensor, own: Tensor) -> Tensor:
    return torch.cat([past, own], dim=1)


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
        levels = inputs.shape[1]
        level = torch.arange(levels, device=inputs.device)
        own_bias = self.position_bias(levels) + hide(level <= level[:, None], inputs)
        memory_bias = _visible(places, last_place, levels)
        x = self.dropout(inputs)
        for layer, memory in zip(self.layers, self.remember(places), strict=True):
            x, _ = layer(x, None, AttentionBias(own_bias), memory, memory_bias, layout)
        hidden: Tensor = self.dropout(self.norm(x))
        return hidden

    def remember(self, places: Float[Tensor, "batch place dim"]) -> list[KeysValues]:
        """Each layer's keys and values of the encoded history, however many queries follow."""
        return [cast(DecoderLayer, layer).remember(places) for layer in self.layers]


class DecoderSession:
    """A search in progress: call `first` once, then `extend` once per further level."""

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
        self._offsets = embedding.offsets
        # Per layer, all beams of all steps in the order of their birth: (batch, node, inner).
        self._nodes: list[KeysValues] = []
        self._ancestors = last_place.new_zeros(len(places), 1, 0)  # (batch, beam, level)
        self._num_nodes = 0

    @property
    def level(self) -> int:
        """The level whose codes were scored last; -1 before `first`."""
        return self._ancestors.shape[2] - 1

    def first(self) -> Float[Tensor, "batch code"]:
        """Log-probabilities of the first level's codes."""
        batch = self._ancestors.shape[0]
        return self._step(self._ancestors.new_full((batch, 1), PAD_TOKEN))[:, 0]

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Append `codes` to the previous beams `parents`; log-probabilities of the next codes."""
        tokens = codes + self._offsets[self.level]
        depth = self._ancestors.shape[2]
        self._ancestors = self._ancestors.gather(1, parents[:, :, None].expand(-1, -1, depth))
        return self._step(tokens)

    def _step(self, tokens: Int[Tensor, "batch beam"]) -> Float[Tensor, "batch beam code"]:
        decoder = self._decoder
        batch, beams = tokens.shape
        past_nodes = self._ancestors
        born = torch.arange(self._num_nodes, self._num_nodes + beams, device=tokens.device)
        self._num_nodes += beams
        self._ancestors = torch.cat([past_nodes, born.expand(batch, beams)[:, :, None]], dim=2)
        length = self._ancestors.shape[2]
        own_bias = AttentionBias(decoder.position_bias(length)[:, :, -1:])
        layout = Layout.full(batch, beams)
        x = self._embedding(tokens).view(batch * beams, 1, -1)
        nodes = []
        for index, layer in enumerate(decoder.layers):
            past = None
            if self._nodes:
                past = KeysValues(*(_of_ancestors(n, past_nodes) for n in self._nodes[index]))
            x, own = layer(x, past, own_bias, self._memory[index], self._memory_bias, layout)
            born_now = KeysValues(*(part.view(batch, beams, -1) for part in own))
            nodes.append(
                KeysValues(*map(_append, self._nodes[index], born_now)) if self._nodes else born_now
            )
        self._nodes = nodes
        hidden = decoder.norm(x).view(batch, beams, -1)
        return self._embedding.log_probabilities(hidden, self.level)


def _of_ancestors(
    nodes: Float[Tensor, "batch node inner"], ancestors: Int[Tensor, "batch beam level"]
) -> Float[Tensor, "batch_beam level inner"]:
    batch, beams, levels = ancestors.shape
    row = torch.arange(batch, device=nodes.device)[:, None, None]
    return nodes[row, ancestors].view(batch * beams, levels, -1)
