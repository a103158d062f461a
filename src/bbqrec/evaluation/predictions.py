"""Lists of anybody's recommender, as files: read for evaluation, written for others' tools."""

import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from jaxtyping import Int
from torch import Tensor

from bbqrec.data import Cases, Dataset
from bbqrec.errors import DataError
from bbqrec.ranking import Ranker
from bbqrec.storage import read_bytes, write_bytes

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
_FORMS = (
    "columns user_id, item_id and rank (or score) in .parquet or .csv, the same or "
    '{"user_id": ..., "items": [best first]} in .jsonl, or a TREC run (.trec, .run)'
)


def read_predictions(path: Path, dataset: Dataset, cases: Cases) -> Int[Tensor, "case rank"]:
    """The list of every case's user, best first, -1 in unused places.

    Users without a list get an empty one, items that the catalog lacks keep their place in the
    list; both are counted in a warning. Raises DataError when the file has no such lists.
    """
    lists = _read_lists(path)
    number_of = {item_id: item for item, item_id in enumerate(dataset.item_ids)}
    users = [dataset.user_ids[user] for user in cases.users.tolist()]
    absent = sum(user not in lists for user in users)
    if absent == len(users):
        raise DataError(
            f"{path} answers none of the {len(users)} users of this split, for example "
            f"{users[0]!r}; was it made for other data?"
        )
    depth = max(len(lists.get(user, ())) for user in users)
    rows = torch.full((len(users), depth), -1, dtype=torch.int64)
    unknown = 0
    for row, user in enumerate(users):
        items = [number_of.get(item_id, -1) for item_id in lists.get(user, ())]
        unknown += items.count(-1)
        rows[row, : len(items)] = torch.tensor(items, dtype=torch.int64)
    if absent or unknown:
        logger.warning(
            "%s: %d of %d users have no list and %d listed items are not in the catalog; both "
            "count as misses",
            path.name,
            absent,
            len(users),
            unknown,
        )
    return rows


def write_trec(
    directory: Path, ranker: Ranker, cases: Cases, dataset: Dataset, *, k: int, exclude_seen: bool
) -> None:
    """Write `run.trec` and `qrels.trec` as trec_eval and ir-measures read them."""
    ranking = ranker.rank(cases.histories.to_histories(), k, exclude_seen=exclude_seen)
    users = [dataset.user_ids[user] for user in cases.users.tolist()]
    for name in (*users, *dataset.item_ids):
        if not name or any(character.isspace() for character in name):
            raise DataError(f"the id {name!r} holds white space, which TREC files cannot express")
    run = [
        # Distinct scores in the order of the list: readers sort by them and break ties their way.
        f"{user} Q0 {dataset.item_ids[item]} {rank} {k - rank + 1} bbqrec"
        for user, items in zip(users, ranking.items.tolist(), strict=True)
        for rank, item in enumerate(items, start=1)
        if item >= 0
    ]
    qrels = [
        f"{user} 0 {dataset.item_ids[target]} 1"
        for user, target in zip(users, cases.targets.tolist(), strict=True)
    ]
    for file, lines in (("run.trec", run), ("qrels.trec", qrels)):
        write_bytes(directory / file, ("\n".join(lines) + "\n").encode())


def _read_lists(path: Path) -> dict[str, list[str]]:
    if path.suffix in (".trec", ".run"):
        return _in_order(path, _trec_rows(path))
    if path.suffix == ".jsonl":
        rows = [_json_row(path, n, line) for n, line in enumerate(_lines(path), start=1)]
        if all("items" in row for row in rows):
            return {str(row["user_id"]): [str(item) for item in row["items"]] for row in rows}
        return _in_order(path, rows)
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"{path} is no file of predictions; give {_FORMS}")
    import polars as pl

    content = io.BytesIO(read_bytes(path, max_bytes=MAX_BYTES))
    try:
        is_csv = path.suffix == ".csv"
        frame = pl.read_csv(content, infer_schema=False) if is_csv else pl.read_parquet(content)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    wanted = [name for name in ("user_id", "item_id", "rank", "score") if name in frame.columns]
    return _in_order(path, frame.select(wanted).to_dicts())


def _lines(path: Path) -> list[bytes]:
    return read_bytes(path, max_bytes=MAX_BYTES).splitlines()


def _json_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = None
    if not isinstance(row, dict) or "user_id" not in row:
        raise DataError(f"{path}, line {number}: not a JSON object with user_id; give {_FORMS}")
    return row


def _trec_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.decode(errors="replace").split()
        if len(fields) != 6:
            raise DataError(
                f"{path}, line {number}: a TREC run has 6 fields (user Q0 item rank score name), "
                f"this line has {len(fields)}"
            )
        rows.append({"user_id": fields[0], "item_id": fields[2], "score": fields[4]})
    return rows


def _in_order(path: Path, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Lists by user from one row per listed item; a rank goes before a score."""
    if not rows or not {"user_id", "item_id"} <= rows[0].keys():
        raise DataError(f"{path} has no predictions; give {_FORMS}")
    if not {"rank", "score"} & rows[0].keys():
        raise DataError(f"{path} has no column rank or score; give {_FORMS}")
    key, sign = ("rank", 1.0) if "rank" in rows[0] else ("score", -1.0)
    places = [_number(path, number, row, key) for number, row in enumerate(rows, start=1)]
    lists: dict[str, list[str]] = {}
    for number in sorted(range(len(rows)), key=lambda number: sign * places[number]):
        row = rows[number]
        lists.setdefault(str(row["user_id"]), []).append(str(row["item_id"]))
    return lists


def _number(path: Path, number: int, row: Mapping[str, Any], key: str) -> float:
    try:
        value = float(row[key])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{path}, row {number}: {key} is {row.get(key)!r}, but must be a number; give {_FORMS}"
        )
    return value
