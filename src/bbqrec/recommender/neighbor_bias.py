"""What a history item says for its neighbors: learned from the data, by likeness and by age.

The dense score compares a user with every item through few numbers; that this very item often
follows that one is what they blur. A table of likeness x age, one per kind of likeness, adds it
back: logit(user, item) + sum over the latest items j of table[age of j, likeness of j and item].
Items that training never saw have a table of their own, and no neighbors by behavior.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.ranking import Histories
from bbqrec.recommender.tables import BEHAVIOR, Neighbors


def recent_items(
    histories: Histories,
    rows: Int[Tensor, " entry"],
    places: Int[Tensor, " entry"],
    length: int,
    *,
    longest: int | None = None,
) -> Int[Tensor, "entry age"]:
    """The latest item first of the `places` items of history `rows`; -1 where there is none.

    As many columns as the longest history needs, at most `length`.

    Args:
        longest: the largest of `places`, where it is known.
    """
    if longest is None:
        longest = int(places.max()) if len(places) else 0
    age = torch.arange(min(length, longest), device=places.device)
    occurrence = (histories.offsets[rows] + places)[:, None] - 1 - age
    items = histories.items[occurrence.clamp(min=0)] if len(histories.items) else occurrence
    return items.masked_fill(age >= places[:, None], -1)


def num_age_buckets(length: int) -> int:
    """Ages in powers of two: 1, 2 to 3, 4 to 7 and so on."""
    return length.bit_length()


def age_buckets(length: int, device: torch.device | None = None) -> Int[Tensor, " age"]:
    """The bucket of each age, the latest item's first."""
    return torch.log2(torch.arange(1, length + 1, device=device).float()).long()


def neighbor_gains(
    bias: Float[Tensor, "kind table age_bucket bucket"],
    recent: Int[Tensor, "entry age"],
    neighbors: Mapping[str, Neighbors],
    is_unseen: Bool[Tensor, " item"],
    folds: Int[Tensor, " entry"] | None = None,
) -> Iterator[tuple[Int[Tensor, "entry age neighbor"], Float[Tensor, "entry age neighbor"]]]:
    """Kind by kind, the neighbors of each entry's `recent` items and what each of them gains.

    Args:
        bias: one table, or a second one for unseen items.
        neighbors: one per kind, in the order of `bias`.
        is_unseen: items of which no behavior is known, or in training may not be.
        folds: in training, the table that has not read the entry's user.
    """
    values = F.pad(bias, (0, 1))  # the last bucket is nothing
    age_bucket = age_buckets(recent.shape[1], recent.device)[:, None]
    for table, (kind, likeness) in zip(values, neighbors.items(), strict=True):
        num_tables, num_ages, num_buckets = table.shape
        items, buckets = likeness.of(recent, folds)
        is_new = is_unseen[items]
        if kind == BEHAVIOR:
            is_hidden = is_new | is_unseen[recent.clamp(min=0)][:, :, None]
            buckets = buckets.masked_fill(is_hidden, num_buckets - 1)
        cell = (is_new * (num_tables - 1) * num_ages + age_bucket) * num_buckets + buckets
        yield items.long(), table.flatten()[cell]
