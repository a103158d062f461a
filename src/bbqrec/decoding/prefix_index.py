"""Which codes may follow which prefix: the catalog's semantic IDs as a trie in flat arrays.

Prefixes are numbered level by level in lexicographic order, so the children of a node are
contiguous and the number of an edge is the number of the node it leads to: no table of next
states is needed. The last level has one edge per item, in order of code and then of item number;
items that share a semantic ID are neighbors with equal codes.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Int32, Integer
from torch import Tensor

from bbqrec.ranking import Histories
from bbqrec.semantic_ids import SemanticIds


class Level(NamedTuple):
    """The edges from one level's nodes to the next: node n has first_edge[n]:first_edge[n + 1].

    Args:
        padded_codes: the code of each edge, one byte where the codebook allows it, then `fan_out`
            zeros, so that a window of that width may begin at any edge.
        fan_out: the most edges that leave one node.
    """

    padded_codes: Integer[Tensor, " padded_edge"]
    first_edge: Int32[Tensor, " node_plus_one"]
    fan_out: int

    @property
    def num_edges(self) -> int:
        return self.padded_codes.shape[0] - self.fan_out

    @property
    def num_nodes(self) -> int:
        return self.first_edge.shape[0] - 1

    @property
    def codes(self) -> Integer[Tensor, " edge"]:
        return self.padded_codes[: self.num_edges]

    def children(self, nodes: Int[Tensor, "batch beam"]) -> "Children":
        """The edges below the given nodes, each padded to `fan_out` places."""
        first_edge = self.first_edge[nodes]
        # A view of overlapping windows: selecting rows of it copies runs of codes, which is many
        # times faster than looking up every edge by its number.
        windows = self.padded_codes.unfold(0, self.fan_out, 1)
        codes = windows.index_select(0, first_edge.flatten()).view(*nodes.shape, -1)
        slots = torch.arange(self.fan_out, dtype=torch.int32, device=nodes.device)
        num_children = self.first_edge[nodes + 1] - first_edge
        return Children(first_edge, codes.long(), slots >= num_children[..., None])


class Children(NamedTuple):
    """What can follow each beam; places in `is_padding` hold codes of other nodes."""

    first_edge: Int[Tensor, "batch beam"]
    codes: Int[Tensor, "batch beam child"]
    is_padding: Bool[Tensor, "batch beam child"]


class Blocked(NamedTuple):
    """Edges of one level that are closed to single users: the `slots`-th child of `nodes`."""

    users: Int[Tensor, " entry"]
    nodes: Int[Tensor, " entry"]
    slots: Int[Tensor, " entry"]


@dataclass(frozen=True, eq=False)
class PrefixIndex:
    """The semantic IDs of some or all items of a catalog, searchable from coarse to fine.

    Args:
        items: the item at each edge of the last level.
        num_items: size of the whole catalog, which item numbers refer to.
    """

    levels: tuple[Level, ...]
    items: Int32[Tensor, " edge"]
    num_items: int

    @classmethod
    def build(cls, ids: SemanticIds) -> "PrefixIndex":
        """Sort the table level by level; O(items x levels), vectorized."""
        levels: list[Level] = []
        node = torch.zeros(len(ids), dtype=torch.int64)  # each item's prefix so far
        num_nodes = 1
        for column, codebook_size in zip(ids.codes.T, ids.codebook_sizes, strict=True):
            key = node * codebook_size + column
            if len(levels) + 1 < ids.num_levels:
                edges, node = key.unique(return_inverse=True)
            else:
                edges, items = key.sort(stable=True)
            num_children = torch.bincount(edges // codebook_size, minlength=num_nodes)
            codes = (edges % codebook_size).to(_smallest_dtype(codebook_size))
            levels.append(_level(codes, F.pad(num_children.cumsum(0), (1, 0))))
            num_nodes = len(edges)
        return cls(tuple(levels), items.int(), len(ids))

    def __len__(self) -> int:
        """How many items can be found."""
        return self.items.shape[0]

    @property
    def num_bytes(self) -> int:
        tensors = [tensor for level in self.levels for tensor in level[:2]]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*tensors, self.items])

    @cached_property
    def places(self) -> Int[Tensor, " item"]:
        """The last-level edge of every item of the catalog, -1 for items that are not here."""
        places = self.items.new_full((self.num_items,), -1)
        places[self.items] = torch.arange(len(self), dtype=torch.int32, device=self.items.device)
        return places

    def to(self, device: torch.device | str) -> "PrefixIndex":
        items = self.items.to(device)
        if items is self.items:
            return self
        levels = tuple(
            Level(level.padded_codes.to(device), level.first_edge.to(device), level.fan_out)
            for level in self.levels
        )
        return PrefixIndex(levels, items, self.num_items)

    def restrict(self, allowed: Bool[Tensor, " item"]) -> "PrefixIndex":
        """The index of the allowed items alone: what leads only to others is gone."""
        keep = allowed.to(self.items.device)[self.items]  # edges
        items = self.items[keep]
        levels: list[Level] = []
        for level in reversed(self.levels):
            first_edge = F.pad(keep.cumsum(0), (1, 0))[level.first_edge]
            codes = level.codes[keep]
            keep = first_edge.diff() > 0  # nodes, which are the edges of the level above
            levels.append(_level(codes, torch.cat([first_edge[:-1][keep], first_edge[-1:]])))
        return PrefixIndex(tuple(reversed(levels)), items, self.num_items)

    def blocked_by(self, excluded: Histories) -> list[Blocked]:
        """What is closed, per level, to users who must not get the items given for each.

        An edge is closed to a user when no item that the user may get is left behind it: the
        items' own edges, and from there upward every edge all of whose children are closed.
        """
        edges = self.places[excluded.items].long()
        is_here = edges >= 0
        pairs = torch.unique((excluded.rows() * len(self) + edges)[is_here])
        users, edges = pairs // len(self), pairs % len(self)
        blocked: list[Blocked] = []
        for level in reversed(self.levels):
            nodes = torch.searchsorted(level.first_edge, edges.int(), right=True) - 1
            blocked.append(Blocked(users, nodes, edges - level.first_edge[nodes]))
            pairs, num_closed = torch.unique_consecutive(
                users * level.num_nodes + nodes, return_counts=True
            )
            users, nodes = pairs // level.num_nodes, pairs % level.num_nodes
            is_closed = num_closed == level.first_edge.diff()[nodes]
            users, edges = users[is_closed], nodes[is_closed]
        return blocked[::-1]


def _level(codes: Tensor, first_edge: Tensor) -> Level:
    fan_out = int(first_edge.diff().max()) if first_edge.shape[0] > 1 else 0
    return Level(F.pad(codes, (0, fan_out)), first_edge.int(), fan_out)


def _smallest_dtype(codebook_size: int) -> torch.dtype:
    if codebook_size <= 2**8:
        return torch.uint8
    return torch.int16 if codebook_size <= 2**15 else torch.int32
