"""The item <-> codes table, the one thing all rooms share."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from bbqrec.errors import CorruptArtifactError, SemanticIdError
from bbqrec.storage import read_tensors, write_tensors

PAD_TOKEN = 0  # also begins a decoded semantic ID, as in T5
EOS_TOKEN = 1
NUM_SPECIAL_TOKENS = 2


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """One tuple of codes for every item: row `item` of `codes`, coarse to fine.

    Args:
        codes: on the CPU; code `c` of level `l` satisfies 0 <= c < codebook_sizes[l].
        codebook_sizes: how many codes each level has.
    """

    codes: Int[Tensor, "item level"]
    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.codebook_sizes):
            raise SemanticIdError(
                f"semantic IDs of shape {tuple(self.codes.shape)} do not have the "
                f"{len(self.codebook_sizes)} levels that their codebook sizes name"
            )
        sizes = torch.tensor(self.codebook_sizes)
        invalid = (self.codes < 0) | (self.codes >= sizes)
        if invalid.any():
            item, level = invalid.nonzero()[0].tolist()
            raise SemanticIdError(
                f"item {item} has code {self.codes[item, level].item()} at level {level}, but "
                f"codes run from 0 to {self.codebook_sizes[level] - 1}; was the table built with "
                "another codebook_size?"
            )

    def __len__(self) -> int:
        return self.codes.shape[0]

    @property
    def num_levels(self) -> int:
        return self.codes.shape[1]

    @property
    def num_tokens(self) -> int:
        """Size of the transformer's vocabulary, specials included."""
        return NUM_SPECIAL_TOKENS + sum(self.codebook_sizes)

    @cached_property
    def level_offsets(self) -> Int[Tensor, " level"]:
        """The token of code 0 at each level."""
        sizes = torch.tensor((NUM_SPECIAL_TOKENS, *self.codebook_sizes[:-1]))
        return sizes.cumsum(0)

    @cached_property
    def tokens(self) -> Int[Tensor, "item token"]:
        """Every item's codes as the transformer sees them."""
        return self.codes + self.level_offsets

    @cached_property
    def collision_rate(self) -> float:
        """Share of items whose semantic ID also names another item."""
        _, inverse, counts = torch.unique(
            self.codes, dim=0, return_inverse=True, return_counts=True
        )
        return float((counts[inverse] > 1).double().mean()) if len(self) else 0.0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the table: a model names the table it was trained on by it."""
        header = f"{self.codebook_sizes}{tuple(self.codes.shape)}".encode()
        return hashlib.sha256(header + self.codes.to(torch.int32).numpy().tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the table as safetensors."""
        write_tensors(
            path,
            {
                "codes": self.codes.to(torch.int32),
                "codebook_sizes": torch.tensor(self.codebook_sizes),
            },
        )

    @classmethod
    def load(cls, path: Path) -> "SemanticIds":
        """Read a table written by `save`; CorruptArtifactError or SemanticIdError if damaged."""
        tensors = read_tensors(path)
        if tensors.keys() != {"codes", "codebook_sizes"}:
            raise CorruptArtifactError(f"{path} is not a table of semantic IDs")
        return cls(tensors["codes"].long(), tuple(tensors["codebook_sizes"].tolist()))
