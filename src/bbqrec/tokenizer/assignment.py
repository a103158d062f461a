"""From quantized targets to a table of semantic IDs, whichever method made the targets."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.semantic_ids import SemanticIds
from bbqrec.tokenizer.collisions import resolve_collisions
from bbqrec.tokenizer.kmeans import nearest


class Assignment(NamedTuple):
    """Every item's codes as its targets ask, and with collisions resolved.

    Args:
        wanted: codes before reassignment.
        targets: what each level approximates together with the levels before it.
        codebooks: one per level of the semantic ID.
    """

    semantic_ids: SemanticIds
    wanted: Int[Tensor, "item level"]
    targets: Float[Tensor, "item level dim"]
    codebooks: list[Float[Tensor, "_ dim"]]

    def quantized(self) -> Float[Tensor, "item dim"]:
        """The sum of each item's final code vectors."""
        return explained_by(self.semantic_ids.codes, self.codebooks)[:, -1]


def explained_by(
    codes: Int[Tensor, "item level"], codebooks: list[Float[Tensor, "_ dim"]]
) -> Float[Tensor, "item level dim"]:
    """Sums of code vectors up to and with each level."""
    vectors = [book[codes[:, level]] for level, book in enumerate(codebooks)]
    return torch.stack(vectors, 1).cumsum(1)


def assign(
    targets: Float[Tensor, "item level dim"], codebooks: list[Float[Tensor, "_ dim"]]
) -> Assignment:
    """Quantize greedily level by level, then make all semantic IDs distinct.

    Raises:
        SemanticIdError: there are more items than tuples.
    """
    wanted = greedy_codes(targets, codebooks)
    codes = resolve_collisions(wanted, targets, codebooks)
    sizes = tuple(len(codebook) for codebook in codebooks)
    return Assignment(SemanticIds(codes, sizes), wanted, targets, codebooks)


def greedy_codes(
    targets: Float[Tensor, "item level dim"], codebooks: list[Float[Tensor, "_ dim"]]
) -> Int[Tensor, "item level"]:
    """At each level the code nearest to what the levels before it left unexplained."""
    explained = torch.zeros_like(targets[:, 0])
    columns = []
    for level, codebook in enumerate(codebooks):
        column = nearest(targets[:, level] - explained, codebook)
        explained = explained + codebook[column]
        columns.append(column)
    return torch.stack(columns, 1)


def join_parts(
    targets: Float[Tensor, "item part level dim"],
    codebooks: list[list[Float[Tensor, "_ dim"]]],
) -> tuple[Float[Tensor, "item all_levels all_dims"], list[Float[Tensor, "_ all_dims"]]]:
    """Several semantic IDs one after the other as a single one in the product space.

    Part p owns block p of the dimensions, its code vectors are zero elsewhere: then distances,
    residuals and collisions mean the same as for one part.
    """
    num_items, num_parts, num_levels, dim = targets.shape
    joined = targets.permute(0, 2, 1, 3).reshape(num_items, num_levels, num_parts * dim)
    padded = [
        torch.nn.functional.pad(book, (part * dim, (num_parts - 1 - part) * dim))
        for part, books in enumerate(codebooks)
        for book in books
    ]
    return joined.repeat(1, num_parts, 1), padded
