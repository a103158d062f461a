"""An encoder layer made of PyTorch's own maps, for items that are an ID alone.

T5 draws its maps for an optimizer whose steps follow the size of a weight: under Adam its small
queries move fastest of all, and beside the short vectors that IDs begin as, what its layers add is
loud. Here queries are divided by the root of their width as they are used (Vaswani et al., 2017),
and maps begin as PyTorch's do. Norms, places and likeness enter as in T5.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.encoder import EncoderLayer, LayerMaps
from bbqrec.recommender.fixed_maps import Map
from bbqrec.recommender.transformer import Dropout


class PlainLayer(EncoderLayer):
    """Self-attention and a feed-forward block with GELU; maps have biases."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__(config)
        width, inner = config.d_model, config.num_heads * config.head_dim
        attention = self.attention
        attention.query = _Queries(config)
        attention.key, attention.value = nn.Linear(width, inner), nn.Linear(width, inner)
        attention.output = nn.Linear(inner, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.d_ff),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(config.d_ff, width),
        )

    def _maps(self, dtype: torch.dtype) -> LayerMaps:
        maps, query = super()._maps(dtype), self.attention.query
        assert isinstance(query, _Queries)
        assert maps.query.bias is not None
        scaled = Map(maps.query.weight * query.scale, maps.query.bias * query.scale)
        return maps._replace(query=scaled)

    def _feed_forward_maps(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        first, last = (part for part in self.feed_forward.children() if isinstance(part, nn.Linear))
        inner = Map.of(first, dtype=dtype, gain=self.feed_forward_norm.weight)
        return _FeedForwardMaps(inner, Map.of(last, dtype=dtype)).__call__


class _FeedForwardMaps(NamedTuple):
    inner: Map
    output: Map

    def __call__(
        self, rows: Float[Tensor, "row dim"], *, uses: int = 1
    ) -> Float[Tensor, "row dim"]:
        return self.output(F.gelu(self.inner(rows, uses=uses)), uses=uses)


class _Queries(nn.Linear):
    """A linear map divided by the root of a head's width."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__(config.d_model, config.num_heads * config.head_dim)
        self.scale = config.head_dim**-0.5

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape inner"]:
        scaled: Tensor = super().forward(x) * self.scale
        return scaled
