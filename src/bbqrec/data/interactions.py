"""Raw interactions -> clean, filtered, ordered events of numbered users and items."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bbqrec.data.config import PrepareConfig
from bbqrec.data.event_log import EventLog
from bbqrec.data.lines import Rejected
from bbqrec.data.raw import RawData
from bbqrec.data.records import LINE
from bbqrec.errors import DataError

EPOCH_FLOOR = 1e8  # as seconds this is 1973: smaller numbers are counters, not dates
UNIT_BOUNDS = (1e11, 1e14, 1e17)  # seconds | milliseconds | microseconds | nanoseconds


def build_log(
    raw: RawData, config: PrepareConfig, rejected: Rejected
) -> tuple[EventLog, dict[str, int]]:
    """Everything from raw rows to the events that will be split, with counts of what was dropped.

    Users are numbered by first appearance in the source, items by a seeded random permutation.
    """
    log, counts = read_events(raw, config, rejected)
    log, counts["repeats_dropped"] = without_repeats(log, config.repeats)
    log, counts["older_dropped"] = latest(log, config.latest)
    size = len(log)
    log = _k_core(log, config.min_user, config.min_item)
    counts["below_k_core"] = size - len(log)
    if not len(log):
        raise DataError(
            f"{raw.path}: no interaction is left with at least {config.min_user} per user and "
            f"{config.min_item} per item; lower prepare.min_user and prepare.min_item"
        )
    counts["kept"] = len(log)
    return _renumbered(log, config.seed), counts


def read_events(
    raw: RawData, config: PrepareConfig, rejected: Rejected
) -> tuple[EventLog, dict[str, int]]:
    """The usable and wanted events of all users and items, in order, each once."""
    counts = {"no_row": rejected.num_of(raw.path), "read": raw.interactions.height}
    frame = _with_times(raw, config, rejected)
    frame = _without_bad_rows(raw, frame, rejected)
    if frame.is_empty():
        raise DataError(f"{raw.path} has no usable interaction; see rejected lines above")
    counts["unusable"] = counts["read"] - frame.height
    height = frame.height
    frame = _filtered(raw, frame, config)
    counts["filtered_out"] = height - frame.height
    log, counts["exact_duplicates"] = _ordered(_numbered(frame), config)
    return log, counts


def _with_times(raw: RawData, config: PrepareConfig, rejected: Rejected) -> pl.DataFrame:
    """The frame with `time` (Int64 or Float64, null where unreadable) in place of its source."""
    frame = raw.interactions
    name = "timestamp" if "timestamp" in frame.columns else "position"
    times = parse_times(frame[name], config.time_format)
    if times.null_count() == len(times):
        shown = frame[name].drop_nulls()
        example = f", for example {shown[0]!r}" if len(shown) else ""
        raise DataError(
            f"{raw.path}: no {name} can be read{example}; use numbers or ISO 8601, or name the "
            "format in prepare.time_format"
        )
    frame = frame.with_columns(times.alias("time"))
    if name == "timestamp" and "position" in frame.columns:
        frame = frame.sort(pl.col("position").cast(pl.Int64, strict=False), maintain_order=True)
    return frame


def parse_times(column: pl.Series, time_format: str | None) -> pl.Series:
    """Numbers stay as they are; dates become microseconds since 1970; null where unreadable."""
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.epoch("us")
    if column.dtype == pl.String and time_format is not None:
        dates = column.str.to_datetime(time_format, strict=False, time_unit="us")
        return dates.dt.epoch("us")
    if column.dtype == pl.String:
        text = column.str.strip_chars()
        whole = text.cast(pl.Int64, strict=False)
        if whole.null_count() == text.null_count():
            return whole
        numbers = text.cast(pl.Float64, strict=False)
        if 2 * numbers.null_count() > len(text) + text.null_count():
            return _parse_dates(text)
        column = numbers
    if column.dtype.is_float():
        column = column.set(~column.is_finite(), None)
        known = column.drop_nulls()
        is_whole = bool(((known.floor() == known) & (known.abs() < 2.0**53)).all())
        return column.cast(pl.Int64) if is_whole else column
    if not column.dtype.is_integer():
        return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)
    return column.cast(pl.Int64, strict=False)


def _parse_dates(text: pl.Series) -> pl.Series:
    formats = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
    plain = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    text = text.str.replace(r"Z$", "+00:00").str.replace(r" UTC$", "+00:00")
    parsed = [
        text.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us") for form in formats
    ]
    parsed += [
        (text.str.to_date(form, strict=False).cast(pl.Datetime("us")).dt.epoch("us"))
        if form == "%Y-%m-%d"
        else text.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us")
        for form in plain
    ]
    return pl.select(pl.coalesce(parsed)).to_series()


def _without_bad_rows(raw: RawData, frame: pl.DataFrame, rejected: Rejected) -> pl.DataFrame:
    """Set aside rows without an id or time or with a broken rating; check the units of time."""
    _check_units(raw, frame["time"])
    blank = {
        name: pl.col(name).is_null() | (pl.col(name).str.strip_chars() == "")
        for name in ("user_id", "item_id")
    }
    epoch = frame["time"].median()
    is_epoch = isinstance(epoch, int | float) and epoch >= EPOCH_FLOOR
    reasons = [
        *(pl.when(test).then(pl.lit(f"{name} is missing")) for name, test in blank.items()),
        pl.when(pl.col("time").is_null()).then(pl.lit("the time cannot be read")),
        pl.when(pl.lit(is_epoch) & (pl.col("time") <= 0)).then(
            pl.lit("the time is zero or negative where the others are dates")
        ),
    ]
    for name in ("rating", "weight"):
        if name in frame.columns:
            frame = frame.with_columns(pl.col(name).cast(pl.Float64, strict=False))
            reasons.append(
                pl.when(~pl.col(name).is_finite().fill_null(False)).then(
                    pl.lit(f"the {name} is missing or not a number")
                )
            )
    reason = frame.select(reason=pl.coalesce(reasons)).to_series()
    bad = frame.filter(reason.is_not_null()).select(
        LINE, text=pl.concat_str(pl.col("user_id", "item_id"), separator=" ", ignore_nulls=True)
    )
    for (line, text), why in zip(bad.iter_rows(), reason.drop_nulls(), strict=True):
        rejected.add(raw.path, line, why, text)
    rejected.num_lines[raw.path.name] = max(rejected.num_lines[raw.path.name], frame.height)
    rejected.check(raw.path)
    return frame.filter(reason.is_null()) if len(bad) else frame


def _check_units(raw: RawData, times: pl.Series) -> None:
    dates = np.abs(times.drop_nulls().to_numpy())
    dates = dates[dates >= EPOCH_FLOOR]
    if not len(dates):
        return
    first, last = dates.min(), dates.max()
    if np.searchsorted(UNIT_BOUNDS, first) != np.searchsorted(UNIT_BOUNDS, last):
        raise DataError(
            f"{raw.path}: the times run from {first} to {last}, which mixes units (seconds, "
            "milliseconds, ...); write all of them in one unit"
        )


def _filtered(raw: RawData, frame: pl.DataFrame, config: PrepareConfig) -> pl.DataFrame:
    """Keep the wanted event types and ratings; `weight` is the event's, where types set one."""
    if config.event_weights is not None:
        if "event" not in frame.columns:
            raise DataError(
                f"{raw.path} has no event column for event_weights; name it with "
                "--set prepare.columns.event=NAME or leave event_weights out"
            )
        weights = pl.DataFrame(
            {"event": list(config.event_weights), "event_weight": config.event_weights.values()},
            schema={"event": pl.String, "event_weight": pl.Float64},
        ).filter(pl.col("event_weight") > 0)
        there = frame["event"].cast(pl.String).unique().drop_nulls()
        unknown = sorted(set(config.event_weights) - set(there))
        if unknown:
            raise DataError(
                f"{raw.path} has no event of type {unknown[0]!r}; "
                f"it has: {', '.join(sorted(there)[:20])}"
            )
        own = pl.col("weight") if "weight" in frame.columns else pl.lit(1.0)
        frame = (
            frame.with_columns(pl.col("event").cast(pl.String))
            .join(weights, on="event", how="inner", maintain_order="left")
            .with_columns(weight=own * pl.col("event_weight"))
        )
    if config.min_rating is not None:
        if "rating" not in frame.columns:
            raise DataError(
                f"{raw.path} has no rating column for min_rating; name it with "
                "--set prepare.columns.rating=NAME or leave min_rating out"
            )
        frame = frame.filter(pl.col("rating") >= config.min_rating)
    if "weight" in frame.columns:
        frame = frame.filter(pl.col("weight") > 0)
    if frame.is_empty():
        raise DataError(f"{raw.path}: the event and rating filters leave no interaction")
    return frame


def _numbered(frame: pl.DataFrame) -> EventLog:
    """Users numbered by first appearance, items by sorted id: independent of row order."""
    user_ids = frame["user_id"].unique(maintain_order=True)
    item_ids = frame["item_id"].unique().sort()
    weights = None
    if "weight" in frame.columns and (frame["weight"] != 1).any():
        weights = frame["weight"].to_numpy().astype(np.float32)
    return EventLog(
        users=_numbers(frame["user_id"], user_ids),
        items=_numbers(frame["item_id"], item_ids),
        times=frame["time"].to_numpy(),
        is_dated="timestamp" in frame.columns,
        weights=weights,
        user_ids=user_ids.to_list(),
        item_ids=item_ids.to_list(),
    )


def _numbers(column: pl.Series, ids: pl.Series) -> NDArray[np.int32]:
    return column.cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int32)


def _ordered(log: EventLog, config: PrepareConfig) -> tuple[EventLog, int]:
    """By user, then time; events of one time stay in source order or are shuffled (`ties`).

    Never by item number: in several public files that order is alphabetical, so it would tell
    the model something about the answer. Exact duplicates (user, item and time) are dropped.
    """
    order = np.arange(len(log))
    if config.ties == "random":
        order = np.random.default_rng([config.seed, 1]).permutation(len(log))
    order = order[np.argsort(log.times[order], kind="stable")]
    order = order[np.argsort(log.users[order], kind="stable")]
    log = log.take(order)
    repeated = is_duplicate(log)
    num_repeated = int(repeated.sum())
    return (log.take(~repeated) if num_repeated else log), num_repeated


def is_duplicate(log: EventLog) -> NDArray[np.bool_]:
    """Whether an earlier event has the same user, item and time."""
    starts = np.ones(len(log), dtype=bool)
    starts[1:] = (np.diff(log.users) != 0) | (log.times[1:] != log.times[:-1])
    tied = np.flatnonzero(~starts)
    result = np.zeros(len(log), dtype=bool)
    if not len(tied):
        return result
    group = starts.cumsum()
    is_tied = np.zeros(len(log), dtype=bool)
    is_tied[tied] = is_tied[tied - 1] = True
    rows = np.flatnonzero(is_tied)
    by_item = rows[np.lexsort((log.items[rows], group[rows]))]  # stable: earlier rows first
    same = (np.diff(group[by_item]) == 0) & (np.diff(log.items[by_item]) == 0)
    result[by_item[1:][same]] = True
    return result


def without_repeats(log: EventLog, policy: str) -> tuple[EventLog, int]:
    """Keep all events of a user-item pair, or only the first or the last in time."""
    if policy == "keep":
        return log, 0
    pair = log.users.astype(np.int64) * len(log.item_ids) + log.items
    order = np.argsort(pair, kind="stable")
    is_edge = np.ones(len(log), dtype=bool)
    differs = np.diff(pair[order]) != 0
    if policy == "first":
        is_edge[1:] = differs
    else:
        is_edge[:-1] = differs
    kept = np.sort(order[is_edge])
    return log.take(kept), len(log) - len(kept)


def latest(log: EventLog, num: int | None) -> tuple[EventLog, int]:
    """Each user's last `num` events."""
    if num is None:
        return log, 0
    ends = np.bincount(log.users, minlength=len(log.user_ids)).cumsum()
    is_kept = np.arange(len(log)) >= ends[log.users] - num
    return log.take(is_kept), len(log) - int(is_kept.sum())


def _k_core(log: EventLog, min_user: int, min_item: int) -> EventLog:
    """Drop rare users and items until none is left: the largest k-core, whatever the order."""
    while len(log):
        user_counts = np.bincount(log.users, minlength=len(log.user_ids))
        item_counts = np.bincount(log.items, minlength=len(log.item_ids))
        is_kept = (user_counts[log.users] >= min_user) & (item_counts[log.items] >= min_item)
        if is_kept.all():
            break
        log = log.take(is_kept)
    return log


def _renumbered(log: EventLog, seed: int) -> EventLog:
    """Number what is left: users in their order, items by a seeded random permutation."""
    users = np.flatnonzero(np.bincount(log.users))
    items = np.flatnonzero(np.bincount(log.items))
    items = items[np.random.default_rng([seed, 0]).permutation(len(items))]
    user_of = np.full(len(log.user_ids), -1, dtype=np.int32)
    user_of[users] = np.arange(len(users))
    item_of = np.full(len(log.item_ids), -1, dtype=np.int32)
    item_of[items] = np.arange(len(items))
    return replace(
        log,
        users=user_of[log.users],
        items=item_of[log.items],
        user_ids=[log.user_ids[user] for user in users.tolist()],
        item_ids=[log.item_ids[item] for item in items.tolist()],
    )
