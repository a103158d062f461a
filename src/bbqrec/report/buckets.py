"""Buckets of likeness for the eye: called by their borders, but for those that are always empty."""

from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

MAX_DIGITS = 17  # tell any two numbers apart


class Buckets(NamedTuple):
    """Rows of a table that are worth showing, and what they are called."""

    rows: list[int]
    labels: list[str]


def similarity_buckets(labels: list[str], edges: Float[Tensor, " edge"]) -> Buckets:
    """Buckets of the similarity bias.

    Args:
        labels: of all rows, as the model gives them; those after the buckets have no borders.
    """
    rows = _filled(edges)
    if labels[0].startswith("below"):  # else buckets are numbers of shared codes
        shown = _told_apart(edges, 3)
        names = [f"below {shown[0]}", *(f"{a} to {b}" for a, b in pairwise(shown))]
        names.append(f"above {shown[-1]}")
    else:
        names = [labels[row] for row in rows]
    special = range(len(edges) + 1, len(labels))
    return Buckets([*rows, *special], [*names, *(labels[row] for row in special)])


def neighbor_buckets(num_buckets: int, edges: Float[Tensor, " edge"] | None) -> Buckets:
    """Buckets of neighbors, by their numbers for a model of before borders were kept.

    Args:
        edges: of likeness, as logarithms.
    """
    if edges is None or len(edges) != num_buckets - 1:
        numbers = [str(number) for number in range(1, num_buckets + 1)]
        names = ["1, least alike", *numbers[1:-1], f"{num_buckets}, most alike"]
        return Buckets(list(range(num_buckets)), names)
    shown = _told_apart(edges.double().exp(), 2)
    return Buckets(_filled(edges), [f"below {shown[0]}", *(f"from {edge}" for edge in shown)])


def _filled(edges: Float[Tensor, " edge"]) -> list[int]:
    """Where many pairs are alike to the same degree, borders coincide: nothing is between them."""
    return [0, *(edges.diff().nonzero().flatten() + 1).tolist(), len(edges)]


def _told_apart(edges: Float[Tensor, " edge"], num_digits: int) -> list[str]:
    """Different borders look different, in as many digits as that takes."""
    different = sorted(set(edges.tolist()))
    for digits in range(num_digits, MAX_DIGITS):
        shown = [f"{edge:.{digits}g}" for edge in different]
        if len(set(shown)) == len(shown):
            return shown
    return [f"{edge:.{MAX_DIGITS}g}" for edge in different]
