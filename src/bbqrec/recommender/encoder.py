"""T5's encoder: attention among a row's places and feed-forward blocks, layer by layer."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.fixed_maps import FeedForwardMaps, Kept, Map, is_reading, normed
from bbqrec.recommender.transformer import (
    NORM_EPSILON,
    Attention,
    AttentionBias,
    Dropout,
    FeedForward,
    Layout,
)


class LayerMaps(NamedTuple):
    """The linear maps of one layer, each with the gain of the norm before it.

    Args:
        memory: to keys and values.
    """

    query: Map
    memory: Map
    output: Map
    feed_forward: Callable[..., Tensor]


class EncoderLayer(nn.Module):
    """Self-attention among the places of a row, then a feed-forward block."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.attention = Attention(config, num_layers=config.num_encoder_layers)
        self.feed_forward_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.feed_forward: nn.Module = FeedForward(config, num_layers=config.num_encoder_layers)
        self.dropout = Dropout(config.dropout)
        self.num_layers = config.num_encoder_layers
        self.kept = Kept()

    def forward(
        self,
        x: Float[Tensor, "entry dim"],
        layout: Layout,
        bias: AttentionBias,
        only: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "entry_or_batch dim"]:
        """The output at every place, or at `only` this place of each row."""
        if is_reading(self):
            return self._read(x, layout, bias, only)
        normed = self.attention_norm(x)
        attention = self.attention
        key, value = (
            attention.split(layout.spread(part(normed)))
            for part in (attention.key, attention.value)
        )
        if only is None:
            query = attention.split(layout.spread(attention.query(normed)))
            mixed = layout.collect(attention.attend(query, key, value, bias))
        else:
            query = attention.split(attention.query(layout.at(normed, only))[:, None])
            mixed = attention.attend(query, key, value, bias.of_query(only))[:, 0]
            x = layout.at(x, only)
        x = x + self.dropout(attention.output(mixed))
        changed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + changed

    def _read(
        self,
        x: Float[Tensor, "entry dim"],
        layout: Layout,
        bias: AttentionBias,
        only: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "entry_or_batch dim"]:
        """The same function outside training, in fewer and larger operations."""
        own, attention, uses = self.kept.get([self], self._maps), self.attention, self.num_layers
        with torch.autocast(x.device.type, enabled=False):  # the maps say what is rounded
            rows = normed(x, own.query.weight.dtype)
            memory = layout.spread(own.memory(rows, uses=uses))
            if only is None:
                query = layout.spread(own.query(rows, uses=uses))
            else:
                query = own.query(layout.at(rows, only), uses=uses)[:, None]
                x, bias = layout.at(x, only), bias.of_query(only)
            key, value = attention.split_parts(memory, 2)
            mixed = attention.attend(attention.split(query), key, value, bias)
            mixed = layout.collect(mixed) if only is None else mixed[:, 0]
            x = x + own.output(mixed, uses=uses)
            return x.add_(own.feed_forward(normed(x, rows.dtype), uses=uses))

    def _maps(self, dtype: torch.dtype) -> LayerMaps:
        attention, gain = self.attention, self.attention_norm.weight
        return LayerMaps(
            Map.of(attention.query, dtype=dtype, gain=gain),
            Map.of(attention.key, attention.value, dtype=dtype, gain=gain),
            Map.of(attention.output, dtype=dtype),
            self._feed_forward_maps(dtype),
        )

    def _feed_forward_maps(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        assert isinstance(self.feed_forward, FeedForward)
        return FeedForwardMaps.of(self.feed_forward_norm, self.feed_forward, dtype).__call__


class Encoder(nn.Module):
    """A stack of encoder layers over the used places of padded rows.

    T5 drops out its output as well (`drops_output`); where cosines are read from it, that is
    noise on every logit.
    """

    def __init__(
        self, config: RecommenderConfig, layer: type[EncoderLayer], *, drops_output: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(config) for _ in range(config.num_encoder_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.dropout = Dropout(config.dropout)
        self.output_dropout = Dropout(config.dropout if drops_output else 0.0)

    def forward(
        self,
        x: Float[Tensor, "entry dim"],
        layout: Layout,
        bias: AttentionBias,
        only: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "entry_or_batch dim"]:
        """The output at every place, or at `only` this place of each row: what nobody reads is
        not computed in the last layer."""
        x = self.dropout(x)
        *inner, last = self.layers
        for layer in inner:
            x = layer(x, layout, bias)
        x = last(x, layout, bias, only)
        encoded: Tensor = self.output_dropout(self.norm(x))
        return encoded
