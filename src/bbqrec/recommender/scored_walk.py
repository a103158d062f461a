"""A walk down the tree of semantic IDs by what is known of every item."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.recommender.tree_decoder import TreeDecoder, TreeLevel


class ScoredWalk:
    """See `Walk`; a prefix is as likely as the items below it are."""

    knows_every_item = True

    def __init__(self, decoder: TreeDecoder, scores: Float[Tensor, "batch item"]) -> None:
        """
        Args:
            scores: log p of every item.
        """
        self._decoder, self.scores = decoder, scores

    def after(
        self, number: int, prefixes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """See `Walk.after`."""
        level = self._decoder.level(number)
        return level.shares(self._log_masses(level), prefixes)

    def every_item(self) -> Float[Tensor, "batch item"]:
        """See `CatalogScorer.every_item`."""
        last = self._decoder.level(len(self._decoder.levels) - 1)
        if len(last.code) == self.scores.shape[1]:  # no two items share a semantic ID
            return self.scores
        return self._log_masses(last)[:, last.prefix_of_item]

    def _log_masses(self, level: TreeLevel) -> Float[Tensor, "batch prefix"]:
        """log of the sum of p over the items below each prefix."""
        prefix = level.prefix_of_item.expand(self.scores.shape[0], -1)
        lowest = self.scores.new_full((prefix.shape[0], len(level.code)), -torch.inf)
        highest = lowest.scatter_reduce(1, prefix, self.scores, "amax")
        shares = (self.scores - highest.gather(1, prefix)).exp()
        return highest + torch.zeros_like(highest).scatter_add_(1, prefix, shares).log()
