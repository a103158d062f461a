"""One level of the prefix index: which codes may follow each prefix of one length."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int32, Integer
from torch import Tensor

MIN_WINDOW, MAX_WINDOW = 8, 32  # edges
WORD = 32  # bits of the words that say which edges are open; a window reads two


class Windows(NamedTuple):
    """What can follow each beam, in runs of neighboring edges of equal length.

    A beam with many children has several rows, so that one wide node does not set the cost of
    all.

    Args:
        num_places: how many slots of each row belong to its node; the others hold codes of others.
        mask: added to the scores: 0, or -inf at places that hold codes of other nodes or of edges
            that are not open. (To fill these in takes ten times as long on a CPU.)
    """

    beam: Int[Tensor, "batch row"]
    first_edge: Int[Tensor, "batch row"]
    num_places: Int[Tensor, "batch row"]
    codes: Integer[Tensor, "batch row slot"]
    mask: Float[Tensor, "batch row slot"]


@dataclass(frozen=True, eq=False)
class Level:
    """The edges from one level's nodes to the next: node n has first_edge[n]:first_edge[n + 1].

    Args:
        padded_codes: the code of each edge, one byte where the codebook allows it, then `window`
            zeros, so that a window may begin at any edge.
        fan_out: the most edges that leave one node.
        window: edges that are read at once.
        open_bits: a bit per edge, 0 where nothing allowed lies behind it; None: all are open.
    """

    padded_codes: Integer[Tensor, " padded_edge"]
    first_edge: Int32[Tensor, " node_plus_one"]
    fan_out: int
    window: int
    open_bits: Int32[Tensor, " word"] | None = None

    @classmethod
    def of(cls, codes: Integer[Tensor, " edge"], first_edge: Int[Tensor, " bound"]) -> "Level":
        """A level in which all edges are open."""
        num_children = first_edge.diff().double()
        fan_out = int(num_children.max()) if len(num_children) else 0
        # What a beam meets is rather the wide nodes: the mean over edges, not over nodes.
        usual = float(num_children.square().sum()) / max(1, len(codes))
        width = max(MIN_WINDOW, 1 << int(max(1.0, usual) - 1).bit_length())
        window = min(fan_out, MAX_WINDOW, width)
        return cls(F.pad(codes, (0, window)), first_edge.int(), fan_out, window)

    @property
    def num_edges(self) -> int:
        return self.padded_codes.shape[0] - self.window

    @property
    def num_nodes(self) -> int:
        return self.first_edge.shape[0] - 1

    @property
    def codes(self) -> Integer[Tensor, " edge"]:
        return self.padded_codes[: self.num_edges]

    @property
    def is_open(self) -> Bool[Tensor, " edge"]:
        return self.are_open(torch.arange(self.num_edges, device=self.first_edge.device))

    @cached_property
    def open_edges(self) -> Int[Tensor, " open_edge"]:
        """The numbers of the open edges, in order."""
        if self.open_bits is None:
            return torch.arange(self.num_edges, device=self.first_edge.device)
        words = self.open_bits.nonzero()  # (word, 1), mostly few where few edges are open
        bit = torch.arange(WORD, device=words.device)
        is_open = (self.open_bits[words] >> bit) & 1 > 0  # (word, bit)
        return (words * WORD + bit)[is_open]

    def are_open(self, edges: Int[Tensor, " some_edge"]) -> Bool[Tensor, " some_edge"]:
        if self.open_bits is None:
            return torch.ones_like(edges, dtype=torch.bool)
        return (self.open_bits[edges // WORD] >> (edges % WORD)) & 1 > 0

    def only(self, is_open: Bool[Tensor, " edge"]) -> "Level":
        """The same edges, of which these are open."""
        # One word more than needed: the window from the last edge reads two.
        missing = -len(is_open) % WORD + WORD
        bits = F.pad(is_open, (0, missing)).view(-1, WORD).int()
        bit = torch.arange(WORD, dtype=torch.int32, device=is_open.device)
        words = (bits << bit).sum(1, dtype=torch.int32)
        return replace(self, open_bits=words)

    def without(self, edges: Int[Tensor, " closed"]) -> "Level":
        """The same edges, of which these, open so far and each given once, are closed.

        Costs what the given edges cost, and a copy of the bits.
        """
        if self.open_bits is None:
            num_full, num_more = divmod(self.num_edges, WORD)
            words = self.first_edge.new_zeros(num_full + (num_more > 0) + 1)
            words[:num_full] = -1
            words[num_full] = (1 << num_more) - 1
        else:
            words = self.open_bits.clone()
        bits = torch.ones_like(edges, dtype=torch.int32) << (edges % WORD).int()
        words.index_add_(0, edges // WORD, bits, alpha=-1)
        return replace(self, open_bits=words)

    def to(self, device: torch.device | str) -> "Level":
        words = None if self.open_bits is None else self.open_bits.to(device)
        codes, first_edge = self.padded_codes.to(device), self.first_edge.to(device)
        return replace(self, padded_codes=codes, first_edge=first_edge, open_bits=words)

    def tensors(self) -> list[Tensor]:
        bits = [] if self.open_bits is None else [self.open_bits]
        return [self.padded_codes, self.first_edge, *bits]

    def below(
        self, nodes: Int[Tensor, "batch beam"], is_alive: Bool[Tensor, "batch beam"] | None = None
    ) -> Windows:
        """The edges below the given nodes.

        Args:
            is_alive: nothing is below other nodes, and those that are alive differ. There are as
                many rows then as any such nodes can have. Without it their number follows from
                these nodes, which the device must be asked.
        """
        bounds = torch.stack([nodes, nodes + 1])
        bounds = self.first_edge.index_select(0, bounds.flatten()).long().view(bounds.shape)
        first, end = bounds.unbind()
        if is_alive is not None:
            end = torch.where(is_alive, end, first)
        beam = torch.arange(nodes.shape[1], device=nodes.device).expand_as(nodes)
        if self.fan_out > self.window:
            num_rows = (end - first + self.window - 1) // self.window
            last_row = num_rows.cumsum(1)
            if is_alive is not None:
                most = self._most_rows(nodes.shape[1])
            else:
                most = int(last_row[:, -1].max()) if len(nodes) else 0
            row = torch.arange(most, device=nodes.device)
            row = row.expand(len(nodes), -1).contiguous()
            beam = torch.searchsorted(last_row, row, right=True)
            is_used = beam < nodes.shape[1]  # users with fewer rows than others have spare ones
            beam = beam.clamp(max=nodes.shape[1] - 1)
            row = row - (last_row - num_rows).gather(1, beam)
            first = (first.gather(1, beam) + row * self.window) * is_used
            end = end.gather(1, beam) * is_used
        # A view of overlapping windows: selecting rows of it copies runs of codes, which is many
        # times faster than looking up every edge by its number.
        windows = self.padded_codes.unfold(0, self.window, 1)
        codes = windows.index_select(0, first.flatten()).view(*first.shape, self.window)
        num_places = (end - first).clamp(max=self.window)
        mask = self._masks.index_select(0, num_places.flatten()).view(codes.shape)
        if self.open_bits is not None:
            word = first // WORD
            low = self.open_bits[word].long() & 0xFFFFFFFF
            bits = (low | (self.open_bits[word + 1].long() << 32)) >> (first % WORD)
            slot = torch.arange(self.window, device=nodes.device)
            mask.masked_fill_((bits[..., None] >> slot) & 1 == 0, -torch.inf)
        return Windows(beam, first, num_places, codes, mask)

    def from_root(self, batch: int) -> Windows:
        """`below` of a single node 0 for each of `batch` users."""
        return Windows(*(part.expand(batch, *part.shape[1:]) for part in self._from_root))

    @cached_property
    def _from_root(self) -> Windows:
        return self.below(torch.zeros((1, 1), dtype=torch.int64, device=self.first_edge.device))

    def _most_rows(self, num_nodes: int) -> int:
        """How many windows the widest nodes have together."""
        most = 0
        for num_rows, num_such in reversed(self._nodes_by_rows):
            most += num_rows * min(num_nodes, num_such)
            num_nodes -= min(num_nodes, num_such)
        return max(1, most)

    @cached_property
    def _nodes_by_rows(self) -> list[tuple[int, int]]:
        """Numbers of windows, fewest first, and how many nodes have so many."""
        num_rows = (self.first_edge.diff() + self.window - 1) // self.window
        return list(enumerate(num_rows.bincount().tolist()))

    @cached_property
    def _masks(self) -> Float[Tensor, "num_places slot"]:
        """The mask of a window of which so many places belong to its node."""
        shape, device = (self.window + 1, self.window), self.first_edge.device
        return torch.full(shape, -torch.inf, device=device).triu()

    def num_open_children(self, nodes: Int[Tensor, " node"]) -> Int[Tensor, " node"]:
        """How many open edges leave each of the given nodes."""
        first, end = self.first_edge[nodes].long(), self.first_edge[nodes + 1].long()
        return self._num_open_before(end) - self._num_open_before(first)

    def _num_open_before(self, edges: Int[Tensor, " some_edge"]) -> Int[Tensor, " some_edge"]:
        if self.open_bits is None:
            return edges
        word = edges // WORD
        below = (1 << (edges % WORD)) - 1  # the bits of the edges before, in the same word
        return self._open_before_word[word] + _num_bits(self.open_bits[word] & below)

    @cached_property
    def _open_before_word(self) -> Int[Tensor, " word"]:
        """How many open edges come before each word of bits."""
        assert self.open_bits is not None
        num_bits = _num_bits(self.open_bits)
        return num_bits.cumsum(0) - num_bits


def _num_bits(words: Integer[Tensor, " some_word"]) -> Int[Tensor, " some_word"]:
    """How many bits of each 32-bit word are 1: sums of neighbors, of neighboring sums, and on."""
    x = words.long() & 0xFFFFFFFF
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) & 0xFFFFFFFF) >> 24
