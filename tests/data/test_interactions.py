"""Filtering and ordering against slow, obvious references."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbqrec.data.config import PrepareConfig
from bbqrec.data.event_log import EventLog
from bbqrec.data.interactions import build_log, parse_times
from bbqrec.data.lines import Rejected
from bbqrec.data.raw import RawData
from bbqrec.data.records import LINE

EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=60
)
Event = tuple[int, int, int]


def build(events: list[Event], **options: object) -> EventLog:
    frame = pl.DataFrame(
        [(i + 2, f"u{user}", f"i{item}", time) for i, (user, item, time) in enumerate(events)],
        schema={
            LINE: pl.UInt32,
            "user_id": pl.String,
            "item_id": pl.String,
            "timestamp": pl.Int64,
        },
        orient="row",
    )
    raw = RawData(frame, None, None, Path("log.csv"), "table")
    return build_log(raw, PrepareConfig.parse(dict(options)), Rejected(0.0))[0]


def as_events(log: EventLog) -> list[Event]:
    return [
        (int(log.user_ids[user][1:]), int(log.item_ids[item][1:]), int(time))
        for user, item, time in zip(log.users, log.items, log.times, strict=True)
    ]


def in_order(events: list[Event]) -> list[Event]:
    """Users by first appearance, then time, then source order; exact duplicates dropped."""
    users = list(dict.fromkeys(user for user, _, _ in events))
    return sorted(dict.fromkeys(events), key=lambda event: (users.index(event[0]), event[2]))


def slow_k_core(events: list[Event], bound: int) -> list[Event]:
    while True:
        users = Counter(user for user, _, _ in events)
        items = Counter(item for _, item, _ in events)
        kept = [e for e in events if users[e[0]] >= bound and items[e[1]] >= bound]
        if kept == events:
            return kept
        events = kept


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_events_are_ordered_by_time_with_ties_in_source_order(events: list[Event]) -> None:
    assert as_events(build(events)) == in_order(events)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(2, 3))
def test_the_k_core_is_the_fixpoint_of_dropping_rare_users_and_items(
    events: list[Event], bound: int
) -> None:
    expected = slow_k_core(in_order(events), bound)
    if not expected:
        return

    log = build(events, min_user=bound, min_item=bound)

    assert as_events(log) == expected


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.sampled_from(["first", "last"]))
def test_one_event_of_a_repeated_pair_stays(events: list[Event], policy: str) -> None:
    ordered = in_order(events)
    pairs = {}
    for place, (user, item, _) in enumerate(ordered):
        if policy == "last" or (user, item) not in pairs:
            pairs[user, item] = place

    log = build(events, repeats=policy)

    assert as_events(log) == [ordered[place] for place in sorted(pairs.values())]


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.integers(1, 4))
def test_the_latest_events_of_every_user_stay(events: list[Event], latest: int) -> None:
    ordered = in_order(events)
    expected = [
        event
        for number, event in enumerate(ordered)
        if sum(later[0] == event[0] for later in ordered[number:]) <= latest
    ]

    assert as_events(build(events, latest=latest)) == expected


def test_item_numbers_are_a_permutation_that_hides_id_order() -> None:
    log = build([(0, item, item) for item in range(200)])

    ranks = np.argsort(np.argsort(log.item_ids))
    assert sorted(log.item_ids) == sorted(f"i{item}" for item in range(200))
    assert abs(np.corrcoef(ranks, np.arange(200))[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["3", " 1 ", "-2"], [3, 1, -2]),
        (["881250949.0", "881250950.0", "x"], [881250949, 881250950, None]),
        (["1.5", "nan", "inf", None], [1.5, None, None, None]),
        (["1e400", "1", "2"], [None, 1, 2]),
        (["1970-01-01", "1970-01-01 00:00:01", "soon"], [0, 1_000_000, None]),
        (["1970-01-01T00:00:02Z", "1970-01-01T01:00:00+01:00"], [2_000_000, 0]),
        (["1970-01-01T00:00:00.5", "1970-01-01 00:01"], [500_000, 60_000_000]),
    ],
)
def test_times_are_read_as_numbers_or_dates(
    values: list[str | None], expected: list[float | None]
) -> None:
    assert parse_times(pl.Series(values, dtype=pl.String), None).to_list() == expected


def test_dates_of_another_pattern_are_read_when_it_is_named() -> None:
    times = parse_times(pl.Series(["02/01/1970", "01.02.1970"]), "%d/%m/%Y")

    assert times.to_list() == [86_400_000_000, None]
