"""A prepared dataset: what every stage after `prepare` reads, without polars.

Items and users are numbered from 0. Item numbers are a random permutation of the catalog, so
that no tie broken by number can favor an order the source happened to have.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bbqrec.errors import CorruptArtifactError
from bbqrec.ranking import Histories
from bbqrec.storage import read_json, read_tensors, sha256_json, write_json, write_tensors

FORMAT_VERSION = 1


class Sequences(NamedTuple):
    """Histories of unequal length, oldest item first: row u is items[offsets[u]:offsets[u+1]]."""

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        return self.items[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: NDArray[np.int64]) -> "Sequences":
        """The given rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], lengths.cumsum()])
        entry = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Sequences(self.items[entry], offsets)

    def to_histories(self) -> Histories:
        return Histories(torch.from_numpy(self.items).long(), torch.from_numpy(self.offsets))


class Cases(NamedTuple):
    """Held-out questions: after this history, which item came next?"""

    users: NDArray[np.int64]
    histories: Sequences
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.int64]) -> "Cases":
        return Cases(self.users[rows], self.histories.take(rows), self.targets[rows])

    def spread(self, count: int) -> NDArray[np.int64]:
        """Rows to show, the same ones always: evenly spread over those whose target is new to its
        user, which alone can be recommended, or over all where there is none."""
        owner = np.repeat(np.arange(len(self)), self.histories.lengths)
        is_repeat = self.histories.items == self.targets[owner]
        rows = np.setdiff1d(np.arange(len(self)), owner[is_repeat])
        rows = rows if len(rows) else np.arange(len(self))
        chosen: NDArray[np.int64] = rows[
            np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))
        ]
        return chosen


@dataclass(frozen=True, eq=False)
class Dataset:
    """Numbered users and items with their split; `train` has one row (maybe empty) per user.

    Args:
        titles: what to call an item in front of people; the item id where there is nothing better.
        is_cold: items removed from all training by the cold-item split.
        info: how it was made: options, statistics, counts of what was dropped and why.
    """

    user_ids: list[str]
    item_ids: list[str]
    titles: list[str]
    train: Sequences
    validation: Cases
    test: Cases
    is_cold: NDArray[np.bool_]
    info: dict[str, Any]

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def fingerprint(self) -> str:
        """Identity of content, split and numbering; stored with whatever is derived from it."""
        return str(self.info["fingerprint"])

    @property
    def catalog_fingerprint(self) -> str:
        """Identity of the item numbering alone: features depend on nothing else."""
        return sha256_json(self.item_ids)

    def popularity(self) -> NDArray[np.int64]:
        """How often each item occurs in training."""
        return np.bincount(self.train.items, minlength=self.num_items)

    def known_histories(self) -> list[NDArray[np.int32]]:
        """All that is known of each user, oldest item first: what was held out is past by now."""
        rows = [self.train.row(user) for user in range(self.num_users)]
        for cases in (self.validation, self.test):  # in order of time
            for case, user in enumerate(cases.users.tolist()):
                rows[user] = np.append(cases.histories.row(case), cases.targets[case])
        return rows

    def save(self, directory: Path) -> None:
        """Write `dataset.json`, `ids.json` and one safetensors file of sequences."""
        tensors: dict[str, NDArray[Any]] = {
            "train.items": self.train.items,
            "train.offsets": self.train.offsets,
            "is_cold": self.is_cold,
        }
        for name, cases in (("validation", self.validation), ("test", self.test)):
            tensors |= {
                f"{name}.users": cases.users,
                f"{name}.targets": cases.targets,
                f"{name}.items": cases.histories.items,
                f"{name}.offsets": cases.histories.offsets,
            }
        write_tensors(
            directory / "sequences.safetensors",
            {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in tensors.items()},
        )
        ids = {"users": self.user_ids, "items": self.item_ids, "titles": self.titles}
        write_json(directory / "ids.json", ids)
        fingerprint = sha256_json([ids, {name: _digest(array) for name, array in tensors.items()}])
        info = {**self.info, "format_version": FORMAT_VERSION, "fingerprint": fingerprint}
        write_json(directory / "dataset.json", info)

    @classmethod
    def load(cls, directory: Path) -> "Dataset":
        """Read what `save` wrote; CorruptArtifactError when something is missing or damaged."""
        info = read_json(directory / "dataset.json")
        if info.get("format_version") != FORMAT_VERSION:
            raise CorruptArtifactError(
                f"{directory} has format {info.get('format_version')!r}, this version reads "
                f"{FORMAT_VERSION}; run `bbqrec prepare` again"
            )
        ids = read_json(directory / "ids.json")
        tensors = {
            name: tensor.numpy()
            for name, tensor in read_tensors(directory / "sequences.safetensors").items()
        }
        try:
            train = Sequences(tensors["train.items"], tensors["train.offsets"])
            validation, test = (
                Cases(
                    tensors[f"{name}.users"],
                    Sequences(tensors[f"{name}.items"], tensors[f"{name}.offsets"]),
                    tensors[f"{name}.targets"],
                )
                for name in ("validation", "test")
            )
            return cls(
                user_ids=ids["users"],
                item_ids=ids["items"],
                titles=ids["titles"],
                train=train,
                validation=validation,
                test=test,
                is_cold=tensors["is_cold"],
                info=info,
            )
        except KeyError as error:
            raise CorruptArtifactError(f"{directory} lacks {error}") from None


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
