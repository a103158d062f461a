"""What every importer hands over: interactions, items and images as they were found."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from bbqrec.data.records import LINE
from bbqrec.errors import DataError

# Our name -> the names it goes by, in lower case; the first one present is taken.
ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("user_id", "userid", "user", "uid", "reviewerid", "customer_id", "session_id"),
    "item_id": (
        *("item_id", "itemid", "item", "iid", "parent_asin", "asin"),
        *("movie_id", "movieid", "product_id", "productid"),
    ),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "date", "created_at"),
        *("unixreviewtime", "event_time", "unix_time"),
    ),
    "position": ("position",),
    "event": ("event", "event_type", "behavior", "behaviour", "action"),
    "rating": ("rating", "overall", "stars", "score"),
    "weight": ("weight",),
    "image": ("image", "image_path", "image_file", "img", "picture", "poster"),
}
LOG_COLUMNS = ("user_id", "item_id", "timestamp", "position", "event", "rating", "weight")


class ImageTable(NamedTuple):
    """A Parquet file of encoded images."""

    path: Path
    bytes_column: str


class ImageFiles(NamedTuple):
    """Image files under one folder, as (item_id, path) pairs; paths are not yet trusted."""

    root: Path
    items: list[str]
    paths: list[str]


class RawData(NamedTuple):
    """Interactions, items and images of one source, ids as strings.

    Args:
        interactions: `user_id`, `item_id`, `line` and those of LOG_COLUMNS that the source has.
        items: one row per `item_id` with its further columns, or None.
        path: what to name in messages about the interactions.
        columns: our name -> the source's, where it names columns in its own way.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame | None
    images: ImageTable | ImageFiles | None
    path: Path
    format: str
    columns: Mapping[str, str] = {}


MAX_NAMES = 30  # columns named in a refusal, and how much of each
MAX_NAME_CHARS = 60


def map_columns(
    names: Iterable[str], columns: Mapping[str, str], wanted: Iterable[str]
) -> dict[str, str]:
    """Our name -> the file's name for every wanted column found.

    Where `columns` names one that is there, it is taken; else the first alias that is there.
    """
    present = [name for name in names if name != LINE]
    lowered = {name.strip().lower(): name for name in reversed(present)}
    found = {}
    for ours in wanted:
        if columns.get(ours) in present:
            found[ours] = columns[ours]
            continue
        theirs = next((lowered[alias] for alias in ALIASES[ours] if alias in lowered), None)
        if theirs is not None and theirs not in columns.values():
            found[ours] = theirs
    return found


def require_log_columns(
    path: Path, found: Mapping[str, str], names: Iterable[str], columns: Mapping[str, str]
) -> None:
    """DataError naming all that an interactions table lacks and which columns are there."""
    present = [name for name in names if name != LINE]
    lacking = {
        ours: f"{theirs!r} to use as {ours}"
        for ours, theirs in columns.items()
        if theirs not in present and ours in LOG_COLUMNS
    }
    for ours in ("user_id", "item_id"):
        if ours not in found:
            lacking.setdefault(ours, ours)
    if not {"timestamp", "position"} & (found.keys() | lacking.keys()):
        lacking["timestamp"] = "timestamp (or position)"
    if lacking:
        settings = " ".join(f"--set prepare.columns.{ours}=NAME" for ours in lacking)
        there = ", ".join(name[:MAX_NAME_CHARS] for name in present[:MAX_NAMES])
        more = f" and {len(present) - MAX_NAMES:,} more" if len(present) > MAX_NAMES else ""
        raise DataError(
            f"{path} has no column {', no '.join(lacking.values())}; it has: "
            f"{there or 'none'}{more}; "
            f"name what to use with {settings}"
        )


def ids_as_strings(path: Path, frame: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """`frame` with the named columns as strings; DataError for ids such as 7.0 or lists."""
    for name in names:
        dtype = frame.schema[name]
        is_text = dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)
        if not (is_text or dtype.is_integer()):
            raise DataError(
                f"{path}: the ids in column {name} are {dtype}; save them as strings or whole "
                "numbers, so that equal ids are equal text"
            )
    return frame.with_columns(pl.col(name).cast(pl.String) for name in names)


def first_known(items: pl.DataFrame) -> pl.DataFrame:
    """One row per item, in order of appearance: the first value known of every column."""
    others = [name for name in items.columns if name != "item_id"]
    if items["item_id"].is_unique().all():
        return items
    return items.group_by("item_id", maintain_order=True).agg(
        pl.col(name).drop_nulls().first() for name in others
    )


def sequences_frame(users: list[str], sequences: list[list[str]]) -> pl.DataFrame:
    """Interactions from one list of items per user, in order; `line` numbers the users."""
    return (
        pl.DataFrame(
            {"user_id": users, "item_id": sequences},
            schema={"user_id": pl.String, "item_id": pl.List(pl.String)},
        )
        .with_row_index(LINE, offset=1)
        .explode("item_id", empty_as_null=False)
        .with_columns(position=pl.int_range(pl.len(), dtype=pl.Int64))
    )
