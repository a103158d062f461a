"""The events of a prepared dataset with their times: what later events are put in order with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bbqrec.data.dataset import Dataset
from bbqrec.errors import CorruptArtifactError
from bbqrec.storage import read_tensors, write_tensors

LOG_FILE = "log.safetensors"


@dataclass(frozen=True, eq=False)
class EventLog:
    """Interactions of numbered users and items, each user's together and oldest first.

    Args:
        times: what the events are ordered by.
        is_dated: whether `times` are points in time, not just a position in a sequence.
        weights: of each event, where event types or a weight column set any.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[Any]
    is_dated: bool
    weights: NDArray[np.float32] | None
    user_ids: list[str]
    item_ids: list[str]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[Any]) -> "EventLog":
        """The given rows (indices or a mask), ids untouched."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            times=self.times[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def save(self, directory: Path) -> None:
        """Write `log.safetensors`; the ids are those of the dataset beside it."""
        arrays = {"users": self.users, "items": self.items, "times": self.times}
        if self.weights is not None:
            arrays["weights"] = self.weights
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        write_tensors(directory / LOG_FILE, {**tensors, "is_dated": torch.tensor(self.is_dated)})

    @classmethod
    def load(cls, directory: Path, dataset: Dataset) -> "EventLog":
        """Read what `save` wrote; CorruptArtifactError when it does not fit the dataset."""
        tensors = {n: t.numpy() for n, t in read_tensors(directory / LOG_FILE).items()}
        try:
            log = cls(
                users=tensors["users"],
                items=tensors["items"],
                times=tensors["times"],
                is_dated=bool(tensors["is_dated"]),
                weights=tensors.get("weights"),
                user_ids=dataset.user_ids,
                item_ids=dataset.item_ids,
            )
        except KeyError as error:
            raise CorruptArtifactError(f"{directory / LOG_FILE} lacks {error}") from None
        is_known = (log.users < dataset.num_users) & (log.items < dataset.num_items)
        if not is_known.all() or min(log.users.min(initial=0), log.items.min(initial=0)) < 0:
            raise CorruptArtifactError(
                f"{directory / LOG_FILE} names users or items that the dataset does not have"
            )
        return log
