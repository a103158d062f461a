"""Give every item a semantic ID of its own."""

import math
from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.errors import SemanticIdError
from bbqrec.progress import track


def resolve_collisions(
    codes: Int[Tensor, "item level"],
    targets: Float[Tensor, "item level dim"],
    codebooks: list[Float[Tensor, "_ dim"]],
) -> Int[Tensor, "item level"]:
    """Reassign items that share a tuple until all tuples are distinct.

    Among items of one tuple the one nearest its last code keeps it. The others, nearest first,
    take the nearest free tuple with as many of their first codes as possible: another last code,
    then another one before it, and so on. Terminates always: it enters only prefixes that still
    have a free tuple.

    Args:
        targets: what level l approximates together with the levels before it.

    Raises:
        SemanticIdError: there are more items than tuples.
    """
    sizes = [len(codebook) for codebook in codebooks]
    num_items = len(codes)
    if num_items > math.prod(sizes):
        raise SemanticIdError(
            f"{num_items} items cannot have distinct semantic IDs of {len(sizes)} levels with "
            f"{sizes} codes ({math.prod(sizes)} tuples); raise tokenizer.codebook_size or "
            "tokenizer.num_levels"
        )
    displaced = _displaced_items(codes, targets, codebooks)
    result = codes.numpy().copy()
    if not len(displaced):
        return torch.from_numpy(result)

    is_kept = np.ones(num_items, bool)
    is_kept[displaced] = False
    free = _FreeTuples(sizes)
    for row in result[is_kept].tolist():
        free.take(tuple(row))
    books = [codebook.numpy() for codebook in codebooks]
    wanted = targets.numpy()
    for item in track(displaced.tolist(), "reassigning shared semantic IDs"):
        chosen = _nearest_free(tuple(result[item].tolist()), wanted[item], books, free)
        free.take(chosen)
        result[item] = chosen
    return torch.from_numpy(result)


def place_newcomers(
    taken: Int[Tensor, "item level"],
    wanted: Int[Tensor, "new level"],
    targets: Float[Tensor, "new level dim"],
    codebooks: list[Float[Tensor, "_ dim"]],
) -> Int[Tensor, "new level"]:
    """Semantic IDs for items that come later, one after the other: nobody who has one moves.

    Each newcomer gets the tuple it wants if that is free, else the nearest free one, as in
    `resolve_collisions`; so the first ones' IDs do not depend on who comes after them.

    Raises:
        SemanticIdError: no tuple is left.
    """
    sizes = [len(codebook) for codebook in codebooks]
    if len(taken) + len(wanted) > math.prod(sizes):
        raise SemanticIdError(
            f"all {math.prod(sizes)} semantic IDs of {len(sizes)} levels with {sizes} codes are "
            "taken; train again with a larger tokenizer.codebook_size"
        )
    free = _FreeTuples(sizes)
    for row in taken.tolist():
        free.take(tuple(row))
    books = [codebook.numpy() for codebook in codebooks]
    rows = []
    for row, target in zip(wanted.tolist(), targets.numpy(), strict=True):
        chosen = tuple(row)
        if free.is_full(chosen):
            chosen = _nearest_free(chosen, target, books, free)
        free.take(chosen)
        rows.append(chosen)
    return torch.tensor(rows, dtype=wanted.dtype).reshape(wanted.shape)


class _FreeTuples:
    """How many tuples are taken under each prefix."""

    def __init__(self, sizes: list[int]) -> None:
        self._taken: Counter[tuple[int, ...]] = Counter()
        self._sizes = sizes
        # capacity[n]: tuples that begin with one given prefix of n codes.
        self._capacity = [math.prod(sizes[n:]) for n in range(len(sizes) + 1)]

    def take(self, codes: tuple[int, ...]) -> None:
        self._taken.update(codes[:length] for length in range(len(codes) + 1))

    def is_full(self, prefix: tuple[int, ...]) -> bool:
        return self._taken[prefix] >= self._capacity[len(prefix)]

    def full_children(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """For every next code: is nothing free under it?"""
        capacity = self._capacity[len(prefix) + 1]
        children = range(self._sizes[len(prefix)])
        return np.array([self._taken.get((*prefix, c), 0) >= capacity for c in children])


def _displaced_items(codes: Tensor, targets: Tensor, codebooks: list[Tensor]) -> NDArray[np.int64]:
    """Items that must move: all but the best of each tuple, nearest their last code first."""
    explained = torch.stack([book[codes[:, n]] for n, book in enumerate(codebooks)]).sum(0)
    errors = (targets[:, -1] - explained).square().sum(-1).numpy()
    _, group = np.unique(codes.numpy(), axis=0, return_inverse=True)
    order = np.lexsort((np.arange(len(codes)), errors, group.reshape(-1)))
    is_first = np.diff(group.reshape(-1)[order], prepend=-1) != 0
    moved = order[~is_first]
    nearest_first: NDArray[np.int64] = moved[np.lexsort((moved, errors[moved]))]
    return nearest_first


def _nearest_free(
    codes: tuple[int, ...],
    targets: NDArray[np.float32],
    codebooks: list[NDArray[np.float32]],
    free: _FreeTuples,
) -> tuple[int, ...]:
    length = len(codes) - 1
    while free.is_full(codes[:length]):
        length -= 1
    prefix = codes[:length]
    explained = sum(
        (codebooks[n][code] for n, code in enumerate(prefix)), np.zeros_like(targets[0])
    )
    for level in range(length, len(codes)):
        distances = np.square(targets[level] - explained - codebooks[level]).sum(-1)
        distances[free.full_children(prefix)] = np.inf
        code = int(distances.argmin())
        explained = explained + codebooks[level][code]
        prefix = (*prefix, code)
    return prefix
