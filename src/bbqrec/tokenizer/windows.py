"""Batches for the behavior-bound tokenizer: windows of training histories and the items in them."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.data import Sequences
from bbqrec.errors import DataError


class WindowBatch(NamedTuple):
    """Windows of histories, each place of which is one history cut with its next item.

    Args:
        items: distinct item numbers; the other fields name items by their row here.
        histories: left-aligned; unused places hold 0.
        targets: the item that followed each place, where `is_valid`.
        drawn: rows that are a uniform sample of the catalog, for losses that are means over it.
        log_inclusion: log-probability that a batch of this kind holds the item.
    """

    epoch: int
    items: Int[Tensor, " item"]
    histories: Int[Tensor, "batch position"]
    targets: Int[Tensor, "batch position"]
    is_valid: Bool[Tensor, "batch position"]
    drawn: Int[Tensor, " draw"]
    log_inclusion: Float[Tensor, " item"]

    def to(self, device: torch.device) -> "WindowBatch":
        tensors = (x.to(device, non_blocking=True) for x in self[1:])
        return WindowBatch(self.epoch, *tensors)


class WindowSampler:
    """Once an epoch, every user with two training items gives one random window.

    Args:
        max_history: places of a window; it spans one item more, the last target.
        catalog_draws: items drawn uniformly into each batch; at least the catalog's size puts
            all items into every batch.
        seed: with the epoch it fixes the batches.
    """

    def __init__(
        self,
        train: Sequences,
        num_items: int,
        *,
        max_history: int,
        batch_size: int,
        catalog_draws: int,
        seed: int,
    ) -> None:
        self._train = train
        self._num_items = num_items
        self._max_history = max_history
        self._num_draws = min(num_items, catalog_draws)
        self._seed = seed
        self._users = np.flatnonzero(train.lengths >= 2)
        if not len(self._users):
            raise DataError(
                "no user has two interactions in training, so there is no behavior to learn "
                "semantic IDs from; set tokenizer.method to rq_vae or add interactions"
            )
        self.num_batches = math.ceil(len(self._users) / batch_size)
        self._log_inclusion = self._log_inclusion_of_items()

    def batches(self, epoch: int) -> Iterator[WindowBatch]:
        """The batches of an epoch: the same whenever asked for."""
        generator = np.random.default_rng((self._seed, epoch))
        users = generator.permutation(self._users)
        for part in np.array_split(users, self.num_batches):
            yield self._batch(part, epoch, generator)

    def _batch(
        self, users: NDArray[np.int64], epoch: int, generator: np.random.Generator
    ) -> WindowBatch:
        lengths = self._train.lengths[users]
        spans = np.minimum(lengths, self._max_history + 1)
        starts = self._train.offsets[users] + generator.integers(0, lengths - spans + 1)
        place = np.arange(spans.max())
        is_used = place < spans[:, None]
        entries = np.where(is_used, starts[:, None] + place, 0)
        windows = self._train.items[entries]

        drawn = generator.choice(self._num_items, self._num_draws, replace=False)
        items = np.unique(np.concatenate([windows[is_used], drawn])).astype(np.int64)
        rows = np.where(is_used, np.searchsorted(items, windows), 0)
        return WindowBatch(
            epoch=epoch,
            items=torch.from_numpy(items),
            histories=torch.from_numpy(rows[:, :-1]),
            targets=torch.from_numpy(rows[:, 1:]),
            is_valid=torch.from_numpy(is_used[:, 1:]),
            drawn=torch.from_numpy(np.searchsorted(items, drawn)),
            log_inclusion=self._log_inclusion[torch.from_numpy(items)],
        )

    def _log_inclusion_of_items(self) -> Float[Tensor, " item"]:
        """As if each occurrence in training fell into a window and a batch by chance of its own."""
        lengths = self._train.lengths
        share = np.minimum(1.0, (self._max_history + 1) / np.maximum(lengths, 1))
        share[lengths < 2] = 0.0
        met = np.bincount(self._train.items, np.repeat(share, lengths), self._num_items)
        not_met = np.power(1.0 - 1.0 / self.num_batches, met)
        not_drawn = 1.0 - self._num_draws / self._num_items
        return torch.from_numpy(np.log1p(-not_met * not_drawn)).float().clamp(min=-30.0)
