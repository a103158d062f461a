"""Splits against slow references; no case sees the future, no training sees a cold item."""

import numpy as np
import pytest

from bbqrec.data.config import PrepareConfig
from bbqrec.data.dataset import Cases, Sequences
from bbqrec.data.event_log import EventLog
from bbqrec.data.splits import split_log


def random_log(seed: int, num_users: int = 60, num_items: int = 40) -> EventLog:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 12, num_users)
    users = np.repeat(np.arange(num_users), lengths).astype(np.int32)
    times = generator.integers(0, 1000, lengths.sum())
    return EventLog(
        users=users,
        items=generator.integers(0, num_items, lengths.sum()).astype(np.int32),
        times=times[np.lexsort((times, users))],
        is_dated=True,
        weights=None,
        user_ids=[f"u{user}" for user in range(num_users)],
        item_ids=[f"i{item}" for item in range(num_items)],
    )


def rows(log: EventLog) -> list[list[tuple[int, int]]]:
    """Each user's (item, time) pairs in order."""
    return [
        [
            (int(i), int(t))
            for u, i, t in zip(log.users, log.items, log.times, strict=True)
            if u == n
        ]
        for n in range(len(log.user_ids))
    ]


def as_list(cases: Cases) -> list[tuple[int, list[int], int]]:
    return [
        (int(user), cases.histories.row(n).tolist(), int(cases.targets[n]))
        for n, user in enumerate(cases.users)
    ]


def test_leave_one_out_holds_out_the_last_two_events() -> None:
    log = random_log(0)

    split = split_log(log, PrepareConfig())

    sequences = [[item for item, _ in row] for row in rows(log)]
    held_out = [(user, s) for user, s in enumerate(sequences) if len(s) >= 3]
    assert as_list(split.validation) == [(user, s[:-2], s[-2]) for user, s in held_out]
    assert as_list(split.test) == [(user, s[:-1], s[-1]) for user, s in held_out]
    for user, sequence in enumerate(sequences):
        expected = sequence[:-2] if len(sequence) >= 3 else sequence
        assert split.train.row(user).tolist() == expected
    assert split.counts["users_that_only_train"] == sum(len(s) < 3 for s in sequences)


def test_cold_items_stay_as_targets_only() -> None:
    log = random_log(1)

    split = split_log(log, PrepareConfig(split="cold", cold_share=0.25))

    cold = set(np.flatnonzero(split.is_cold).tolist())
    sequences = [[item for item, _ in row] for row in rows(log)]
    expected = []
    for user, sequence in enumerate(sequences):
        warm = [item for item in sequence[:-1] if item not in cold]
        if len(sequence) >= 3 and warm:
            expected.append((user, warm, sequence[-1]))
    assert len(cold) == 10
    assert as_list(split.test) == expected
    assert not cold & set(split.train.items.tolist())
    assert not cold & set(split.validation.histories.items.tolist())
    assert 0 < split.counts["test_cases_with_cold_target"] < len(split.test)


def test_the_cold_share_is_drawn_by_the_seed() -> None:
    log = random_log(2)
    config = PrepareConfig(split="cold", cold_share=0.25)

    first, again = split_log(log, config).is_cold, split_log(log, config).is_cold
    other = split_log(log, config.model_copy(update={"seed": 1})).is_cold

    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_temporal_split_never_lets_training_see_past_its_date(seed: int) -> None:
    log = random_log(seed)

    split = split_log(log, PrepareConfig(split="temporal"))

    low, high = (np.quantile(log.times, share, method="higher") for share in (0.8, 0.9))
    validation, test = [], []
    for user, events in enumerate(rows(log)):
        assert split.train.row(user).tolist() == [item for item, time in events if time < low]
        for cases, start, end in ((validation, low, high), (test, high, np.inf)):
            window = [item for item, time in events if start <= time < end]
            before = [item for item, time in events if time < start]
            if window and before:
                cases.append((user, before, window[0]))
    assert as_list(split.validation) == validation
    assert as_list(split.test) == test
    assert test
    assert validation


def test_cases_are_shown_evenly_and_repeats_only_where_there_is_nothing_else() -> None:
    histories = Sequences(np.array([0, 1, 2, 3, 4, 5], np.int32), np.array([0, 2, 3, 3, 5, 6]))
    cases = Cases(np.arange(5), histories, np.array([1, 9, 9, 9, 5], np.int32))
    repeats = cases.take(np.array([0, 4]))

    assert cases.spread(2).tolist() == [1, 3]
    assert cases.spread(9).tolist() == [1, 2, 3]
    assert repeats.spread(1).tolist() == [0]
