"""Do people come back for what they already had? Learned from the data, by how long ago it was.

Where a pair of user and item never repeats, the entries fall until history items leave the list
by themselves; where people buy again, they rise for the ages at which they do.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.ranking import Histories

# Events ago, in powers of two.
AGE_LABELS = ["1", *(f"{2**n:,} to {2 ** (n + 1) - 1:,}" for n in range(1, 11)), "2,048 and more"]


class Repeats(NamedTuple):
    """The items that the user of each entry already had, each once, sorted by entry.

    Args:
        ages: events since the user had the item last; 1 is the latest item of the history.
    """

    entries: Int[Tensor, " repeat"]
    items: Int[Tensor, " repeat"]
    ages: Int[Tensor, " repeat"]


class EntryCounts(NamedTuple):
    """How many items stand before some entries: known beforehand, no GPU must stop to count them.

    Args:
        all: before all of the entries together.
        distinct: the same, of an entry's items each once.
        longest: before a single one, at most.
    """

    all: int
    distinct: int
    longest: int


def find_repeats(
    histories: Histories,
    rows: Int[Tensor, " entry"],
    places: Int[Tensor, " entry"],
    *,
    following: Int[Tensor, " occurrence"] | None = None,
    counts: EntryCounts | None = None,
) -> Repeats:
    """What was had before each entry, which stands after `places` items of history `rows`.

    Args:
        following: `following_places` of the histories, where it was found before.
        counts: of the entries, where they are known.
    """
    if following is None:
        following = following_places(histories)
    total = None if counts is None else counts.all
    entries = torch.repeat_interleave(places, output_size=total)
    place = torch.arange(len(entries), device=places.device) - (places.cumsum(0) - places)[entries]
    occurrence = histories.offsets[rows][entries] + place
    # An occurrence counts until the user has the same item once more.
    is_latest = places[entries] <= following[occurrence]
    num_latest = int(is_latest.count_nonzero()) if counts is None else counts.distinct
    latest = is_latest.nonzero_static(size=num_latest)[:, 0]
    entries, place, occurrence = entries[latest], place[latest], occurrence[latest]
    return Repeats(entries, histories.items[occurrence], places[entries] - place)


def following_places(histories: Histories) -> Int[Tensor, " occurrence"]:
    """Where in its row each item stands the next time; a place beyond the row if never."""
    items, rows = histories.items, histories.rows()
    if not len(items):
        return items
    place = torch.arange(len(items), device=items.device) - histories.offsets[rows]
    key, order = (rows * (items.max() + 1) + items).sort(stable=True)
    following = torch.full_like(items, torch.iinfo(torch.int64).max)
    is_same = key[:-1] == key[1:]
    following[order[:-1][is_same]] = place[order[1:][is_same]]
    return following


def latest_first(
    items: Int[Tensor, "batch position"], lengths: Int[Tensor, " batch"], width: int
) -> tuple[Int[Tensor, "batch had"], Int[Tensor, " had"]]:
    """At most `width` of the latest of the first `lengths` items of each row, and their ages.

    -1 where there is none.
    """
    ages = torch.arange(1, min(width, items.shape[1]) + 1, device=items.device)
    position = lengths[:, None] - ages
    had = items.gather(1, position.clamp(min=0))
    return had.masked_fill(position < 0, -1), ages


def repeat_values(
    bias: Float[Tensor, " age"], ages: Int[Tensor, " repeat"]
) -> Float[Tensor, " repeat"]:
    """bias[log2 of the age] for items that a user had so many events ago."""
    age = torch.log2(ages.float()).long().clamp(max=len(bias) - 1)
    return bias[age]
