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

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, cast

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
    sibling: Tensor
    first_sibling: Tensor
    family: Tensor
    place_of_sibling: Tensor

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
        # A prefix without siblings is certain: it needs no product where all are asked for.
        sizes = first_child.diff()
        sibling = (sizes[key // num_codes] > 1).nonzero()[:, 0]
        _, family = torch.unique_consecutive(key[sibling] // num_codes, return_inverse=True)
        place = torch.full_like(key, -1)
        place[sibling] = torch.arange(len(sibling), device=key.device)
        first_sibling = F.pad(sizes[sizes > 1].cumsum(0), (1, 0))
        self.register_buffer("sibling", sibling, persistent=False)
        self.register_buffer("family", family, persistent=False)
        self.register_buffer("first_sibling", first_sibling, persistent=False)
        self.register_buffer("place_of_sibling", place, persistent=False)
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

    def projected(self, states: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Unit vectors that are compared with `vectors`."""
        with torch.autocast(states.device.type, enabled=False):
            return unit(self.from_state(states.float()))

    def own_bias(self) -> Float[Tensor, " prefix"] | None:
        """What is added to the logit of each prefix, where prefixes have vectors of their own."""
        return None if self.bias is None else self.bias[self.own_row]

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
        return self._by_code(code, logits)

    def shares(
        self, log_masses: Float[Tensor, "batch prefix"], parents: Int[Tensor, "batch beam"]
    ) -> Float[Tensor, "batch beam code"]:
        """As `log_probabilities`, where it is known how likely every prefix is."""
        child, code = self.below(parents)
        logits = log_masses.gather(1, child.flatten(1)).view(child.shape)
        return self._by_code(code, logits.masked_fill(code == self.num_codes, -torch.inf))

    def _by_code(
        self, code: Int[Tensor, "batch beam slot"], logits: Float[Tensor, "batch beam slot"]
    ) -> Float[Tensor, "batch beam code"]:
        nothing = logits.new_full((*code.shape[:2], self.num_codes + 1), -torch.inf)
        return nothing.scatter(2, code, logits.log_softmax(-1))[..., :-1]

    def sibling_logits(
        self, compared: "Compared", factors: Factors | None = None
    ) -> Float[Tensor, "sibling batch"]:
        """Of every prefix that has siblings. They come first, so that families are runs of rows."""
        logits = compared.rows(self.sibling)
        if compared.bias is not None:
            logits = logits + compared.bias[self.sibling, None]
        if factors is not None and logits.shape[0]:
            row = torch.arange(logits.shape[1], device=logits.device)[:, None]
            place = self.place_of_sibling[factors.prefixes.clamp(min=0)]
            place = place.masked_fill(factors.prefixes < 0, -1)
            values = factors.log_factors.masked_fill(place < 0, 0)
            places = place.clamp(min=0), row.expand_as(place)
            logits = logits.index_put(places, values, accumulate=True)
        return logits

    def log_shares(self, logits: Float[Tensor, "sibling batch"]) -> Float[Tensor, "sibling batch"]:
        """log p of what `sibling_logits` returned, each prefix among its siblings."""
        if torch.compiler.is_compiling():  # graphs for export know no runs of rows
            lowest = logits.new_full((len(self.first_sibling) - 1, logits.shape[1]), -torch.inf)
            family = self.family[:, None].expand(logits.shape)
            highest = lowest.scatter_reduce(0, family, logits, "amax")
        else:
            highest = torch.segment_reduce(logits, "max", offsets=self.first_sibling, axis=0)
        log_p = logits - highest[self.family]
        total = torch.zeros_like(highest).index_add(0, self.family, log_p.exp())
        return log_p.sub_(total.log_()[self.family])

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
        if compared.bias is not None:
            logits = logits + compared.bias[child]
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
        states: what `TreeLevel.projected` returned, one for all beams of a row.
        vectors: what `TreeLevel.vectors` returned.
        bias: what `TreeLevel.own_bias` returned.
    """

    def __init__(
        self,
        states: Float[Tensor, "batch dim"],
        vectors: Float[Tensor, "prefix dim"],
        bias: Float[Tensor, " prefix"] | None,
    ) -> None:
        self.states, self.vectors, self.bias = states, vectors, bias
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

    def rows(self, prefixes: Int[Tensor, " some"]) -> Float[Tensor, "some batch"]:
        """The products of all states with these prefixes' vectors, prefixes first."""
        if self._every is not None:
            return self._every.T[prefixes]
        return full_product(self.vectors[prefixes], self.states)

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
        found = []
        for number, of_prefix in enumerate(vectors):
            level = self.level(number)
            found.append(Compared(level.projected(states), of_prefix, level.own_bias()))
        return found

    def inputs(self, compared: list[Compared]) -> list[Tensor]:
        """What `item_scores` takes; a part of the first, its rows being those of the batch, will
        do."""
        biases = [x.bias for x in compared if x.bias is not None]
        states = torch.stack([x.states for x in compared], 1)
        return [states, *(x.vectors for x in compared), *biases]

    def item_scores(
        self, states: Float[Tensor, "batch level dim"], *prefixes: Tensor
    ) -> Float[Tensor, "batch item"]:
        """`item_log_probabilities` of what `inputs` returned."""
        vectors, biases = prefixes[: len(self.levels)], prefixes[len(self.levels) :]
        pairs = enumerate(zip_longest(vectors, biases))  # short prefixes alone have a bias
        compared = [Compared(states[:, n], of_prefix, bias) for n, (of_prefix, bias) in pairs]
        return self.item_log_probabilities(compared)

    def item_log_probabilities(
        self, compared: list[Compared], factors: list[Factors] | None = None
    ) -> Float[Tensor, "batch item"]:
        """Of the semantic IDs of all items, from one product with the prefixes of each level."""
        levels, logits = [], []
        for number, of_level in enumerate(compared):
            level = self.level(number)
            own = None if factors is None else factors[number]
            levels.append(level)
            logits.append(level.sibling_logits(of_level, own))
        if not torch.is_grad_enabled():
            return _walk(levels, logits)[0].T.contiguous()
        scores: Tensor = _Walks.apply(levels, *logits)  # type: ignore[no-untyped-call]
        return scores

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


class _Walks(torch.autograd.Function):
    """Every walk from the root to an item: the sum of what was chosen, each among its siblings.

    With g the gradient of an item's score and G(prefix) the sum of g over the items below, that of
    a prefix's logit is G(prefix) - p(prefix | parent) G(parent).
    """

    @staticmethod
    def forward(ctx: Any, levels: list[TreeLevel], *logits: Tensor) -> Tensor:
        scores, kept = _walk(levels, logits)
        scores = scores.T.clone(memory_format=torch.contiguous_format)  # never a view
        ctx.levels = levels
        ctx.save_for_backward(*kept)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_logits = []
        last = ctx.levels[-1]
        below = grad.new_zeros(len(last.code), len(grad)).index_add_(0, last.prefix_of_item, grad.T)
        for level, log_p in zip(reversed(ctx.levels), reversed(ctx.saved_tensors), strict=True):
            own = below[level.sibling]
            of_family = own.new_zeros(len(level.first_sibling) - 1, own.shape[1])
            of_family.index_add_(0, level.family, own)
            of_logits.append(own - log_p.exp() * of_family[level.family])
            of_parent = below.new_zeros(len(level.first_child) - 1, below.shape[1])
            below = of_parent.index_add_(0, level.parent, below)
        return None, *reversed(of_logits)


def _walk(
    levels: list[TreeLevel], logits: Sequence[Float[Tensor, "_ batch"]]
) -> tuple[Float[Tensor, "item batch"], list[Float[Tensor, "_ batch"]]]:
    """The scores of all items, and level by level what `TreeLevel.log_shares` returned."""
    scores, kept = logits[0].new_zeros(1, logits[0].shape[1]), []
    for level, of_level in zip(levels, logits, strict=True):
        log_p = level.log_shares(of_level)
        added = F.pad(log_p, (0, 0, 0, 1))[level.place_of_sibling]  # 0 where nobody competes
        scores = scores[level.parent] + added
        kept.append(log_p)
    return scores[levels[-1].prefix_of_item], kept
