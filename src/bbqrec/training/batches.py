"""The training sequences on the device, where an epoch's batches are cut from them.

Within an epoch nothing goes to the device and nothing comes back from it: a GPU that is asked how
long something is must first finish all it was told to do.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.data import Sequences
from bbqrec.recommender import EntryCounts, following_places


class HostCounts(NamedTuple):
    """For every target of a batch, row by row, how many items the user had before it."""

    all: NDArray[np.int64]
    distinct: NDArray[np.int64]

    def of(self, entries: slice) -> EntryCounts:
        """Of some of the targets together."""
        every, distinct = self.all[entries], self.distinct[entries]
        return EntryCounts(int(every.sum()), int(distinct.sum()), int(every.max(initial=0)))


class Batch(NamedTuple):
    """Windows of histories, and the item that followed each of theirs.

    Args:
        items: oldest first, left-aligned, -1 in unused places.
        targets: of the same form: one for every item.
        lengths: items of each window.
        users: row of the training sequences that each window is cut from.
        before: items of that row before the window.
        counts: known on the host.
    """

    items: Int[Tensor, "batch position"]
    targets: Int[Tensor, "batch position"]
    lengths: Int[Tensor, " batch"]
    users: Int[Tensor, " batch"]
    before: Int[Tensor, " batch"]
    counts: HostCounts

    @property
    def num_targets(self) -> int:
        return len(self.counts.all)


class TrainingHistories:
    """What every user had, on the device, and on the host how much it was."""

    def __init__(self, sequences: Sequences, device: str) -> None:
        histories = sequences.to_histories()
        following = following_places(histories)
        self.all = histories.to(device)
        self.following = following.to(device)
        self._device = device
        self._offsets = sequences.offsets
        first = np.repeat(sequences.offsets[:-1], sequences.lengths)
        self._place = np.arange(len(first)) - first
        is_new = np.ones(len(first), dtype=np.int64)
        comes_again = following.numpy() < len(first)
        is_new[first[comes_again] + following.numpy()[comes_again]] = 0
        num_new = np.concatenate([[0], is_new.cumsum()])
        self._distinct = num_new[:-1] - num_new[first]

    def batches(
        self,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        rows_of_batches: Iterable[NDArray[np.int64]],
    ) -> Iterator[Batch]:
        """Cut windows of `length` items, each followed by one more item, the last target.

        Args:
            rows_of_batches: which of the windows share a batch.
        """
        rows = list(rows_of_batches)
        if not rows:
            return
        order = np.concatenate(rows)
        starts, lengths = starts[order], lengths[order]
        users = np.searchsorted(self._offsets, starts, side="right") - 1
        before = starts - self._offsets[users]
        windows = torch.from_numpy(np.stack([starts, lengths, users, before])).to(self._device)
        end = 0
        for size in map(len, rows):
            begin, end = end, end + size
            yield self._cut(windows[:, begin:end], starts[begin:end], lengths[begin:end])

    def _cut(
        self,
        windows: Int[Tensor, "4 batch"],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Batch:
        start, length, user, before = windows.unbind()
        position = torch.arange(int(lengths.max()) + 1, device=windows.device)
        entry = (start[:, None] + position).clamp(max=len(self.all.items) - 1)
        items = self.all.items[entry].masked_fill(position > length[:, None], -1)
        inputs = items[:, :-1].masked_fill(position[:-1] >= length[:, None], -1)
        first = np.repeat(starts + 1 - lengths.cumsum() + lengths, lengths)
        target = first + np.arange(len(first))
        counts = HostCounts(self._place[target], self._distinct[target])
        return Batch(inputs, items[:, 1:], length, user, before, counts)
