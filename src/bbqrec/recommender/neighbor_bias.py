"""What a history item says for its neighbors: learned from the data, by likeness and by age.

The dense score compares a user with every item through few numbers; that this very item often
follows that one is what they blur. A table of likeness x age, one per kind of likeness, adds it
back: logit(user, item) + sum over the latest items j of table[age of j, likeness of j and item].
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.ranking import Histories
from bbqrec.recommender.tables import Neighbors


def recent_items(
    histories: Histories,
    rows: Int[Tensor, " entry"],
    places: Int[Tensor, " entry"],
    length: int,
) -> Int[Tensor, "entry age"]:
    """The latest item first of the `places` items of history `rows`; -1 where there is none.

    As many columns as the longest history needs, at most `length`.
    """
    longest = int(places.max()) if len(places) else 0
    age = torch.arange(min(length, longest), device=places.device)
    occurrence = (histories.offsets[rows] + places)[:, None] - 1 - age
    items = histories.items[occurrence.clamp(min=0)] if len(histories.items) else occurrence
    return items.masked_fill(age >= places[:, None], -1)


def num_age_buckets(length: int) -> int:
    """Ages in powers of two: 1, 2 to 3, 4 to 7 and so on."""
    return length.bit_length()


def add_neighbor_bias(
    logits: Float[Tensor, "entry item"],
    bias: Float[Tensor, "kind age_bucket bucket"],
    recent: Int[Tensor, "entry age"],
    neighbors: Sequence[Neighbors],
    folds: Int[Tensor, " entry"] | None = None,
) -> Float[Tensor, "entry item"]:
    """Add to `logits`, in place, what the neighbors of each entry's `recent` items gain.

    Args:
        neighbors: one per row of `bias`.
        folds: in training, the table that has not read the entry's user.
    """
    values = F.pad(bias, (0, 1))  # the last bucket is nothing
    age = torch.arange(1, recent.shape[1] + 1, device=recent.device)
    age_bucket = torch.log2(age.float()).long()
    for table, likeness in zip(values, neighbors, strict=True):
        items, buckets = likeness.of(recent, folds)
        cell = age_bucket[:, None] * table.shape[1] + buckets
        gained = table.flatten()[cell.flatten(1)].to(logits.dtype)
        logits.scatter_add_(1, items.long().flatten(1), gained)
    return logits
