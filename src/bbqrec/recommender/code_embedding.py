"""Vectors of tokens, tied: read as input, and as the output's class vectors."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.precision import full_product
from bbqrec.products import linear
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.tables import Catalog
from bbqrec.semantic_ids import PAD_TOKEN


class CodeEmbedding(nn.Module):
    """One vector per token; `input_scale` and `output_scale` are applied on the way in and out.

    T5 draws entries with deviation 1 and scales the output by d_model**-0.5. Drawing them with
    deviation d_model**-0.5 and scaling the input by its inverse is the same function, but lets
    the vectors be summed with others and move faster under Adam.
    """

    level_offsets: Tensor

    def __init__(self, config: RecommenderConfig, catalog: Catalog, *, as_t5: bool) -> None:
        super().__init__()
        root = math.sqrt(config.d_model)
        self.input_scale, self.output_scale = (1.0, 1 / root) if as_t5 else (root, 1.0)
        self.normalize = config.normalize
        self.sizes = catalog.sizes
        self.register_buffer("level_offsets", catalog.level_offsets, persistent=False)
        self.offsets = catalog.level_offsets.tolist()
        deviation = 1.0 if as_t5 else 1 / root
        self.weight = nn.Parameter(torch.randn(catalog.num_tokens, config.d_model) * deviation)

    def forward(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return F.embedding(tokens, self.weight) * self.input_scale

    def shifted(self, tokens: Int[Tensor, "entry level"]) -> Int[Tensor, "entry level"]:
        """What a decoder reads to predict `tokens`: the start token, then all but the last."""
        return F.pad(tokens[:, :-1], (1, 0), value=PAD_TOKEN)

    def targets(self, tokens: Int[Tensor, "entry level"]) -> Int[Tensor, "entry level"]:
        """The class of each token among `logits`."""
        if self.normalize == "vocabulary":
            return tokens
        return tokens - self.level_offsets

    def logits(
        self, hidden: Float[Tensor, "entry level dim"]
    ) -> Float[Tensor, "entry level token_or_code"]:
        """Scores of all tokens, or of each level's codes (short levels end in -inf)."""
        hidden = hidden * self.output_scale
        if self.normalize == "vocabulary":
            return linear(hidden, self.weight)
        width = max(self.sizes)
        levels = [
            F.pad(self._level_logits(x, level), (0, width - size), value=-torch.inf)
            for level, (x, size) in enumerate(zip(hidden.unbind(1), self.sizes, strict=True))
        ]
        return torch.stack(levels, 1)

    def score(
        self, hidden: Float[Tensor, "entry level dim"], tokens: Int[Tensor, "entry level"]
    ) -> Float[Tensor, " entry"]:
        """Log-probability of whole semantic IDs: the sum over their levels."""
        scores = self.logits(hidden).log_softmax(-1, torch.float32)
        return scores.gather(-1, self.targets(tokens)[:, :, None]).sum((1, 2))

    def log_probabilities(
        self, hidden: Float[Tensor, "*shape dim"], level: int
    ) -> Float[Tensor, "*shape code"]:
        """Log-probabilities of one level's codes under the normalization of the config."""
        start, size = self.offsets[level], self.sizes[level]
        hidden = hidden * self.output_scale
        if self.normalize == "level":
            return full_product(hidden, self.weight[start : start + size]).log_softmax(-1)
        return full_product(hidden, self.weight).log_softmax(-1)[..., start : start + size]

    def _level_logits(self, hidden: Tensor, level: int) -> Tensor:
        start = self.offsets[level]
        return linear(hidden, self.weight[start : start + self.sizes[level]])
