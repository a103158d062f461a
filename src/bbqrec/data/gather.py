"""Raw item tables -> items.parquet of a prepared dataset."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bbqrec.data.catalog import ITEMS_FILE, TEXT_SEPARATOR, unescape
from bbqrec.data.collected import PostedItem
from bbqrec.data.config import PrepareConfig
from bbqrec.data.tables import IMAGE_SUFFIXES
from bbqrec.errors import DataError
from bbqrec.storage import write_bytes

MAX_SHOWN_CHARS = 80
IMAGE_PATH = rf"({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})$"
_TITLE_NAMES = ("title", "name", "movie_title", "product_title", "item_name", "product_name")


class Texts(NamedTuple):
    """What was written of the items' texts.

    Args:
        title, columns: the source's names of the title and of all text columns.
        left_out: described items that are not in the catalog.
    """

    titles: list[str]
    is_described: NDArray[np.bool_]
    title: str | None
    columns: list[str]
    counts: dict[str, int]
    warnings: list[str]
    left_out: list[str]


def write_items(
    directory: Path, item_ids: list[str], raw_items: pl.DataFrame | None, config: PrepareConfig
) -> Texts:
    """Write the text columns in item order.

    Text columns are those the config names, else all of strings that are not just numbers; lists
    of strings are joined.
    HTML entities are unescaped. An item without a title goes by its id.
    """
    catalog = pl.DataFrame({"item_id": item_ids}, schema={"item_id": pl.String})
    if raw_items is None:
        if config.text_columns or config.title_column:
            wanted = (config.text_columns or (config.title_column,))[0]
            raise DataError(f"the source has no table of items, so no column {wanted!r}")
        raw_items = catalog.clear()
    lists = [n for n, t in raw_items.schema.items() if t == pl.List(pl.String)]
    raw_items = raw_items.with_columns(pl.col(name).list.join(", ") for name in lists)
    title = _title_column(raw_items, config)
    names = _text_columns(raw_items, config, title)
    items, titles = _in_item_order(item_ids, raw_items, names, title)
    _write_table(directory / ITEMS_FILE, items)
    is_described = np.zeros(items.height, dtype=bool)
    for name in names:
        is_described |= items[name].is_not_null().to_numpy()
    described, used = set(raw_items["item_id"]), set(item_ids)
    left_out = sorted(described - used)
    counts = {
        "items_described_but_never_used": len(left_out),
        "items_without_row": len(used - described),
        "items_without_text": int((~is_described).sum()),
    }
    warnings = [] if config.text_columns is not None else _warn_of_paths(items.select(names))
    return Texts(titles, is_described, title, names, counts, warnings, left_out)


def add_items(
    directory: Path,
    known: Path,
    item_ids: list[str],
    raw_items: pl.DataFrame | None,
    title: str | None,
    posted: Mapping[str, PostedItem],
) -> list[str]:
    """Write the texts of the dataset in `known` and after them those of new items; their titles.

    The columns stay those of the dataset; what else is known of the new items is not read.

    Args:
        title: the dataset's name of the column of titles.
        posted: descriptions for items that `raw_items` does not have.
    """
    old = pl.read_parquet(known / ITEMS_FILE, glob=False)
    names = [name for name in old.columns if name != "item_id"]
    raw_items = _plain_texts(raw_items)
    found = set(raw_items["item_id"])
    others = [item for name, item in posted.items() if name not in found]
    columns = dict.fromkeys([*names, *([title] if title else [])])
    # Whatever of a posted item has no column of its own is read with the first text there is.
    body = next((name for name in columns if name != title), title)
    rows: dict[str, list[str | None]] = {"item_id": [item.item_id for item in others]}
    for column in columns:
        parts = [
            ((item.title,) if column == (title or body) else ())
            + ((item.text,) if column == body else ())
            for item in others
        ]
        rows[column] = [TEXT_SEPARATOR.join(p for p in part if p) or None for part in parts]
    extra = pl.DataFrame(rows, schema=dict.fromkeys(rows, pl.String))
    raw_items = pl.concat([raw_items, extra], how="diagonal")
    new, titles = _in_item_order(item_ids, raw_items, names, title)
    _write_table(directory / ITEMS_FILE, pl.concat([old, new.select(old.columns)]))
    called = {item.item_id: item.title for item in others}
    return [called.get(i) or name for i, name in zip(item_ids, titles, strict=True)]


def _plain_texts(raw_items: pl.DataFrame | None) -> pl.DataFrame:
    if raw_items is None:
        return pl.DataFrame(schema={"item_id": pl.String})
    texts = [name for name, dtype in raw_items.schema.items() if dtype == pl.String]
    lists = [name for name, dtype in raw_items.schema.items() if dtype == pl.List(pl.String)]
    joined = [pl.col(name).list.join(", ") for name in lists]
    return raw_items.select(*texts, *joined)


def _in_item_order(
    item_ids: list[str], raw_items: pl.DataFrame, names: list[str], title: str | None
) -> tuple[pl.DataFrame, list[str]]:
    """`item_id` and the text columns, a row per item, and titles; an id where there is none."""
    catalog = pl.DataFrame({"item_id": item_ids}, schema={"item_id": pl.String})
    keep = list(dict.fromkeys([*names, *([title] if title else [])]))
    items = catalog.join(
        raw_items.select("item_id", *keep), on="item_id", how="left", maintain_order="left"
    ).with_columns(_unescaped(name) for name in keep)
    titles = items[title].fill_null(items["item_id"]).to_list() if title else list(item_ids)
    return items.select("item_id", *names), titles


def _write_table(path: Path, items: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    items.write_parquet(buffer, row_group_size=8192)
    write_bytes(path, buffer.getvalue())


def _warn_of_paths(texts: pl.DataFrame) -> list[str]:
    """A sentence for every text column that rather names image files."""
    warnings = []
    for column in texts:
        known = column.drop_nulls()
        is_path = known.str.to_lowercase().str.contains(IMAGE_PATH)
        if 2 * is_path.sum() > len(known):
            warnings.append(
                f"the column {column.name!r} is read as text, but looks like paths of images (such "
                f"as {shown(known.filter(is_path)[0])}); if that is what it is: --set "
                f"prepare.columns.image={column.name}"
            )
    return warnings


def shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}...")


def _title_column(raw_items: pl.DataFrame, config: PrepareConfig) -> str | None:
    if config.title_column is not None:
        _require(raw_items, config.title_column)
        return config.title_column
    strings = {n.lower(): n for n, t in reversed(raw_items.schema.items()) if t == pl.String}
    return next((strings[name] for name in _TITLE_NAMES if name in strings), None)


def _text_columns(raw_items: pl.DataFrame, config: PrepareConfig, title: str | None) -> list[str]:
    if config.text_columns is not None:
        for name in config.text_columns:
            _require(raw_items, name)
        return list(config.text_columns)
    names = [
        name
        for name, dtype in raw_items.schema.items()
        if dtype == pl.String and name not in ("item_id", "image", "")
    ]
    texts = [name for name in names if name == title or not _is_numeric(raw_items[name])]
    return sorted(texts, key=lambda name: name != title)


def _is_numeric(column: pl.Series) -> bool:
    """Whether a column of a text file holds only numbers, such as a price."""
    known = column.drop_nulls()
    return len(known) > 0 and known.cast(pl.Float64, strict=False).null_count() == 0


def _require(raw_items: pl.DataFrame, name: str) -> None:
    strings = [n for n, t in raw_items.schema.items() if t == pl.String and n != "item_id"]
    if name not in strings:
        raise DataError(
            f"the items have no text column {name!r}; they have: {', '.join(strings) or 'none'}"
        )


def _unescaped(name: str) -> pl.Expr:
    column = pl.col(name).str.strip_chars()
    has_entity = column.str.contains(r"&#?\w+;")
    text = (
        pl.when(has_entity)
        .then(pl.when(has_entity).then(column).map_elements(unescape, return_dtype=pl.String))
        .otherwise(column)
    )
    return pl.when(text != "").then(text).alias(name)
