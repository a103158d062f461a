"""Amazon reviews as published in 2014, 2018 and 2023: JSON lines, gzipped or not.

Reviews of 2014 and 2018 name users `reviewerID`, items `asin`, seconds `unixReviewTime`; those of
2023 name them `user_id`, `parent_asin` and `timestamp` in milliseconds. Metadata lines of 2014 are
Python literals, not JSON: `ast.literal_eval` reads them without running anything.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from bbqrec.data.lines import Rejected, base_name, first_line
from bbqrec.data.raw import ImageFiles, RawData, first_known
from bbqrec.data.records import LINE, as_text, json_chunks
from bbqrec.data.tables import files_named_by_item
from bbqrec.errors import DataError

_TAG = re.compile(r"<[^>]{0,2000}>")
_MAX_LITERAL_CHARS = 2**20
_LITERAL_START = ("{'", '{"', "{u'")


def find_files(source: Path) -> tuple[list[Path], list[Path]]:
    """The review files and the metadata files of a source, told by their first records."""
    files = [source] if source.is_file() else sorted(p for p in source.iterdir() if p.is_file())
    reviews, metadata = [], []
    for path in files:
        if not base_name(path).endswith((".json", ".jsonl")):
            continue
        try:
            record = _load(first_line(path))
        except (ValueError, DataError):
            continue
        keys = record.keys()
        if {"reviewerID", "asin"} <= keys or {"user_id", "parent_asin"} <= keys:
            reviews.append(path)
        elif keys & {"asin", "parent_asin"}:
            metadata.append(path)
    return reviews, metadata


def read_amazon(source: Path, rejected: Rejected) -> RawData:
    """All review files of a source as interactions and all its metadata as items.

    Addresses of images are never fetched; files in a folder images/, named by
    item, are used.
    """
    reviews, metadata = find_files(source)
    if not reviews:
        raise DataError(
            f"{source} holds no Amazon reviews: records with reviewerID and asin, or with user_id "
            "and parent_asin"
        )
    logs = [chunk for path in reviews for chunk in json_chunks(path, rejected, parse_review)]
    items = list(_items(metadata, rejected))
    images: ImageFiles | None = None
    if source.is_dir() and (source / "images").is_dir():
        images = files_named_by_item(source / "images")
    return RawData(
        pl.concat(logs, how="diagonal_relaxed"),
        first_known(pl.concat(items, how="diagonal_relaxed")) if items else None,
        images,
        reviews[0] if len(reviews) == 1 else source,
        "amazon",
    )


def _items(metadata: list[Path], rejected: Rejected) -> Iterator[pl.DataFrame]:
    for path in metadata:
        for chunk in json_chunks(path, rejected, parse_metadata):
            yield chunk.drop(LINE)


def parse_review(text: str) -> dict[str, str | None]:
    """Who, what, when and how many stars; ValueError when a key is missing."""
    record = _load(text)
    if "reviewerID" in record:
        keys = ("reviewerID", "asin", "unixReviewTime", "overall")
    else:
        keys = ("user_id", "parent_asin", "timestamp", "rating")
    names = ("user_id", "item_id", "timestamp", "rating")
    row = {name: as_text(record.get(key)) for name, key in zip(names, keys, strict=True)}
    return {name: value for name, value in row.items() if name != "rating" or value is not None}


def parse_metadata(text: str) -> dict[str, str | None]:
    """An item's texts under the same names for all three releases."""
    record = _load(text)
    item_id = record.get("parent_asin") or record.get("asin")
    if not isinstance(item_id, str):
        raise ValueError("a metadata record without asin")
    brand = record.get("brand") or record.get("store")
    return {
        "item_id": item_id,
        "title": _plain(record.get("title")),
        "brand": _plain(brand),
        "categories": _categories(record.get("categories") or record.get("category")),
        "features": _plain(record.get("features") or record.get("feature")),
        "description": _plain(record.get("description")),
    }


def _load(text: str) -> dict[str, Any]:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError:
        if not text.startswith(_LITERAL_START) or len(text) > _MAX_LITERAL_CHARS:
            raise ValueError("neither JSON nor a Python literal") from None
        try:
            record = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise ValueError("neither JSON nor a Python literal") from None
    if not isinstance(record, dict):
        raise ValueError("not a record")
    return record


def _plain(value: Any) -> str | None:
    """Text without HTML tags; lists of paragraphs joined."""
    text = (
        " ".join(filter(None, map(as_text, value))) if isinstance(value, list) else as_text(value)
    )
    return _TAG.sub(" ", text).strip() or None if text else None


def _categories(value: Any) -> str | None:
    """2014 has a list of paths, 2018 and 2023 one path."""
    if not isinstance(value, list):
        return None
    paths = value if value and isinstance(value[0], list) else [value]
    joined = (" > ".join(part for part in path if isinstance(part, str)) for path in paths)
    return "; ".join(path for path in joined if path) or None
