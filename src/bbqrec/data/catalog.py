"""The items of a prepared dataset: texts and titles, in item-number order."""

import html
from collections.abc import Sequence
from pathlib import Path

from bbqrec.data.parquet import reading_parquet
from bbqrec.errors import CorruptArtifactError, DataError

ITEMS_FILE = "items.parquet"
TEXT_SEPARATOR = "\n"


def load_texts(directory: Path, columns: Sequence[str] | None = None) -> list[str | None]:
    """One text per item in item order, its columns joined by line breaks; None where all are blank.

    Args:
        directory: a prepared dataset.
        columns: which text columns, in which order; None takes all.

    Raises DataError naming the columns there are when one is asked for that is not.
    """
    import polars as pl

    path = directory / ITEMS_FILE
    with reading_parquet(path, CorruptArtifactError, "run `bbqrec prepare` again"):
        items = pl.read_parquet(path, glob=False)
    present = [name for name in items.columns if name != "item_id"]
    wanted = present if columns is None else list(columns)
    unknown = [name for name in wanted if name not in present]
    if unknown:
        raise DataError(
            f"{path} has no text column {unknown[0]!r}; it has: {', '.join(present) or 'none'}"
        )
    if not wanted:
        return [None] * items.height
    text = pl.concat_str(
        (pl.col(name).str.strip_chars().replace("", None) for name in wanted),
        separator=TEXT_SEPARATOR,
        ignore_nulls=True,
    )
    return items.select(text.replace("", None).alias("text"))["text"].to_list()


def unescape(text: str) -> str:
    """HTML entities as characters, twice: scraped titles hold `&amp;amp;` too."""
    return html.unescape(html.unescape(text))
