"""What a prepared dataset looks like in numbers, and warnings about order that leaks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bbqrec.data.event_log import EventLog

MAX_TIED_SHARE = 0.2
MAX_SORTED_USERS = 0.9
MAX_INCREASING_PAIRS = 0.65
_MIN_SORTED_LENGTH = 4
_MIN_USERS = 20
_MIN_PAIRS = 100


def describe(log: EventLog) -> dict[str, int | float]:
    """Counts, means and medians of the events that were split."""
    per_user = np.bincount(log.users, minlength=len(log.user_ids))
    per_item = np.bincount(log.items, minlength=len(log.item_ids))
    num_users, num_items = len(per_user), len(per_item)
    pairs = log.users.astype(np.int64) * num_items + log.items
    pairs.sort()
    num_pairs = int(np.count_nonzero(np.diff(pairs))) + 1
    return {
        "users": num_users,
        "items": num_items,
        "interactions": len(log),
        "density": num_pairs / (num_users * num_items),
        "repeated_pairs": len(log) - num_pairs,
        "interactions_per_user_min": int(per_user.min()),
        "interactions_per_user_median": float(np.median(per_user)),
        "interactions_per_user_mean": float(per_user.mean()),
        "interactions_per_user_max": int(per_user.max()),
        "interactions_per_item_min": int(per_item.min()),
        "interactions_per_item_median": float(np.median(per_item)),
        "interactions_per_item_max": int(per_item.max()),
        **_order(log),
    }


def _order(log: EventLog) -> dict[str, int | float]:
    is_pair = np.diff(log.users) == 0  # adjacent events of one user
    rank = _rank_of_ids(log.item_ids)[log.items]
    step = np.diff(rank)
    # Time decides the order of events at different times, and ids often grow with time: only
    # ties can have been written by id. Without times any pair of events may have been a tie.
    is_tied = is_pair & (log.times[1:] == log.times[:-1])
    moves = (is_tied if log.is_dated else is_pair) & (step != 0)
    increasing = float((step[moves] > 0).mean()) if moves.sum() >= _MIN_PAIRS else 0.0
    lengths = np.bincount(log.users, minlength=len(log.user_ids))
    falls = np.bincount(log.users[1:][is_pair & (step < 0)], minlength=len(log.user_ids))
    long = lengths >= _MIN_SORTED_LENGTH
    statistics = {
        "share_of_pairs_in_item_id_order": increasing,
        "share_of_users_in_item_id_order": float((falls[long] == 0).mean()) if long.any() else 0.0,
    }
    if log.is_dated:
        in_tie = np.zeros(len(log), dtype=bool)
        in_tie[1:] |= is_tied
        in_tie[:-1] |= is_tied
        statistics["share_of_tied_times"] = float(in_tie.mean())
    return statistics


def _rank_of_ids(item_ids: list[str]) -> NDArray[np.int64]:
    """Each item's place in id order: by number where all ids are whole numbers."""
    numeric = all(item_id.isdecimal() and len(item_id) < 18 for item_id in item_ids)
    keys = [int(i) for i in item_ids] if numeric else item_ids
    rank = np.empty(len(item_ids), dtype=np.int64)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return rank


def warn(statistics: dict[str, Any], ties: str) -> list[str]:
    """A sentence for every sign that the order of events cannot be trusted."""
    warnings = []
    sorted_users = statistics["share_of_users_in_item_id_order"]
    pairs = statistics["share_of_pairs_in_item_id_order"]
    is_dated = "share_of_tied_times" in statistics
    tied = statistics.get("share_of_tied_times", 0.0)
    if statistics["users"] >= _MIN_USERS and sorted_users > MAX_SORTED_USERS:
        warnings.append(
            f"{sorted_users:.0%} of the users' sequences are sorted by item id, so they are not "
            "in the order of time: next-item results on them mean nothing; find a source with "
            "timestamps"
        )
    elif statistics["users"] >= _MIN_USERS and pairs > MAX_INCREASING_PAIRS:
        which = "neighboring events of equal time" if is_dated else "neighboring events"
        remedy = 'finer timestamps or ties = "random"' if is_dated else "a source with timestamps"
        warnings.append(
            f"{pairs:.0%} of {which} stand in item-id order, where about 50% is expected: events "
            f"of equal time were probably written in that order, which a model can exploit; prefer "
            f"{remedy}"
        )
    if tied > MAX_TIED_SHARE:
        how = "keep the source's order" if ties == "source" else "are shuffled by the seed"
        warnings.append(
            f"{tied:.0%} of the events share their time with a neighbor of the same user; such "
            f"events {how}, and leave-one-out results move with it"
        )
    return warnings
