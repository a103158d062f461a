"""Which codes may follow which prefix: the catalog's semantic IDs as a trie in flat arrays.

Prefixes are numbered level by level in lexicographic order, so the children of a node are
contiguous and the number of an edge is the number of the node it leads to: no table of next
states is needed. The last level has one edge per item, in order of code and then of item number;
items that share a semantic ID are neighbors with equal codes.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Int32
from torch import Tensor

from bbqrec.decoding.level import Level
from bbqrec.ranking import Histories
from bbqrec.semantic_ids import SemanticIds

KEPT_MASKS = 4
# What one item costs that is closed alone, and what closing any number alone costs on top, beside
# what it costs to find out for one item of the catalog what of it is open.
REMOVE_COST, REMOVE_START = 16, 40_000


class Blocked(NamedTuple):
    """Edges of one level that are closed to single users; -1 in places that say nothing."""

    users: Int[Tensor, " entry"]
    edges: Int[Tensor, " entry"]


@dataclass(frozen=True, eq=False)
class PrefixIndex:
    """The semantic IDs of a catalog, of which some or all items may be found, coarse to fine.

    Args:
        items: the item at each edge of the last level.
        places: the last-level edge of each item.
        num_open: how many of the items may be found.
    """

    levels: tuple[Level, ...]
    items: Int32[Tensor, " edge"]
    places: Int32[Tensor, " item"]
    num_open: int

    @classmethod
    def build(cls, ids: SemanticIds) -> "PrefixIndex":
        """One radix sort per level, then one pass per level; all vectorized."""
        columns = [
            column.numpy().astype(_smallest_dtype(size))
            for column, size in zip(ids.codes.T, ids.codebook_sizes, strict=True)
        ]
        items = torch.from_numpy(np.lexsort(columns[::-1]).astype(np.int32))  # stable
        levels: list[Level] = []
        begins_node = torch.zeros(len(ids), dtype=torch.bool)  # in the order of the sort
        begins_node[:1] = True
        for column in columns:
            codes = torch.from_numpy(column[items.numpy()])
            if len(levels) + 1 < ids.num_levels:
                begins_edge = begins_node.clone()
                begins_edge[1:] |= codes[1:] != codes[:-1]
            else:
                begins_edge = torch.ones_like(begins_node)
            begins = begins_edge.nonzero()[:, 0]
            # The number of a node's first edge: how many edges begin before the node does.
            first_edge = begins_node[begins].nonzero()[:, 0]
            levels.append(Level.of(codes[begins], F.pad(first_edge, (0, 1), value=len(begins))))
            begins_node = begins_edge
        return cls(tuple(levels), items, _inverse(items), len(ids))

    def __len__(self) -> int:
        """How many items can be found."""
        return self.num_open

    @property
    def num_items(self) -> int:
        """Size of the whole catalog, which item numbers refer to."""
        return len(self.items)

    @property
    def num_bytes(self) -> int:
        """Memory of the levels; the two tables of items take 8 bytes for each of them on top."""
        tensors = [tensor for level in self.levels for tensor in level.tensors()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, device: torch.device | str) -> "PrefixIndex":
        items = self.items.to(device)
        if items is self.items:
            return self
        levels = tuple(level.to(device) for level in self.levels)
        return replace(self, levels=levels, items=items, places=self.places.to(device))

    def are_open(self, items: Int[Tensor, " some_item"]) -> Bool[Tensor, " some_item"]:
        """Which of these items may be found."""
        return self.levels[-1].are_open(self.places[items].long())

    def only(self, allowed: Bool[Tensor, " item"]) -> "PrefixIndex":
        """As `restrict`, quickly for masks that come again or close little.

        The latest few are kept with what was made of them.
        """
        allowed, kept = allowed.cpu(), tuple(self._kept)
        entry = next((entry for entry in kept if torch.equal(entry[0], allowed)), None)
        if entry is None:
            closed = (~allowed).nonzero()[:, 0]
            is_few = REMOVE_COST * len(closed) + REMOVE_START < self.num_items
            # A copy of the mask, since whoever asks may write to it.
            entry = allowed.clone(), self.remove(closed) if is_few else self.restrict(allowed)
        # In one step, since another thread may read.
        self._kept[:] = [entry, *(other for other in kept if other is not entry)][:KEPT_MASKS]
        return entry[1]

    @cached_property
    def _kept(self) -> "list[tuple[Tensor, PrefixIndex]]":
        return []

    def restrict(self, allowed: Bool[Tensor, " item"]) -> "PrefixIndex":
        """The index of those of its items that are allowed: what leads only to others is closed.

        Arrays are shared with this index; a restricted one has a bit per edge of its own.
        """
        is_open = allowed.to(self.items.device)[self.items]  # (edge,)
        if self.num_open < self.num_items:
            is_open = is_open & self.levels[-1].is_open
        num_open = int(is_open.count_nonzero())
        levels: list[Level] = []
        for level in reversed(self.levels):
            levels.append(level.only(is_open))
            before = F.pad(is_open.cumsum(0, dtype=torch.int32), (1, 0))
            is_open = before[level.first_edge].diff() > 0  # nodes: the edges of the level above
        return replace(self, levels=tuple(reversed(levels)), num_open=num_open)

    def remove(self, items: Int[Tensor, " closed"]) -> "PrefixIndex":
        """The index without these items: what leads only to them is closed, as by `restrict`.

        Costs what the given items cost and a copy of the bits, an eighth of a byte per edge.
        """
        one = Histories(items, torch.tensor([0, len(items)], device=items.device))
        blocked = self.blocked_by(one.to(self.items.device))
        levels = tuple(
            level.without(closed.edges) for level, closed in zip(self.levels, blocked, strict=True)
        )
        return replace(self, levels=levels, num_open=self.num_open - len(blocked[-1].edges))

    def add(self, codes: Int[Tensor, "new level"]) -> "PrefixIndex":
        """The index with further items, numbered after the last; on the CPU.

        Copies the index once; only the new codes are sorted. Items that are not open stay so.
        """
        order = torch.from_numpy(np.lexsort(codes.T.flip(0).numpy()))
        node = torch.zeros_like(order)  # each new item's prefix so far
        number = torch.zeros(1, dtype=torch.int64)  # what this level's old nodes are called now
        num_nodes = 1
        levels: list[Level] = []
        for level, column in zip(self.levels, codes[order].T, strict=True):
            bound = int(torch.cat([level.codes.long(), column]).max()) + 1
            old = torch.repeat_interleave(number, level.first_edge.diff()) * bound + level.codes
            wanted = node * bound + column
            added = wanted
            if len(levels) + 1 < len(self.levels):
                added = wanted.unique_consecutive()
                added = added[~torch.isin(added, old, assume_unique=True)]
            keys, is_new = _merge(old, added)
            first_edge = torch.searchsorted(keys // bound, torch.arange(num_nodes + 1))
            levels.append(Level.of((keys % bound).to(level.codes.dtype), first_edge))
            node, number = torch.searchsorted(keys, wanted), (~is_new).nonzero()[:, 0]
            num_nodes = len(keys)
        items = torch.empty(num_nodes, dtype=torch.int32)
        items[is_new], items[~is_new] = (self.num_items + order).int(), self.items
        found = PrefixIndex(tuple(levels), items, _inverse(items), len(items))
        if self.num_open == self.num_items:
            return found
        was_open = self.are_open(torch.arange(self.num_items))
        return found.restrict(F.pad(was_open, (0, len(codes)), value=True))

    def blocked_by(self, excluded: Histories, *, is_static: bool = False) -> list[Blocked]:
        """What is closed, per level, to users who must not get the items given for each.

        An edge is closed to a user when no item that the user may get is left behind it: the
        items' own edges, and from there upward every edge all of whose children are closed.

        Args:
            is_static: every level has an entry for each excluded item, most of them saying nothing;
                their number else follows from what is closed, which the device must be asked.
        """
        edges = self.places[excluded.items].long()
        entry = torch.arange(len(edges), device=edges.device)
        users = torch.searchsorted(excluded.offsets, entry, right=True) - 1
        pairs = (users * self.num_items + edges).sort().values
        users, edges = pairs // self.num_items, pairs % self.num_items
        is_closed = _begins(pairs) & self.levels[-1].are_open(edges)
        blocked: list[Blocked] = []
        for level in reversed(self.levels):
            if not is_static:
                users, edges, is_closed = users[is_closed], edges[is_closed], is_closed[is_closed]
            if not len(edges):
                blocked.append(Blocked(users, edges))
                continue
            blocked.append(Blocked(users, edges.masked_fill(~is_closed, -1)))
            nodes = torch.searchsorted(level.first_edge, edges.int(), right=True) - 1
            begins_node = _begins(users * level.num_nodes + nodes)
            group = begins_node.cumsum(0) - 1
            num_closed = torch.zeros_like(edges).index_add_(0, group, is_closed.long())[group]
            is_closed = num_closed == level.num_open_children(nodes)
            is_closed &= begins_node & (num_closed > 0)
            edges = nodes
        return blocked[::-1]


def _inverse(items: Int32[Tensor, " edge"]) -> Int32[Tensor, " item"]:
    places = torch.empty_like(items)
    places[items.long()] = torch.arange(len(items), dtype=torch.int32, device=items.device)
    return places


def _begins(ordered: Int[Tensor, " entry"]) -> Bool[Tensor, " entry"]:
    """Which entries differ from the one before."""
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return begins


def _merge(
    old: Int[Tensor, " old"], added: Int[Tensor, " new"]
) -> tuple[Int[Tensor, " edge"], Bool[Tensor, " edge"]]:
    """Two sorted lists as one, of equals the old ones first, and which entries are new."""
    place = torch.searchsorted(old, added, right=True) + torch.arange(len(added))
    is_new = torch.zeros(len(old) + len(added), dtype=torch.bool)
    is_new[place] = True
    keys = torch.empty(len(is_new), dtype=torch.int64)
    keys[is_new], keys[~is_new] = added, old
    return keys, is_new


def _smallest_dtype(codebook_size: int) -> type[np.unsignedinteger | np.signedinteger]:
    """A type that holds the codes; for one or two bytes numpy sorts by radix."""
    if codebook_size <= 2**8:
        return np.uint8
    return np.int16 if codebook_size <= 2**15 else np.int32
