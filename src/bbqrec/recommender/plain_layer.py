"""An encoder layer made of PyTorch's own maps, for items that are an ID alone.

T5 draws its maps for an optimizer whose steps follow the size of a weight: under Adam its small
queries move fastest of all, and beside the short vectors that IDs begin as, what its layers add is
loud. Here queries are divided by the root of their width as they are used (Vaswani et al., 2017),
and maps begin as PyTorch's do. Norms, places and likeness enter as in T5.
"""

from jaxtyping import Float
from torch import Tensor, nn

from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.encoder import EncoderLayer
from bbqrec.recommender.transformer import Dropout


class PlainLayer(EncoderLayer):
    """Self-attention and a feed-forward block with GELU; maps have biases."""

    has_fixed_maps = False

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


class _Queries(nn.Linear):
    """A linear map divided by the root of a head's width."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__(config.d_model, config.num_heads * config.head_dim)
        self.scale = config.head_dim**-0.5

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape inner"]:
        scaled: Tensor = super().forward(x) * self.scale
        return scaled
