"""Datasets as other projects publish them: RecBole, MovieLens, LC-Rec, S3Rec, P5, IDGenRec."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl

from bbqrec.data.exchange import read_id_map
from bbqrec.data.lines import Rejected, read_lines
from bbqrec.data.raw import (
    LOG_COLUMNS,
    ImageFiles,
    RawData,
    first_known,
    map_columns,
    require_log_columns,
    sequences_frame,
)
from bbqrec.data.records import CHUNK_ROWS, LINE, Layout, as_text, read_chunks
from bbqrec.data.tables import files_named_by_item
from bbqrec.errors import CorruptArtifactError, DataError
from bbqrec.storage import read_json, read_text

MOVIELENS_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
MOVIE_COLUMNS = ("item_id", "title", "genres")
_TEXT_TYPES = ("token", "token_seq")


def find_one(folder: Path, pattern: str, what: str) -> Path:
    """The file in `folder` that matches; DataError when there is none or more than one."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder} must hold one {pattern} file ({what}); found: {names}")
    return found[0]


def _pictures(folder: Path) -> ImageFiles | None:
    """The files of a folder images/ beside the data, named by item, if there is one."""
    images = folder / "images"
    return files_named_by_item(images) if images.is_dir() else None


def read_recbole(source: Path, columns: dict[str, str], rejected: Rejected) -> RawData:
    """RecBole's atomic files: tab-separated, unquoted, `name:type` in the header."""
    path = source if source.is_file() else find_one(source, "*.inter", "interactions")
    log = pl.concat(_atomic_chunks(path, rejected), how="diagonal_relaxed")
    found = map_columns(log.columns, columns, LOG_COLUMNS)
    require_log_columns(path, found, log.columns, columns)
    log = log.select(LINE, **{ours: pl.col(theirs) for ours, theirs in found.items()})
    item_path = path.with_suffix(".item")
    items = None
    if item_path.is_file():
        items = pl.concat(_atomic_chunks(item_path, rejected), how="diagonal_relaxed").drop(LINE)
        if found["item_id"] not in items.columns:
            raise DataError(f"{item_path} has no column {found['item_id']} of type token")
        items = first_known(_blank_to_null(items.rename({found["item_id"]: "item_id"})))
    return RawData(log, items, _pictures(path.parent), path, "recbole", found)


def _atomic_chunks(path: Path, rejected: Rejected) -> list[pl.DataFrame]:
    """Columns without their types; numbers in item files are no text and are left out."""
    chunks = []
    for chunk in read_chunks(path, Layout(delimiter="\t", is_quoted=False), rejected):
        typed = {name: name.partition(":") for name in chunk.columns if name != LINE}
        untyped = [name for name, (_, _, kind) in typed.items() if not kind]
        if untyped:
            raise DataError(
                f"{path} has the column {untyped[0]!r} without a type; RecBole's headers are "
                "written name:type, such as item_id:token"
            )
        is_item = path.suffix == ".item"
        kept = {n: t for n, (t, _, kind) in typed.items() if not is_item or kind in _TEXT_TYPES}
        chunks.append(chunk.select(LINE, *kept).rename(kept))
    return chunks


def _blank_to_null(frame: pl.DataFrame) -> pl.DataFrame:
    text = pl.col(pl.String)
    return frame.with_columns(pl.when(text.str.strip_chars() != "").then(text))


def read_movielens(source: Path, rejected: Rejected) -> RawData:
    """MovieLens 1M and 10M: `ratings.dat` and `movies.dat`, fields separated by `::`.

    The publisher writes titles in Latin-1 (1M) or UTF-8 (10M).
    """
    path = source if source.is_file() else find_one(source, "ratings.dat", "ratings")
    log = pl.concat(_double_colon(path, MOVIELENS_COLUMNS, rejected, encoding="ascii"))
    movies = path.parent / "movies.dat"
    items = None
    if movies.is_file():
        encoding = "utf-8" if _is_utf8(movies) else "latin-1"
        items = pl.concat(_double_colon(movies, MOVIE_COLUMNS, rejected, encoding))
        items = first_known(
            items.drop(LINE).with_columns(pl.col("genres").str.replace_all("|", ", ", literal=True))
        )
    return RawData(log, items, _pictures(path.parent), path, "movielens")


def _is_utf8(path: Path) -> bool:
    try:
        read_text(path)
    except CorruptArtifactError:
        return False
    return True


def _double_colon(
    path: Path, names: tuple[str, ...], rejected: Rejected, encoding: str
) -> Iterator[pl.DataFrame]:
    schema = {LINE: pl.UInt32, **dict.fromkeys(names, pl.String)}
    yield pl.DataFrame(schema=schema)
    lines = read_lines(path, rejected, encoding)
    while batch := list(islice(lines, CHUNK_ROWS)):
        rows = []
        for number, text in batch:
            fields = text.split("::")
            if len(fields) == len(names):
                rows.append((number, *fields))
            else:
                reason = f"{len(fields)} fields where {len(names)} are expected: {'::'.join(names)}"
                rejected.add(path, number, reason, text)
        yield pl.DataFrame(rows, schema=schema, orient="row")
    rejected.check(path)


def read_lcrec(source: Path, rejected: Rejected) -> RawData:
    """LC-Rec, LETTER, MQL4GRec: `.inter.json` (user -> items in order), `.item.json`, id maps.

    Ids are the publisher's own where `.user2id` and `.item2id` tell them, else its numbers.
    """
    path = source if source.is_file() else find_one(source, "*.inter.json", "user -> items")
    stem = path.name.removesuffix(".inter.json")
    table = read_json(path)
    if not isinstance(table, dict) or not all(isinstance(v, list) for v in table.values()):
        raise DataError(f'{path} must be a JSON object such as {{"0": [4, 8, 15]}}')
    user_of = _own_ids(path.with_name(f"{stem}.user2id"))
    item_of = _own_ids(path.with_name(f"{stem}.item2id"))
    users = [user_of.get(str(user), str(user)) for user in table]
    sequences = [[item_of.get(str(i), str(i)) for i in items] for items in table.values()]
    rejected.seen(path, len(users), is_last=True)
    items_path = path.with_name(f"{stem}.item.json")
    items = None
    if items_path.is_file():
        items = _described(items_path, item_of)
    return RawData(sequences_frame(users, sequences), items, _pictures(path.parent), path, "lcrec")


def _own_ids(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {number: own for own, number in read_id_map(path).items()}


def _described(path: Path, item_of: dict[str, str]) -> pl.DataFrame:
    table = read_json(path)
    rows = [
        {"item_id": item_of.get(key, key), **{n: as_text(v) for n, v in fields.items()}}
        for key, fields in table.items()
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return first_known(_blank_to_null(pl.from_dicts(rows, schema=dict.fromkeys(names, pl.String))))


def read_sequences(source: Path, rejected: Rejected) -> RawData:
    """S3Rec, P5 and IDGenRec: one line per user, `user item item ...` in order.

    Numbers become the publisher's own ids where `datamaps.json` (id2user, id2item) lies beside. A
    text file `item*.txt` beside it with `item word word ...` describes the items.
    """
    path = source if source.is_file() else find_sequences(source)
    maps_path = path.with_name("datamaps.json")
    maps = read_json(maps_path) if maps_path.is_file() else {}
    user_of, item_of = maps.get("id2user", {}), maps.get("id2item", {})
    users: list[str] = []
    sequences: list[list[str]] = []
    for number, text in read_lines(path, rejected):
        user, *items = text.split()
        if not items:
            rejected.add(
                path,
                number,
                "a user without items (it was read in S3Rec's form: a user and its items)",
                text,
            )
            continue
        users.append(str(user_of.get(user, user)))
        sequences.append([str(item_of.get(item, item)) for item in items])
    rejected.check(path)
    if not users:
        raise DataError(f"{path} is empty; each line must hold a user and its items")
    words = sorted(path.parent.glob("item*.txt"))
    items_frame = None
    if words:
        split = [text.partition(" ") for _, text in read_lines(words[0], rejected)]
        items_frame = first_known(
            pl.DataFrame(
                {"item_id": [item for item, _, _ in split], "keywords": [w for _, _, w in split]}
            )
        )
    return RawData(sequences_frame(users, sequences), items_frame, None, path, "s3rec")


def find_sequences(folder: Path) -> Path:
    """The text file of sequences in a folder; DataError when none or several could be it."""
    found = [p for p in sorted(folder.glob("*.txt")) if not p.name.startswith("item")]
    named = [p for p in found if p.name in ("user_sequence.txt", "sequential_data.txt")]
    if len(named or found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder} must hold one .txt file of sequences; found: {names}")
    return (named or found)[0]
