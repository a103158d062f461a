"""Ways down the tree of semantic IDs: by what users are compared with, or by known scores."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.recommender.tree_decoder import Compared, Factors, TreeDecoder, TreeLevel


@runtime_checkable
class Walk(Protocol):
    """What may come next on the ways of a batch of users down the tree."""

    knows_every_item: bool
    """See `CatalogScorer.knows_every_item`."""

    def after(
        self, number: int, prefixes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Log-probabilities of the codes of level `number` after prefixes that are as long."""
        ...

    def every_item(self) -> Float[Tensor, "batch item"]:
        """See `CatalogScorer.every_item`."""
        ...


class TreeWalk:
    """See `Walk`; prefixes are compared with the users' states, as far as they are asked for."""

    knows_every_item = False

    def __init__(
        self,
        decoder: TreeDecoder,
        compared: list[Compared],
        factors: list[Factors] | None = None,
    ) -> None:
        self._decoder, self._compared, self._factors = decoder, compared, factors

    def after(
        self, number: int, prefixes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """See `Walk.after`."""
        factors = None if self._factors is None else self._factors[number]
        level = self._decoder.level(number)
        return level.log_probabilities(self._compared[number], prefixes, factors)

    def every_item(self) -> Float[Tensor, "batch item"]:
        """See `CatalogScorer.every_item`."""
        return self._decoder.item_log_probabilities(self._compared, self._factors)


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


class TreeSession:
    """A search in progress, as `DecoderSession`: a beam is a prefix."""

    def __init__(self, decoder: TreeDecoder, walk: Walk, num_users: int) -> None:
        self._decoder, self.walk = decoder, walk
        device = decoder.level(0).key.device
        self._prefixes = torch.zeros((num_users, 1), dtype=torch.int64, device=device)
        self.level = -1

    def first(self) -> Float[Tensor, "batch code"]:
        """Log-probabilities of the first level's codes."""
        return self._step()[:, 0]

    def extend(
        self, parents: Int[Tensor, "batch beam"], codes: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """Append `codes` to the previous beams `parents`; log-probabilities of the next codes."""
        prefixes = self._prefixes.gather(1, parents)
        self._prefixes = self._decoder.level(self.level).follow(prefixes, codes)
        return self._step()

    @property
    def knows_every_item(self) -> bool:
        """See `CatalogScorer.knows_every_item`."""
        return self.walk.knows_every_item

    def every_item(self) -> Float[Tensor, "batch item"]:
        """See `CatalogScorer.every_item`."""
        return self.walk.every_item()

    def _step(self) -> Float[Tensor, "batch beam code"]:
        self.level += 1
        return self.walk.after(self.level, self._prefixes)
