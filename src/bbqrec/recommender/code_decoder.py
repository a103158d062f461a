"""Writing a semantic ID code by code while looking at the encoded history (T5's decoder).

All levels at once, the codes before each given; `code_search` writes level by level.
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.fixed_maps import Kept
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


class KeysValues(NamedTuple):
    """What one layer's attention to the history reads."""

    keys: Float[Tensor, "batch head place head_dim"]
    values: Float[Tensor, "batch head place head_dim"]


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
        query = attention.split(attention.query(normed))
        mixed = attention.attend(query, keys, values, self_bias)
        x = x + self.dropout(attention.output(mixed))

        attention = self.cross_attention
        query = layout.spread(attention.query(self.cross_attention_norm(x)))
        beams = attention.split(query.flatten(1, 2))
        mixed = attention.attend(beams, memory.keys, memory.values, memory_bias)
        mixed = layout.collect(mixed.view(query.shape))
        x = x + self.dropout(attention.output(mixed))
        changed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + changed


def visible(
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
        self.kept = Kept()  # by `code_search`

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
        bias = visible(places, last_place, inputs.shape[1])
        return self.write(inputs, self.remember(places), bias, layout)

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
