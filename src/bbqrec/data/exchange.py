"""Files exchanged with the world: semantic IDs, histories to answer, recommendations."""

import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch

from bbqrec.data.parquet import reading_parquet
from bbqrec.errors import DataError, SemanticIdError
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import read_json, read_text, write_bytes, write_json

logger = logging.getLogger(__name__)

RECOMMENDATION_SUFFIXES = (".parquet", ".csv", ".jsonl")
_CODE = re.compile(r"<([A-Za-z]+)_(\d{1,9})>")
_SIZES_KEY = "codebook_sizes"


def write_semantic_ids(path: Path, item_ids: Sequence[str], ids: SemanticIds) -> None:
    """Write semantic_ids.parquet: `item_id` and one column of codes per level, coarse to fine."""
    import polars as pl

    _check_lengths(item_ids, ids)
    columns = {f"code_{level}": ids.codes[:, level].numpy() for level in range(ids.num_levels)}
    frame = pl.DataFrame({"item_id": list(item_ids)}, schema={"item_id": pl.String}).with_columns(
        pl.Series(name, codes, dtype=pl.Int32) for name, codes in columns.items()
    )
    buffer = io.BytesIO()
    sizes = orjson.dumps(ids.codebook_sizes).decode()
    frame.write_parquet(buffer, metadata={_SIZES_KEY: sizes})
    write_bytes(path, buffer.getvalue())


def write_index_json(path: Path, item_ids: Sequence[str], ids: SemanticIds) -> None:
    """Write the table as LC-Rec, LETTER and MQL4GRec do: item id -> ["<a_12>", "<b_7>", ...]."""
    _check_lengths(item_ids, ids)
    letters = "abcdefghijklmnopqrstuvwxyz"
    if ids.num_levels > len(letters):
        raise SemanticIdError(
            f"{path}: this format names at most {len(letters)} levels, not {ids.num_levels}"
        )
    rows = ids.codes.tolist()
    names = [
        [f"<{letter}_{code}>" for letter, code in zip(letters, row, strict=False)] for row in rows
    ]
    write_json(path, dict(zip(item_ids, names, strict=True)))


def read_semantic_ids(path: Path, item_ids: Sequence[str]) -> SemanticIds:
    """Semantic IDs made elsewhere, in the order of `item_ids`.

    Reads semantic_ids.parquet and `.index.json`. Keys of the latter that are not our item ids are
    looked up in the `.item2id` file beside it. Without stored codebook sizes a level has as many
    codes as its largest one needs. Raises SemanticIdError when an item is absent or a row is
    malformed.
    """
    if path.suffix == ".parquet":
        item_codes, sizes = _read_parquet_codes(path)
    else:
        item_codes, sizes = _read_index_json(path, item_ids), None
    missing = [item_id for item_id in item_ids if item_id not in item_codes]
    if missing:
        raise SemanticIdError(
            f"{path} has no semantic ID for {len(missing)} of {len(item_ids)} items, the first "
            f"is {missing[0]!r}; every item of the dataset needs one"
        )
    rows = [item_codes[item_id] for item_id in item_ids]
    if not rows or len({len(row) for row in rows}) != 1:
        raise SemanticIdError(f"{path} must give every item the same number of codes")
    codes = torch.tensor(rows)
    return SemanticIds(codes, sizes or tuple((codes.max(0).values + 1).tolist()))


def _check_lengths(item_ids: Sequence[str], ids: SemanticIds) -> None:
    if len(item_ids) != len(ids):
        raise SemanticIdError(f"{len(ids)} semantic IDs cannot name {len(item_ids)} items")


def _read_parquet_codes(path: Path) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...] | None]:
    import polars as pl

    with reading_parquet(path, SemanticIdError):
        frame = pl.read_parquet(path, glob=False)
        sizes = pl.read_parquet_metadata(path).get(_SIZES_KEY)
    levels = [f"code_{level}" for level in range(len(frame.columns) - 1)]
    if not levels or set(frame.columns) != {"item_id", *levels}:
        raise SemanticIdError(
            f"{path} must have the columns item_id, code_0, code_1, ...; it has: "
            f"{', '.join(frame.columns)}"
        )
    if any(not frame.schema[n].is_integer() or frame[n].null_count() for n in levels):
        raise SemanticIdError(f"{path} holds codes that are not whole numbers")
    rows = frame.select(levels).rows()
    item_codes = dict(zip(frame["item_id"].cast(pl.String).to_list(), rows, strict=True))
    return item_codes, None if sizes is None else tuple(orjson.loads(sizes))


def _read_index_json(path: Path, item_ids: Sequence[str]) -> dict[str, tuple[int, ...]]:
    table = read_json(path)
    if not isinstance(table, dict) or not table:
        raise SemanticIdError(f'{path} must be a JSON object such as {{"0": ["<a_1>", "<b_2>"]}}')
    item_codes = {key: _codes(path, key, names) for key, names in table.items()}
    if all(item_id in item_codes for item_id in item_ids):
        return item_codes
    maps = sorted(path.parent.glob("*.item2id"))
    own = [m for m in maps if path.name.startswith(m.name.removesuffix("item2id"))]
    if not (own or maps):
        return item_codes
    number_of = read_id_map((own or maps)[0])
    return {item: item_codes[n] for item, n in number_of.items() if n in item_codes}


def _codes(path: Path, key: str, names: Any) -> tuple[int, ...]:
    matches = [_CODE.fullmatch(n) if isinstance(n, str) else None for n in names or ()]
    if not matches or None in matches:
        raise SemanticIdError(f'{path}: item {key!r} must have codes such as "<a_12>", not {names}')
    return tuple(int(match[2]) for match in matches if match)


def read_id_map(path: Path) -> dict[str, str]:
    """The publisher's own id -> its number, from a `.item2id` or `.user2id` file."""
    number_of = {}
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        fields = text.split("\t")
        if len(fields) != 2:
            raise DataError(f"{path} line {line} must be an id, a tab and a number")
        number_of[fields[0]] = fields[1]
    return number_of


def read_histories(
    path: Path, *, columns: Mapping[str, str] | None = None, time_format: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """Users to recommend to and their histories, oldest item first.

    JSON lines hold {"user_id": ..., "history": [...]}. Tables hold either a `history` column (a
    list in Parquet, ids separated by spaces in text) or one row per interaction, ordered by
    timestamp or position where there is one. Nobody with a user id is left out: what cannot be
    read of a history is logged and missing from it, to the point of an empty one.

    Args:
        columns: our name -> a table's, taken where the table has it, as in `PrepareConfig`.
        time_format: strptime pattern tried before the usual ones.
    """
    import polars as pl

    from bbqrec.data.lines import Rejected, base_name
    from bbqrec.data.records import Layout, read_chunks

    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file; give a file of histories")
    rejected = Rejected(1.0)
    if base_name(path).endswith((".jsonl", ".ndjson", ".json")):
        users, histories = _json_histories(path, rejected)
    else:
        frame = pl.concat(list(read_chunks(path, Layout(), rejected)), how="diagonal_relaxed")
        frame = _in_order(path, frame, columns or {}, time_format, rejected)
        users, histories = _table_histories(path, frame, rejected)
    first = f"line {r['line']}: {r['reason']}" if (r := next(iter(rejected.rows), None)) else ""
    if not users:
        raise DataError(
            f"{path} names no user to recommend to{f'; {first}' if first else ''}; give lines such "
            'as {"user_id": "u", "history": ["a", "b"]} or a table (docs/data.md)'
        )
    if first:
        logger.warning(
            "%d lines of %s cannot be read as written; the first is %s",
            *(len(rejected.rows), path, first),
        )
    return users, histories


def _json_histories(path: Path, rejected: Any) -> tuple[list[str], list[list[str]]]:
    from bbqrec.data.lines import read_lines

    users, histories = [], []
    for number, text in read_lines(path, rejected):
        try:
            record = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            rejected.add(path, number, f"not JSON ({error})", text)
            continue
        user = record.get("user_id") if isinstance(record, dict) else None
        if not _is_id(user):
            rejected.add(path, number, 'not {"user_id": ..., "history": [...]}', text)
            continue
        history = record.get("history")
        known = [str(i) for i in history if _is_id(i)] if isinstance(history, list) else []
        if not isinstance(history, list) or len(known) < len(history):
            rejected.add(path, number, "the history is not a list of item ids as strings", text)
        users.append(str(user))
        histories.append(known)
    return users, histories


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _in_order(
    path: Path,
    frame: Any,
    columns: Mapping[str, str],
    time_format: str | None,
    rejected: Any,
) -> Any:
    """`frame` as line, user_id and item_id or history, its events in order of time."""
    import polars as pl

    from bbqrec.data.interactions import parse_times
    from bbqrec.data.raw import map_columns
    from bbqrec.data.records import LINE

    wanted = ("user_id", "item_id", "timestamp", "position")
    found = map_columns(frame.columns, columns, wanted)
    is_wide = "history" in frame.columns
    if "user_id" not in found or not (is_wide or "item_id" in found):
        there = ", ".join(name for name in frame.columns if name != LINE)
        raise DataError(
            f"{path} must have the columns user_id and either item_id or history, or the names "
            f"that the run's data have for them; it has: {there}"
        )
    if is_wide:
        return frame.select(LINE, "history", user_id=pl.col(found["user_id"]))
    time = found.get("timestamp", found.get("position"))
    if time is not None:
        times = parse_times(frame[time], time_format)
        if times.null_count() == len(times):  # written otherwise than in the run's data
            times = parse_times(frame[time], None)
        for line in frame.filter(times.is_null())[LINE]:
            rejected.add(path, line, f"the {time} cannot be read, so the event counts as the last")
        frame = frame.with_columns(times.alias("_time"))
        frame = frame.sort("_time", maintain_order=True, nulls_last=True)
    return frame.select(LINE, **{name: pl.col(found[name]) for name in ("user_id", "item_id")})


def _table_histories(path: Path, frame: Any, rejected: Any) -> tuple[list[str], list[list[str]]]:
    import polars as pl

    from bbqrec.data.raw import ids_as_strings
    from bbqrec.data.records import LINE

    is_wide = "history" in frame.columns
    frame = frame.rename({"history" if is_wide else "item_id": "items"})
    ids = ["user_id"] if is_wide else ["user_id", "items"]
    frame = ids_as_strings(path, frame, ids).with_columns(
        pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name)) for name in ids
    )
    for name in ids:
        for line in frame.filter(pl.col(name).is_null())[LINE].sort():
            rejected.add(path, line, f"the {name.replace('items', 'item_id')} is missing")
    frame = frame.drop_nulls("user_id")
    if not is_wide:
        first = pl.col(LINE).min()
        frame = frame.group_by("user_id").agg(pl.col("items").drop_nulls(), first).sort(LINE)
    elif frame.schema["items"] == pl.String:
        frame = frame.with_columns(pl.col("items").str.split(" ").list.filter(pl.element() != ""))
    dtype = frame.schema["items"]
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    if inner is None or not (inner in (pl.String, pl.Null) or inner.is_integer()):
        raise DataError(f"{path}: the column history must hold lists of item ids as strings")
    histories = frame["items"].cast(pl.List(pl.String)).list.drop_nulls()
    return frame["user_id"].to_list(), [history or [] for history in histories.to_list()]


def recommendations_as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    return b"".join(orjson.dumps(dict(row), option=options) for row in rows).decode()


def write_recommendations(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one record per user and item to `.parquet`, `.csv` or `.jsonl`, all or nothing."""
    import polars as pl

    if path.suffix not in RECOMMENDATION_SUFFIXES:
        raise DataError(f"{path} must end in .parquet, .csv or .jsonl to say how to write it")
    if path.suffix == ".jsonl":
        write_bytes(path, recommendations_as_jsonl(rows).encode())
        return
    frame = pl.from_dicts([dict(row) for row in rows], infer_schema_length=None)
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        frame.write_csv(buffer)
    else:
        frame.write_parquet(buffer)
    write_bytes(path, buffer.getvalue())
