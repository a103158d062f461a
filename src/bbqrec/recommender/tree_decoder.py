"""Codes by a walk down the tree of semantic IDs, in which every prefix has a vector.

A user's state is compared with the vectors of the prefixes that go on from where the walk stands,
so a code means what stands below it, not the same everywhere. A prefix's vector is made of the
vectors of the items below it, which know content, codes and the items themselves; short prefixes,
below which stand many, have a vector of their own on top.

Items that a user already had can be made more or less likely by any factor. With p the probability
without factors, that of a prefix changes by f = sum of p(item | prefix) f(item) over the items
below it; adding log f to its logit gives exactly the distribution in which p(item) f(item) is
normalized over the catalog.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.precision import full_product
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.item_vectors import unit
from bbqrec.recommender.tables import Catalog

OWN_LEVELS = 2  # prefixes of so many codes have vectors of their own; below longer ones stand few
OWN_START = 0.3  # norm of those at the start, beside 1 for what the items below give
# Comparing with all prefixes of a level is one product of matrices, and comparing with those that
# go on from each beam copies their vectors first, which costs so many times more for each.
COPY_COST = 64


class Factors(NamedTuple):
    """How much more likely than the tree says some prefixes of one level are, for each row.

    Args:
        prefixes: -1 for none; those of a row differ.
        log_factors: 0 where nothing changes.
    """

    prefixes: Int[Tensor, "batch had"]
    log_factors: Float[Tensor, "batch had"]


class TreeLevel(nn.Module):
    """The prefixes of one length, numbered in lexicographic order: siblings are neighbors."""

    prefix_of_item: Tensor
    key: Tensor
    code: Tensor
    first_child: Tensor
    parent: Tensor
    own_row: Tensor

    def __init__(
        self,
        config: RecommenderConfig,
        parent_of_item: Int[Tensor, " item"],
        code_of_item: Int[Tensor, " item"],
        *,
        num_codes: int,
        has_own: bool,
    ) -> None:
        super().__init__()
        width = config.d_model
        self.num_codes = num_codes
        key, prefix = torch.unique(parent_of_item * num_codes + code_of_item, return_inverse=True)
        num_parents = int(parent_of_item.max()) + 1
        bounds = torch.arange(num_parents + 1, device=key.device)
        first_child = torch.searchsorted(key // num_codes, bounds)
        self.fan_out = int(first_child.diff().max())
        self.register_buffer("prefix_of_item", prefix, persistent=False)
        self.register_buffer("key", key, persistent=False)
        self.register_buffer("code", key % num_codes, persistent=False)
        self.register_buffer("first_child", first_child, persistent=False)
        self.register_buffer("parent", key // num_codes, persistent=False)
        self.own = self.bias = None
        if has_own:
            # Rows in order of the first item, so that items that come later only append rows.
            item = torch.arange(len(prefix), device=key.device)
            first = torch.full_like(key, len(prefix)).scatter_reduce(0, prefix, item, "amin")
            self.register_buffer("own_row", first.argsort().argsort(), persistent=False)
            self.own = nn.Parameter(torch.randn(len(key), width) * OWN_START * width**-0.5)
            self.bias = nn.Parameter(torch.zeros(len(key)))
        self.from_items = nn.Linear(width, width, bias=False)
        self.from_state = nn.Linear(width, width, bias=False)
        for projection in (self.from_items, self.from_state):
            nn.init.eye_(projection.weight)
        log_temperature = torch.tensor(config.temperature).log()
        self.log_temperature = nn.Parameter(log_temperature, requires_grad=config.learn_temperature)

    def vectors(self, items: Float[Tensor, "item dim"]) -> Float[Tensor, "prefix dim"]:
        """What states are compared with, from the directions of all items."""
        # In full precision always: in half of it, training would rank by rounding.
        with torch.autocast(items.device.type, enabled=False):
            total = items.new_zeros(len(self.code), items.shape[1], dtype=torch.float32)
            total = total.index_add(0, self.prefix_of_item, items.float())
            vectors: Tensor = self.from_items(unit(total))
        if self.own is not None:
            vectors = vectors + self.own[self.own_row]
        return unit(vectors) / self.log_temperature.exp()

    def below(
        self, parents: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape slot"], Int[Tensor, "*shape slot"]]:
        """The prefixes that go on from `parents`, and the code each appends.

        Spare slots hold some prefix and the code `num_codes`, which no codebook has.
        """
        first, end = self.first_child[parents], self.first_child[parents + 1]
        slot = torch.arange(self.fan_out, device=parents.device)
        child = (first[..., None] + slot).clamp(max=len(self.code) - 1)
        is_spare = slot >= (end - first)[..., None]
        return child, self.code[child].masked_fill(is_spare, self.num_codes)

    def follow(
        self, parents: Int[Tensor, "*shape"], codes: Int[Tensor, "*shape"]
    ) -> Int[Tensor, "*shape"]:
        """The prefixes that append `codes` to `parents`."""
        if torch.compiler.is_compiling():  # no graph for export can look up a number in a list
            child, code = self.below(parents)
            slot = (code == codes[..., None]).int().argmax(-1, keepdim=True)
            return child.gather(-1, slot)[..., 0]
        place = torch.searchsorted(self.key, parents * self.num_codes + codes)
        return place.clamp(max=len(self.key) - 1)

    def log_probabilities(
        self,
        compared: "Compared",
        parents: Int[Tensor, "batch beam"],
        factors: Factors | None = None,
    ) -> Float[Tensor, "batch beam code"]:
        """Of every code after the prefixes `parents`; -inf for what no item has."""
        code, logits = self._logits(compared, parents)
        if factors is not None:
            logits = logits + self._spread(factors, parents)
        nothing = logits.new_full((*code.shape[:2], self.num_codes + 1), -torch.inf)
        return nothing.scatter(2, code, logits.log_softmax(-1))[..., :-1]

    def every_log_probability(
        self, compared: "Compared", factors: Factors | None = None
    ) -> Float[Tensor, "prefix batch"]:
        """Of the last code of every prefix, the codes before it given.

        Prefixes come first, so that what belongs together is a run of neighboring rows.
        """
        logits = compared.every().T.contiguous()
        if self.bias is not None:
            logits = logits + self.bias[self.own_row][:, None]
        if factors is not None:
            row = torch.arange(logits.shape[1], device=logits.device)[:, None]
            place = factors.prefixes.clamp(min=0), row.expand_as(factors.prefixes)
            values = factors.log_factors.masked_fill(factors.prefixes < 0, 0)
            logits = logits.index_put(place, values, accumulate=True)
        highest = torch.segment_reduce(logits, "max", offsets=self.first_child, axis=0)
        logits = logits - highest[self.parent]
        total = torch.zeros_like(highest).index_add_(0, self.parent, logits.exp())
        return logits - total.log()[self.parent]

    def factors_above(self, compared: "Compared", factors: Factors) -> Factors:
        """What the factors of this level make of those of the level above."""
        parents = self.parent[factors.prefixes.clamp(min=0)]
        _, logits = self._logits(compared, parents)
        changed = (logits + self._spread(factors, parents)).logsumexp(-1) - logits.logsumexp(-1)
        return Factors(_distinct(parents.masked_fill(factors.prefixes < 0, -1)), changed)

    def _logits(
        self, compared: "Compared", parents: Int[Tensor, "batch beam"]
    ) -> tuple[Int[Tensor, "batch beam slot"], Float[Tensor, "batch beam slot"]]:
        """The codes that go on from `parents` and their logits, -inf in spare slots."""
        child, code = self.below(parents)
        logits = compared.products(child)
        if self.bias is not None:
            logits = logits + self.bias[self.own_row][child]
        return code, logits.masked_fill(code == self.num_codes, -torch.inf)

    def _spread(
        self, factors: Factors, parents: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam slot"]:
        """The log factor of each slot below `parents`."""
        prefixes = factors.prefixes.clamp(min=0)
        of_parent = self.parent[prefixes]
        slot = (prefixes - self.first_child[of_parent])[:, None]
        is_below = (of_parent[:, None] == parents[..., None]) & (factors.prefixes >= 0)[:, None]
        slot = torch.where(is_below, slot, self.fan_out)  # one more slot takes the others
        nothing = factors.log_factors.new_zeros(*parents.shape, self.fan_out + 1)
        values = factors.log_factors[:, None].expand(slot.shape)
        return nothing.scatter(2, slot, values)[..., :-1]


def _distinct(prefixes: Int[Tensor, "batch had"]) -> Int[Tensor, "batch had"]:
    """Each prefix of a row once, where it stands first; -1 in the other places.

    Else the gradient would reach a factor once for every place that holds its prefix.
    """
    if not prefixes.shape[1]:
        return prefixes
    first = (prefixes[:, :, None] == prefixes[:, None]).int().argmax(2)
    place = torch.arange(prefixes.shape[1], device=prefixes.device)
    return prefixes.masked_fill(first != place, -1)


class Compared:
    """A batch's states beside the prefixes of one level; no product is made twice.

    Args:
        states: unit vectors, one for all beams of a row.
        vectors: what `TreeLevel.vectors` returned.
    """

    def __init__(
        self,
        level: TreeLevel,
        states: Float[Tensor, "batch dim"],
        vectors: Float[Tensor, "prefix dim"],
    ) -> None:
        with torch.autocast(states.device.type, enabled=False):
            self.states = unit(level.from_state(states.float()))
        self.vectors = vectors
        self._every: Tensor | None = None  # (batch, prefix)

    def products(
        self, prefixes: Int[Tensor, "batch beam slot"]
    ) -> Float[Tensor, "batch beam slot"]:
        """The products of each row's state with these prefixes' vectors."""
        if self._every is None:
            # In a graph for export the number of beams is open, and one way must serve them all.
            is_few = len(self.vectors) > COPY_COST * prefixes[0].numel()
            if not torch.compiler.is_compiling() and is_few:
                copied = self.vectors[prefixes.flatten(1)]  # (batch, beam x slot, dim)
                with torch.autocast(copied.device.type, enabled=False):
                    return torch.bmm(copied, self.states[:, :, None]).view(prefixes.shape)
        return self.every().gather(1, prefixes.flatten(1)).view(prefixes.shape)

    def every(self) -> Float[Tensor, "batch prefix"]:
        """The products of each row's state with all prefixes' vectors."""
        if self._every is None:
            self._every = full_product(self.states, self.vectors)
        return self._every


class TreeDecoder(nn.Module):
    """One `TreeLevel` per code, coarse to fine."""

    def __init__(self, config: RecommenderConfig, catalog: Catalog) -> None:
        super().__init__()
        prefix = torch.zeros_like(catalog.codes[:, 0])
        self.levels = nn.ModuleList()
        for number, (codes, size) in enumerate(zip(catalog.codes.T, catalog.sizes, strict=True)):
            has_own = number < min(OWN_LEVELS, catalog.num_levels - 1)
            level = TreeLevel(config, prefix, codes, num_codes=size, has_own=has_own)
            self.levels.append(level)
            prefix = level.prefix_of_item

    def level(self, number: int) -> TreeLevel:
        return cast(TreeLevel, self.levels[number])

    def vectors(self, items: Float[Tensor, "item dim"]) -> list[Float[Tensor, "_ dim"]]:
        """The vectors of all prefixes, level by level, from the directions of all items."""
        return [self.level(number).vectors(items) for number in range(len(self.levels))]

    def compare(
        self, states: Float[Tensor, "batch dim"], vectors: list[Float[Tensor, "_ dim"]]
    ) -> list[Compared]:
        """States beside each level's prefixes, whose vectors `vectors` returned."""
        return [Compared(self.level(number), states, x) for number, x in enumerate(vectors)]

    def factors(
        self,
        compared: list[Compared],
        had: Int[Tensor, "batch had"],
        log_factors: Float[Tensor, "batch had"],
    ) -> list[Factors]:
        """Level by level what it takes to make some items more or less likely.

        Args:
            had: the items, -1 for none; of items with one semantic ID the first counts.
        """
        last = self.level(len(self.levels) - 1)
        leaves = last.prefix_of_item[had.clamp(min=0)].masked_fill(had < 0, -1)
        found = [Factors(_distinct(leaves), log_factors)]
        for number in range(len(self.levels) - 1, 0, -1):
            level = self.level(number)
            found.append(level.factors_above(compared[number], found[-1]))
        return found[::-1]

    def log_probabilities(
        self,
        compared: list[Compared],
        targets: Int[Tensor, "batch candidate"],
        factors: list[Factors] | None = None,
    ) -> Float[Tensor, "batch candidate level code"]:
        """Of every code at every level, the codes before it being those of `targets`.

        Short levels end in -inf.
        """
        width = max(self.level(number).num_codes for number in range(len(self.levels)))
        parents, by_level = torch.zeros_like(targets), []
        for number, of_level in enumerate(compared):
            level = self.level(number)
            own = None if factors is None else factors[number]
            found = level.log_probabilities(of_level, parents, own)
            by_level.append(F.pad(found, (0, width - level.num_codes), value=-torch.inf))
            parents = level.prefix_of_item[targets]
        return torch.stack(by_level, 2)


class TreeSession:
    """A search in progress, as `DecoderSession`: a beam is a prefix."""

    def __init__(
        self,
        decoder: TreeDecoder,
        compared: list[Compared],
        factors: list[Factors] | None = None,
    ) -> None:
        self._decoder, self._compared, self._factors = decoder, compared, factors
        states = compared[0].states
        self._prefixes = torch.zeros((len(states), 1), dtype=torch.int64, device=states.device)
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

    def every_item(self) -> Float[Tensor, "batch item"]:
        """Log-probabilities of all items, from one product with the prefixes of each level."""
        scores = torch.zeros((1, len(self._prefixes)), device=self._prefixes.device)
        for number, compared in enumerate(self._compared):
            level = self._decoder.level(number)
            factors = None if self._factors is None else self._factors[number]
            scores = scores[level.parent] + level.every_log_probability(compared, factors)
        return scores[level.prefix_of_item].T

    def _step(self) -> Float[Tensor, "batch beam code"]:
        self.level += 1
        level, compared = self._decoder.level(self.level), self._compared[self.level]
        factors = None if self._factors is None else self._factors[self.level]
        return level.log_probabilities(compared, self._prefixes, factors)
