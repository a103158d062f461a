"""Ordered events -> training sequences and held-out cases.

A case's history holds only what its user did before the target, so nothing later leaks in.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbqrec.data.config import PrepareConfig
from bbqrec.data.dataset import Cases, Sequences
from bbqrec.data.event_log import EventLog
from bbqrec.errors import DataError


class Split(NamedTuple):
    """Training rows of the event log and the cases; what a rule left out is counted.

    Args:
        train_rows: positions in the event log, one user's together, for weights and statistics.
    """

    train: Sequences
    train_rows: NDArray[np.int64]
    validation: Cases
    test: Cases
    is_cold: NDArray[np.bool_]
    counts: dict[str, int]


def split_log(
    log: EventLog, config: PrepareConfig, *, is_cold: NDArray[np.bool_] | None = None
) -> Split:
    """Split as `config.split` says; DataError when it cannot be done on this log.

    Args:
        is_cold: the items that an earlier split of the same data chose; None draws them.
    """
    if config.split == "temporal":
        return _temporal(log, config)
    if is_cold is not None:
        return _leave_one_out(log, is_cold)
    is_cold = np.zeros(len(log.item_ids), dtype=bool)
    if config.split == "cold":
        num_cold = max(1, round(config.cold_share * len(log.item_ids)))
        generator = np.random.default_rng([config.seed, 2])
        is_cold[generator.permutation(len(log.item_ids))[:num_cold]] = True
    return _leave_one_out(log, is_cold)


def _leave_one_out(log: EventLog, is_cold: NDArray[np.bool_]) -> Split:
    """A user's last event is the test target, the one before it the validation target.

    Users with fewer than three events only train. Cold items are taken out of training and of
    every history, but stay as targets: a case with a cold target asks for an item that no model
    has seen. A case left without history is dropped.
    """
    offsets = _offsets(log)
    lengths = np.diff(offsets)
    users = np.flatnonzero(lengths >= 3)
    num_held_out = np.where(lengths >= 3, 2, 0)
    place = np.arange(len(log)) - offsets[log.users]
    is_train = place < (lengths - num_held_out)[log.users]
    is_warm = ~is_cold[log.items]
    train_rows = np.flatnonzero(is_train & is_warm)
    if not len(train_rows):
        raise DataError(
            "every training event is of a cold item; lower cold_share or use another split"
        )
    validation, lost_validation = _cases(log, users, offsets[users + 1] - 2, is_warm)
    test, lost_test = _cases(log, users, offsets[users + 1] - 1, is_warm)
    counts = {
        "users_that_only_train": int((lengths < 3).sum()),
        "validation_cases_without_history": lost_validation,
        "test_cases_without_history": lost_test,
        "cold_items": int(is_cold.sum()),
        "validation_cases_with_cold_target": int(is_cold[validation.targets].sum()),
        "test_cases_with_cold_target": int(is_cold[test.targets].sum()),
    }
    return Split(_train(log, train_rows), train_rows, validation, test, is_cold, counts)


def _temporal(log: EventLog, config: PrepareConfig) -> Split:
    """Train before one date, validate up to a second, test after it, as in live use.

    The dates are quantiles of all event times. A case is a user's first event in its window; its
    history is everything the user did before the window. Users without such a history give no
    case, so that every user counts once, as in leave-one-out.
    """
    if not log.is_dated:
        raise DataError(
            "a temporal split needs timestamps, but this source gives only each user's order; "
            'use split = "leave_one_out"'
        )
    shares = [1 - config.test_share - config.validation_share, 1 - config.test_share]
    bounds = np.quantile(log.times, shares, method="higher")
    window = np.searchsorted(bounds, log.times, side="right")  # 0 train, 1 validation, 2 test
    train_rows = np.flatnonzero(window == 0)
    if not len(train_rows) or not (window == 2).any():
        raise DataError(
            f"the times run only from {log.times.min()} to {log.times.max()}, too few different "
            'values for a temporal split; use split = "leave_one_out"'
        )
    is_first = np.ones(len(log), dtype=bool)
    is_first[1:] = (np.diff(log.users) != 0) | (np.diff(window) != 0)
    validation, lost_validation = _first_events(log, is_first & (window == 1))
    test, lost_test = _first_events(log, is_first & (window == 2))
    counts = {
        "validation_cases_without_history": lost_validation,
        "test_cases_without_history": lost_test,
    }
    is_cold = np.zeros(len(log.item_ids), dtype=bool)
    return Split(_train(log, train_rows), train_rows, validation, test, is_cold, counts)


def _first_events(log: EventLog, is_target: NDArray[np.bool_]) -> tuple[Cases, int]:
    rows = np.flatnonzero(is_target)
    users = log.users[rows].astype(np.int64)
    return _cases(log, users, rows, np.ones(len(log), dtype=bool))


def _offsets(log: EventLog) -> NDArray[np.int64]:
    counts = np.bincount(log.users, minlength=len(log.user_ids))
    return np.concatenate([[0], counts.cumsum()])


def _train(log: EventLog, rows: NDArray[np.int64]) -> Sequences:
    counts = np.bincount(log.users[rows], minlength=len(log.user_ids))
    return Sequences(log.items[rows], np.concatenate([[0], counts.cumsum()]))


def _cases(
    log: EventLog,
    users: NDArray[np.int64],
    target_rows: NDArray[np.int64],
    is_warm: NDArray[np.bool_],
) -> tuple[Cases, int]:
    """One case per target row, its history the earlier warm events; how many had none."""
    warm_before = np.concatenate([[0], is_warm.cumsum()])
    starts = warm_before[_offsets(log)[users]]
    ends = warm_before[target_rows]
    has_history = ends > starts
    users, target_rows = users[has_history], target_rows[has_history]
    starts, ends = starts[has_history], ends[has_history]
    offsets = np.concatenate([[0], (ends - starts).cumsum()])
    entry = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    histories = Sequences(log.items[is_warm][entry], offsets)
    return Cases(users, histories, log.items[target_rows]), int((~has_history).sum())
