"""Rows out of files: delimited text, JSON lines and Parquet, read in bounded pieces.

Every column of a text file is read as a string, so that the id 007 stays "007".
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson
import polars as pl

from bbqrec.data.lines import MAX_LINE_BYTES, Lines, Rejected, base_name, open_lines, read_lines
from bbqrec.data.parquet import reading_parquet
from bbqrec.errors import DataError

CHUNK_ROWS = 200_000
MAX_FIELD_CHARS = 2**20
LINE = "__line__"  # 1-based number of the line (of the row, in Parquet) that a row came from


class Layout(NamedTuple):
    """How a delimited text file is written; None means: look at the file."""

    delimiter: str | None = None
    encoding: str = "utf-8"
    header: Sequence[str] | None = None
    is_quoted: bool = True


def read_chunks(path: Path, layout: Layout, rejected: Rejected) -> Iterator[pl.DataFrame]:
    """The rows of a table in pieces, each with its `line`; DataError when it has none."""
    name = base_name(path)
    if name.endswith(".parquet"):
        chunks = _parquet_chunks(path)
    elif name.endswith((".jsonl", ".json", ".ndjson")):
        chunks = json_chunks(path, rejected, flatten)
    else:
        chunks = _delimited_chunks(path, layout, rejected)
    is_empty = True
    for chunk in chunks:
        is_empty = is_empty and chunk.is_empty()
        yield chunk
    if is_empty:
        raise DataError(f"{path} has no rows; give a file with at least one interaction or item")


def _parquet_chunks(path: Path) -> Iterator[pl.DataFrame]:
    with reading_parquet(path):
        frame = pl.scan_parquet(path, glob=False)
        names = frame.collect_schema().names()
        num_rows = frame.select(pl.len()).collect().item()
        for start in range(0, num_rows, 5 * CHUNK_ROWS):
            chunk = frame.slice(start, 5 * CHUNK_ROWS).collect()
            yield chunk.drop(LINE, strict=False).with_row_index(LINE, offset=start + 1)
    if not num_rows:
        yield pl.DataFrame(schema=dict.fromkeys([LINE, *names], pl.String))


def json_chunks(
    path: Path, rejected: Rejected, parse: Callable[[str], dict[str, str | None]]
) -> Iterator[pl.DataFrame]:
    """One record per line; `parse` gives its columns as strings or raises ValueError."""
    lines = read_lines(path, rejected)
    while batch := list(islice(lines, CHUNK_ROWS)):
        rows: list[dict[str, str | None]] = []
        numbers: list[int] = []
        for number, text in batch:
            try:
                rows.append(parse(text))
                numbers.append(number)
            except (ValueError, RecursionError, MemoryError) as error:
                rejected.add(path, number, str(error) or type(error).__name__, text)
        names = dict.fromkeys(name for row in rows for name in row if name != LINE)
        columns = {name: [row.get(name) for row in rows] for name in names}
        yield pl.DataFrame(
            {LINE: numbers, **columns}, schema={LINE: pl.UInt32, **dict.fromkeys(names, pl.String)}
        )
    rejected.check(path)


def flatten(text: str) -> dict[str, str | None]:
    """A JSON object's plain values as strings; lists are joined, the rest is left out.

    Raises ValueError when the line is not a JSON object.
    """
    record = orjson.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return {key: as_text(value) for key, value in record.items()}


def as_text(value: Any) -> str | None:
    """A plain JSON value as a string; None for what has no plain text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        parts = [as_text(part) for part in value]
        return ", ".join(part for part in parts if part) or None
    return None


def _delimited_chunks(path: Path, layout: Layout, rejected: Rejected) -> Iterator[pl.DataFrame]:
    with open_lines(path, rejected, layout.encoding) as lines:
        first = next(iter(lines), None)
        if first is None:
            raise DataError(f"{path} is empty; give a file with a header line and rows")
        delimiter = layout.delimiter or _guess_delimiter(path, first[1])
        if any(letter < " " and letter not in ("\t", "\r", delimiter) for letter in first[1]):
            raise DataError(
                f"{path} is no text file: line {first[0]} holds bytes that text never does; save "
                "the table as CSV or Parquet, and let the name's ending say which"
            )
        header = layout.header
        if header is None:
            header = _split_header(path, first[1], delimiter)
        else:
            lines.number -= 1
            lines.give_back(first[1].encode(lines.encoding) + b"\n")
        repeated = [name for name, count in Counter(header).items() if count > 1]
        if repeated:
            raise DataError(f"{path} has two columns called {repeated[0]!r}; rename one of them")
        yield pl.DataFrame(schema=_text_schema(header))
        if lines.encoding == "utf-8":
            yield from _plain_blocks(lines, header, delimiter)
        quoting = csv.QUOTE_MINIMAL if layout.is_quoted else csv.QUOTE_NONE
        rows = _parsed_rows(lines, delimiter, quoting, len(header), rejected)
        while batch := list(islice(rows, CHUNK_ROWS)):
            schema = _text_schema(header).items()
            columns = zip(schema, zip(*batch, strict=True), strict=True)
            yield pl.DataFrame([pl.Series(name, c, dtype=dtype) for (name, dtype), c in columns])
    rejected.check(path)


def _split_header(path: Path, text: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([text], delimiter=delimiter))]
    except csv.Error:
        raise DataError(
            f"{path}: the header line cannot be read; write it with plain names and end lines with "
            "a line feed"
        ) from None


def _text_schema(header: Sequence[str]) -> dict[str, Any]:
    return {LINE: pl.UInt32, **dict.fromkeys(header, pl.String)}


def _guess_delimiter(path: Path, header: str) -> str:
    if base_name(path).endswith((".tsv", ".inter", ".item", ".user")):
        return "\t"
    return max(",\t;|", key=header.count)


def _plain_blocks(lines: Lines, header: Sequence[str], delimiter: str) -> Iterator[pl.DataFrame]:
    """The fast path: blocks without quotes or defects, which Polars reads in parallel.

    At the first block with either, stops and gives it back: the careful reader takes over there
    and knows every line's number.
    """
    schema = dict.fromkeys(header, pl.String)
    while block := lines.read_block():
        num_rows = block.count(b"\n") + (not block.endswith(b"\n"))
        # Without quotes a line is a row, and as Polars refuses lines that are too long, the
        # right number of delimiters in all means that no line is too short either.
        is_regular = (
            b'"' not in block
            and block.count(delimiter.encode()) == num_rows * (len(header) - 1)
            and block.count(b"\r") == block.count(b"\r\n")
            and len(block) - block.rfind(b"\n") <= MAX_LINE_BYTES
        )
        frame = None
        if is_regular:
            with suppress(pl.exceptions.PolarsError):
                frame = pl.read_csv(
                    block,
                    has_header=False,
                    schema=schema,
                    separator=delimiter,
                    quote_char=None,
                    empty_string_is_null=False,
                )
        if frame is None or frame.height != num_rows:
            lines.give_back(block)
            return
        yield frame.with_row_index(LINE, offset=lines.number + 1)
        lines.number += num_rows


def _parsed_rows(
    lines: Lines, delimiter: str, quoting: int, width: int, rejected: Rejected
) -> Iterator[tuple[Any, ...]]:
    """Rows as (line, field, ...); a quoted field may hold line breaks."""
    number = done = lines.number

    def feed() -> Iterator[str]:
        nonlocal number
        for number, text in lines:  # noqa: B007 - seen outside, as the line of a row
            yield text + "\n"

    previous = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        reader = csv.reader(feed(), delimiter=delimiter, quoting=cast(Any, quoting))
        while True:
            try:
                for row in reader:
                    if len(row) == width:
                        yield (number, *row)
                    else:
                        reason = f"{len(row)} fields where the header has {width}"
                        text = delimiter.join(row)
                        rejected.add(lines.path, number, reason, text, num_lines=number - done)
                    done = number
                return
            except csv.Error as error:
                reason = f"{error} (an unclosed quote?)"
                rejected.add(lines.path, number, reason, num_lines=number - done)
                done = number
    finally:
        csv.field_size_limit(previous)
