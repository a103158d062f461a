"""A walk down the tree of semantic IDs by what is known of every item."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.recommender.tree_decoder import TreeDecoder, TreeLevel


class ScoredSession:
    """A search in progress, as `TreeSession`: a prefix is as likely as the items below it are."""

    def __init__(self, decoder: TreeDecoder, scores: Float[Tensor, "batch item"]) -> None:
        """
        Args:
            scores: log p of every item.
        """
        self._decoder, self.scores = decoder, scores
        self._prefixes = torch.zeros((scores.shape[0], 1), dtype=torch.int64, device=scores.device)
        self._number = -1

    def first(self) -> Float[Tensor, "batch code"]:
        """See `CodeScorer.first`."""
        return self._step()[:, 0]

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """See `CodeScorer.extend`."""
        prefixes = self._prefixes.gather(1, parents)
        self._prefixes = self._decoder.level(self._number).follow(prefixes, codes)
        return self._step()

    def every_item(self) -> Float[Tensor, "batch item"]:
        """See `CatalogScorer.every_item`."""
        last = self._decoder.level(len(self._decoder.levels) - 1)
        if len(last.code) == self.scores.shape[1]:  # no two items share a semantic ID
            return self.scores
        return self._log_masses(last)[:, last.prefix_of_item]

    def _step(self) -> Float[Tensor, "batch beam code"]:
        self._number += 1
        return self.after(self._number, self._prefixes)

    def after(
        self, number: int, prefixes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Log-probabilities of the codes of level `number` after prefixes that are as long."""
        level = self._decoder.level(number)
        return level.shares(self._log_masses(level), prefixes)

    def _log_masses(self, level: TreeLevel) -> Float[Tensor, "batch prefix"]:
        """log of the sum of p over the items below each prefix."""
        prefix = level.prefix_of_item.expand(self.scores.shape[0], -1)
        lowest = self.scores.new_full((prefix.shape[0], len(level.code)), -torch.inf)
        highest = lowest.scatter_reduce(1, prefix, self.scores, "amax")
        shares = (self.scores - highest.gather(1, prefix)).exp()
        return highest + torch.zeros_like(highest).scatter_add_(1, prefix, shares).log()
