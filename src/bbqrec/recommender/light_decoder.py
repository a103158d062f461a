"""Codes from a small network per level instead of a decoder that looks at the history again."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.code_embedding import CodeEmbedding
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.fixed_maps import CodeMaps, FeedForwardMaps, Kept, normed
from bbqrec.recommender.transformer import NORM_EPSILON, Dropout, FeedForward, Layout
from bbqrec.semantic_ids import PAD_TOKEN


class LightDecoder(nn.Module):
    """The user's state plus the vectors of the codes so far, through two layers per level."""

    def __init__(self, config: RecommenderConfig, num_levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            FeedForward(config, num_layers=num_levels) for _ in range(num_levels)
        )
        self.input_norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.norm = nn.RMSNorm(config.d_model, eps=NORM_EPSILON)
        self.dropout = Dropout(config.dropout)
        self.kept = Kept()  # by `LightSession`

    def forward(
        self,
        inputs: Float[Tensor, "entry level dim"],
        places: Float[Tensor, "batch place dim"],
        last_place: Int[Tensor, "_ _"],
        layout: Layout,
    ) -> Float[Tensor, "entry level dim"]:
        """As `CodeDecoder.forward`; of the history only the last place is read."""
        state = layout.collect(state_at(places, last_place.expand(layout.shape)))
        prefix = state[:, None] + self.dropout(inputs).cumsum(1)
        hidden = [self.step(prefix[:, level], level) for level in range(len(self.levels))]
        stacked: Tensor = self.dropout(torch.stack(hidden, 1))
        return stacked

    def step(self, prefix: Float[Tensor, "*shape dim"], level: int) -> Float[Tensor, "*shape dim"]:
        """The output vector at one level from the sum of state and codes so far."""
        hidden: Tensor = self.norm(prefix + self.levels[level](self.input_norm(prefix)))
        return hidden


def state_at(
    places: Float[Tensor, "batch place dim"], last_place: Int[Tensor, "batch query"]
) -> Float[Tensor, "batch query dim"]:
    """The encoder's output at each query's last place."""
    return places.gather(1, last_place[:, :, None].expand(-1, -1, places.shape[2]))


class LightMaps(NamedTuple):
    """What a search reads of the weights in place of them."""

    levels: list[FeedForwardMaps]
    codes: CodeMaps


class LightSession:
    """A search in progress, as `DecoderSession`: a beam is only a sum of vectors."""

    def __init__(
        self,
        decoder: LightDecoder,
        embedding: CodeEmbedding,
        places: Float[Tensor, "batch place dim"],
        last_place: Int[Tensor, " batch"],
    ) -> None:
        self._embedding = embedding
        self._maps = _maps(decoder, embedding)
        self._prefix = state_at(places, last_place[:, None])  # (batch, beam, dim)
        self.level = -1

    def first(self) -> Float[Tensor, "batch code"]:
        """Log-probabilities of the first level's codes."""
        # Not `torch.tensor`, which copies from the host.
        start = torch.full((), PAD_TOKEN, device=self._prefix.device)
        return self._step(self._prefix + self._embedding(start))[:, 0]

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Append `codes` to the previous beams `parents`; log-probabilities of the next codes."""
        tokens = codes + self._embedding.offsets[self.level]
        return self._step(state_at(self._prefix, parents) + self._embedding(tokens))

    @torch.no_grad()
    def _step(self, prefix: Float[Tensor, "batch beam dim"]) -> Float[Tensor, "batch beam code"]:
        self._prefix = prefix
        self.level += 1
        rows, block = prefix.flatten(0, 1), self._maps.levels[self.level]
        with torch.autocast(rows.device.type, enabled=False):  # the maps say what is rounded
            rows = rows + block.few(normed(rows, block.inner.dtype))
            found = self._maps.codes.log_probabilities(rows, self.level)
        return found.view(*prefix.shape[:2], -1)


def _maps(decoder: LightDecoder, embedding: CodeEmbedding) -> LightMaps:
    def make(dtype: torch.dtype) -> LightMaps:
        blocks = (cast(FeedForward, block) for block in decoder.levels)
        levels = [FeedForwardMaps.of(decoder.input_norm, block, dtype) for block in blocks]
        return LightMaps(levels, CodeMaps.of(decoder.norm, embedding))

    return decoder.kept.get([decoder, embedding], make)
