"""A prepared dataset and what came since -> a prepared dataset that goes on where the first ends.

Items keep their numbers, new ones come after them; users, histories and cases are made anew from
all events in the order of time, by the rules that the dataset was prepared with.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bbqrec.data.collected import Collected, Event, Found, hash_user
from bbqrec.data.config import PrepareConfig
from bbqrec.data.dataset import Dataset
from bbqrec.data.event_log import LOG_FILE, EventLog
from bbqrec.data.gather import add_items
from bbqrec.data.gather_images import add_images
from bbqrec.data.importers import read_source
from bbqrec.data.interactions import (
    EPOCH_FLOOR,
    UNIT_BOUNDS,
    is_duplicate,
    latest,
    read_events,
    without_repeats,
)
from bbqrec.data.lines import Rejected
from bbqrec.data.prepare import LEFT_OUT_FILE, REJECTED_FILE, WEIGHTS_FILE
from bbqrec.data.raw import RawData
from bbqrec.data.splits import split_log
from bbqrec.data.statistics import describe
from bbqrec.errors import DataError
from bbqrec.storage import read_json, write_bytes, write_json, write_tensors

logger = logging.getLogger(__name__)


def grow(
    directory: Path,
    source: Path | None,
    collected: Collected,
    out_dir: Path,
    config: PrepareConfig,
    *,
    withdrawn: Collection[str] | None = None,
    reading: PrepareConfig | None = None,
) -> Found:
    """Write the dataset in `directory`, with what is new, into the existing `out_dir`.

    An interaction is known if the run has its user, item and time (where a run has no times: its
    user and item). A new item is one that enough new interactions name, or that is described for
    the first time. Items that are not named again stay. Nothing is written if nothing is new.

    Args:
        source: interactions and items in any format; known ones among them are passed over.
        withdrawn: all items that may not be recommended; None keeps the list there is.
        reading: how `source` is written, where that differs from `config`, the run's own.

    Raises:
        DataError: the source breaks a rule, or cannot be put in order with what is there.
        CorruptArtifactError: the dataset is damaged.
    """
    dataset = Dataset.load(directory)
    if not (directory / LOG_FILE).is_file():
        raise DataError(
            f"{directory} was prepared by a version of bbqrec that kept no times, so nothing can "
            "be put in order with it; prepare and train in a new folder, then update that"
        )
    old = EventLog.load(directory, dataset)
    rejected = Rejected((reading or config).max_bad_share)
    raw = None if source is None else _read(source, reading or config, rejected)
    log = _without_forgotten(old, collected.forgotten)
    num_given = len(collected.events)
    if raw is not None:
        part, _ = read_events(raw, reading or config, rejected)
        part = _without_forgotten(part, collected.forgotten)
        num_given += len(part)
        log = _joined(log, part)
    if collected.events:
        log = _joined(log, _as_log(collected.events))
    log, _ = without_repeats(log, config.repeats)
    log, _ = latest(log, config.latest)
    left_out = _left_out(directory)
    all_described = {item.item_id for item in collected.items}
    all_described |= set() if raw is None or raw.items is None else set(raw.items["item_id"])
    described = all_described - left_out - set(dataset.item_ids)
    size = len(log)
    log = _with_enough(log, dataset, described, config)
    num_waiting = size - len(log)
    num_new = len(log) - int(_is_in(log, old).sum())
    lost = {old.user_ids[user] for user in np.unique(old.users[~_is_in(old, log)]).tolist()}
    log = _renumbered(log, dataset, described, collected.forgotten, config.seed)

    named_only = [i for i in log.item_ids[dataset.num_items :] if i not in all_described]
    if named_only and dataset.titles != dataset.item_ids:
        logger.warning(
            "nothing describes %d of the new items (%s ...): only interactions name them; is an id "
            "mistyped?",
            len(named_only),
            named_only[0],
        )

    before = set(dataset.info.get("withdrawn", []))
    now = before if withdrawn is None else set(withdrawn)
    now = (now | collected.withdrawn) - collected.restored
    found = Found(
        interactions=num_new,
        users=len(set(log.user_ids) - set(dataset.user_ids)),
        items=len(set(log.item_ids[dataset.num_items :]) - now),
        known=num_given - num_new - num_waiting,
        waiting=num_waiting,
        withdrawn=len(now - before),
        restored=len(before - now),
        forgotten=sum(hash_user(user_id) in collected.forgotten for user_id in lost),
    )
    if found.is_anything:
        news = _News(raw, collected, left_out | described, now, found, rejected)
        _write(out_dir, directory, dataset, log, news, config)
    return found


class _News(NamedTuple):
    raw: RawData | None
    collected: Collected
    described: set[str]
    withdrawn: set[str]
    found: Found
    rejected: Rejected


def _read(source: Path, config: PrepareConfig, rejected: Rejected) -> RawData:
    if not (source.is_file() or source.is_dir()):
        raise DataError(f"{source} is no file and no folder; give one or the other of new data")
    return read_source(source, config, rejected)


def _left_out(directory: Path) -> set[str]:
    path = directory / LEFT_OUT_FILE
    return set(read_json(path)["items"]) if path.is_file() else set()


def _without_forgotten(log: EventLog, forgotten: frozenset[str]) -> EventLog:
    if not forgotten:
        return log
    is_gone = np.array([hash_user(user_id) in forgotten for user_id in log.user_ids])
    return log.take(~is_gone[log.users])


def _as_log(events: Sequence[Event]) -> EventLog:
    """In order of user and time; equal times in order of arrival."""
    user_of: dict[str, int] = {}
    item_of: dict[str, int] = {}
    users = [user_of.setdefault(event.user_id, len(user_of)) for event in events]
    items = [item_of.setdefault(event.item_id, len(item_of)) for event in events]
    log = EventLog(
        users=np.array(users, np.int32),
        items=np.array(items, np.int32),
        times=np.array([event.time for event in events], np.float64),
        is_dated=True,
        weights=None,
        user_ids=list(user_of),
        item_ids=list(item_of),
    )
    return log.take(_by_time(log))


def _by_time(log: EventLog) -> NDArray[np.int64]:
    order = np.argsort(log.times, kind="stable")
    rows: NDArray[np.int64] = order[np.argsort(log.users[order], kind="stable")]
    return rows


def _joined(log: EventLog, part: EventLog) -> EventLog:
    """Both in order of time, each event once; the ids of `log` first."""
    user_ids, user_of = _extended(log.user_ids, part.user_ids)
    item_ids, item_of = _extended(log.item_ids, sorted(part.item_ids))
    part = replace(
        part,
        users=np.array([user_of[user_id] for user_id in part.user_ids], np.int32)[part.users],
        items=np.array([item_of[item_id] for item_id in part.item_ids], np.int32)[part.items],
        user_ids=user_ids,
        item_ids=item_ids,
    )
    log = replace(log, user_ids=user_ids, item_ids=item_ids)
    part = part.take(_by_time(part))
    if not log.is_dated:
        part = _placed_after(log, part)
    elif part.is_dated:
        part = replace(part, times=_in_unit_of(log.times, part.times))
    else:
        raise DataError(
            "the run's interactions have times, but the new ones have only positions, so they "
            "cannot be put in order together; bring timestamps, or name their column with --set "
            "prepare.columns.timestamp=NAME"
        )
    weights = None
    if log.weights is not None or part.weights is not None:
        weights = np.concatenate([_weights(log), _weights(part)])
    both = replace(
        log,
        users=np.concatenate([log.users, part.users]),
        items=np.concatenate([log.items, part.items]),
        times=np.concatenate([log.times, part.times]),
        weights=weights,
    )
    both = both.take(_by_time(both))
    return both.take(~is_duplicate(both))


def _extended(ids: list[str], more: list[str]) -> tuple[list[str], dict[str, int]]:
    number_of = {name: number for number, name in enumerate(ids)}
    for name in more:
        number_of.setdefault(name, len(number_of))
    return list(number_of), number_of


def _weights(log: EventLog) -> NDArray[np.float32]:
    return np.ones(len(log), np.float32) if log.weights is None else log.weights


def _placed_after(log: EventLog, part: EventLog) -> EventLog:
    """Where nothing has a time, a pair of user and item that is there already is the same event;
    the others follow what is known of their user."""
    num_items = len(log.item_ids)
    pairs = part.users.astype(np.int64) * num_items + part.items
    part = part.take(~np.isin(pairs, log.users.astype(np.int64) * num_items + log.items))
    start = np.zeros(len(log.user_ids), log.times.dtype)
    np.maximum.at(start, log.users, log.times + 1)
    counts = np.bincount(part.users, minlength=len(log.user_ids))
    rank = np.arange(len(part)) - np.repeat(counts.cumsum() - counts, counts)
    return replace(part, times=(start[part.users] + rank).astype(log.times.dtype))


def _in_unit_of(times: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """`other` in the unit (seconds, milliseconds, ...) and kind of number of `times`."""
    wanted, found = _unit(times), _unit(other)
    if wanted is not None and found is not None and wanted != found:
        other = (
            other * 1000 ** (wanted - found)
            if wanted > found
            else other / 1000.0 ** (found - wanted)
        )
    is_whole = np.issubdtype(times.dtype, np.integer)
    return (np.floor(other) if is_whole else other).astype(times.dtype)


def _unit(times: NDArray[Any]) -> int | None:
    """0 seconds, 1 milliseconds, ...; None where numbers are counters rather than dates."""
    middle = float(np.median(np.abs(times))) if len(times) else 0.0
    return int(np.searchsorted(UNIT_BOUNDS, middle)) if middle >= EPOCH_FLOOR else None


def _with_enough(
    log: EventLog, dataset: Dataset, described: set[str], config: PrepareConfig
) -> EventLog:
    """The k-core, from which those that are in the run already, and described items, are exempt."""
    is_in = np.arange(len(log.user_ids)) < dataset.num_users
    is_welcome = np.array([name in described for name in log.item_ids], bool)
    is_welcome[: dataset.num_items] = True
    while len(log):
        user_counts = np.bincount(log.users, minlength=len(log.user_ids))
        item_counts = np.bincount(log.items, minlength=len(log.item_ids))
        is_kept = (is_in | (user_counts >= config.min_user))[log.users]
        is_kept &= (is_welcome | (item_counts >= config.min_item))[log.items]
        if is_kept.all():
            break
        log = log.take(is_kept)
    return log


def _is_in(log: EventLog, other: EventLog) -> NDArray[np.bool_]:
    """Which events of `log` the other one has too, whose numbers mean the same or go on."""
    num_items = max(len(log.item_ids), len(other.item_ids))
    users = np.concatenate([other.users, log.users]).astype(np.int64)
    pairs = users * num_items + np.concatenate([other.items, log.items])
    times = np.concatenate([other.times, log.times])
    order = np.lexsort((times, pairs))  # stable: of two equal ones that of `log` comes second
    is_second = (np.diff(pairs[order]) == 0) & (np.diff(times[order]) == 0)
    found = np.zeros(len(log), dtype=bool)
    found[order[1:][is_second] - len(other)] = True
    return found


def _renumbered(
    log: EventLog, dataset: Dataset, described: set[str], forgotten: frozenset[str], seed: int
) -> EventLog:
    """Old items in their places, new ones after them by a seeded random permutation."""
    counts = np.bincount(log.items, minlength=len(log.item_ids))
    num_old = dataset.num_items
    new = {log.item_ids[item] for item in np.flatnonzero(counts).tolist() if item >= num_old}
    shuffled = sorted(new | described)
    order = np.random.default_rng([seed, 0, num_old]).permutation(len(shuffled))
    item_ids = [*dataset.item_ids, *(shuffled[place] for place in order)]
    has_events = np.bincount(log.users, minlength=len(log.user_ids)) > 0
    stays = has_events | (np.arange(len(log.user_ids)) < dataset.num_users)
    if forgotten:
        is_gone = np.array([hash_user(user_id) in forgotten for user_id in log.user_ids])
        stays &= has_events | ~is_gone
    users = np.flatnonzero(stays)
    user_of = np.full(len(log.user_ids), -1, np.int32)
    user_of[users] = np.arange(len(users))
    number_of = {item_id: item for item, item_id in enumerate(item_ids)}
    item_of = np.array([number_of.get(item_id, -1) for item_id in log.item_ids], np.int32)
    return replace(
        log,
        users=user_of[log.users],
        items=item_of[log.items],
        user_ids=[log.user_ids[user] for user in users.tolist()],
        item_ids=item_ids,
    )


def _write(
    out_dir: Path,
    directory: Path,
    dataset: Dataset,
    log: EventLog,
    news: _News,
    config: PrepareConfig,
) -> None:
    num_new = len(log.item_ids) - dataset.num_items
    is_cold = np.append(dataset.is_cold, np.zeros(num_new, bool))
    split = split_log(log, config, is_cold=is_cold)
    posted = {item.item_id: item for item in news.collected.items}
    new_ids = log.item_ids[dataset.num_items :]
    columns = dataset.info["columns"]
    raw_items = None if news.raw is None else news.raw.items
    texts = add_items(out_dir, directory, new_ids, raw_items, columns.get("title"), posted)
    images = add_images(
        out_dir, directory, new_ids, None if news.raw is None else news.raw.images, posted
    )
    for sentence in images.warnings:
        logger.warning("%s", sentence)
    left_out = sorted(news.described - set(log.item_ids))
    if left_out:
        write_json(out_dir / LEFT_OUT_FILE, {"items": left_out})
    log.save(out_dir)
    if log.weights is not None:
        weights = torch.from_numpy(log.weights[split.train_rows])
        write_tensors(out_dir / WEIGHTS_FILE, {"train": weights})
    if news.rejected.rows:
        write_bytes(out_dir / REJECTED_FILE, news.rejected.to_jsonl())
    statistics = describe(log) | {
        "train_interactions": len(split.train.items),
        "validation_cases": len(split.validation),
        "test_cases": len(split.test),
        "items_with_image": images.counts["items_with_image"],
    }
    titles = [*dataset.titles, *texts]
    taken = dict(dataset.info.get("taken", {}))
    if news.collected.store is not None:
        taken[news.collected.store] = news.collected.latest
    info = {
        **dataset.info,
        "taken": taken,
        "options": config.model_dump(mode="json"),
        "statistics": statistics,
        "counts": {
            "update": news.found._asdict(),
            "images": images.counts,
            "split": split.counts,
            "lines_set_aside": len(news.rejected.rows),
        },
        "withdrawn": sorted(news.withdrawn),
    }
    Dataset(
        user_ids=log.user_ids,
        item_ids=log.item_ids,
        titles=titles,
        train=split.train,
        validation=split.validation,
        test=split.test,
        is_cold=is_cold,
        info=info,
    ).save(out_dir)
