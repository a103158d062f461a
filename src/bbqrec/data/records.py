"""Rows out of files: delimited text, JSON lines and Parquet, read in bounded pieces.

Every column of a text file is read as a string, so that the id 007 stays "007". A line that
cannot be read is set aside with its number and the reason, up to a stated share of all lines.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import orjson
import polars as pl

from bbqrec.errors import DataError

CHUNK_ROWS = 200_000
MAX_LINE_BYTES = 16 * 2**20
MAX_FIELD_CHARS = 2**20
LINE = "line"  # 1-based number of the line (of the row, in Parquet) that a row came from
_EARLY_CHECK_ROWS = 100_000


class Rejected:
    """Lines set aside, with the rule that too many of them end the job."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.rows: list[dict[str, Any]] = []
        self.num_lines: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def add(self, path: Path, line: int, reason: str, text: str = "") -> None:
        """Set a line aside; the first 200 characters of its text are kept."""
        self.rows.append({"file": path.name, "line": line, "reason": reason, "text": text[:200]})
        self._counts[path.name] += 1

    def seen(self, path: Path, num_lines: int, *, is_last: bool) -> None:
        """Note that `num_lines` lines were read; DataError when too many of them were bad."""
        self.num_lines[path.name] = num_lines
        if is_last or num_lines >= _EARLY_CHECK_ROWS:
            self.check(path)

    def check(self, path: Path) -> None:
        """DataError when more than the allowed share of the file's lines was set aside."""
        count, total = self._counts[path.name], self.num_lines[path.name]
        if count > self.max_share * total:
            first = next(row for row in self.rows if row["file"] == path.name)
            raise DataError(
                f"{path}: {count} of {total} lines cannot be used, more than the allowed share of "
                f"{self.max_share:g}; the first is line {first['line']}: {first['reason']}; "
                "correct the file or raise max_bad_share"
            )

    def to_jsonl(self) -> bytes:
        """All lines set aside, one JSON object per line."""
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in self.rows)


class Layout(NamedTuple):
    """How a delimited text file is written; None means: look at the file."""

    delimiter: str | None = None
    encoding: str = "utf-8"
    header: Sequence[str] | None = None
    is_quoted: bool = True


def base_name(path: Path) -> str:
    """The file's name in lower case without a trailing .gz."""
    return path.name.lower().removesuffix(".gz")


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


def read_lines(
    path: Path, rejected: Rejected, encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file with their numbers, gzipped or not."""
    try:
        with _open(path) as file:
            yield from _decoded(path, file, rejected, encoding)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def first_line(path: Path, encoding: str = "utf-8") -> str:
    """The first non-blank line, for telling formats apart; empty when there is none."""
    return next((text for _, text in read_lines(path, Rejected(1.0), encoding)), "")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _decoded(
    path: Path, file: BinaryIO, rejected: Rejected, encoding: str
) -> Iterator[tuple[int, str]]:
    number = 0
    if encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        with io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="\n") as text_file:
            for number, text in enumerate(text_file, start=1):
                if text.strip():
                    yield number, text.rstrip("\r\n")
        rejected.seen(path, number, is_last=True)
        return
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f'{path} is UTF-16 text; set encoding = "utf-16" or save as UTF-8')
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            rejected.add(path, number, f"longer than {MAX_LINE_BYTES} bytes")
            continue
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            shown = line[:200].decode("latin-1")
            reason = f"not {encoding} text at byte {error.start}; is it another encoding?"
            rejected.add(path, number, reason, shown)
            continue
        except LookupError:
            raise DataError(f'there is no encoding {encoding!r}; "latin-1" is one') from None
        text = text.rstrip("\r\n")
        if text and not text.isspace():
            yield number, text
        if number % _EARLY_CHECK_ROWS == 0:
            rejected.seen(path, number, is_last=False)
    rejected.seen(path, number, is_last=True)


def _parquet_chunks(path: Path) -> Iterator[pl.DataFrame]:
    try:
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        num_rows = frame.select(pl.len()).collect().item()
        for start in range(0, num_rows, 5 * CHUNK_ROWS):
            chunk = frame.slice(start, 5 * CHUNK_ROWS).collect()
            yield chunk.drop(LINE, strict=False).with_row_index(LINE, offset=start + 1)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None
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
    lines = read_lines(path, rejected, layout.encoding)
    header = layout.header
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty; give a file with a header line and rows")
    delimiter = layout.delimiter or _guess_delimiter(path, first[1])
    quoting = csv.QUOTE_MINIMAL if layout.is_quoted else csv.QUOTE_NONE
    if header is None:
        header = [name.strip() for name in next(csv.reader([first[1]], delimiter=delimiter))]
    else:
        lines = _chain(first, lines)
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"{path} has two columns called {repeated[0]!r}; rename one of them")
    width = len(header)
    rows = _parsed_rows(path, lines, delimiter, quoting, width, rejected)
    schema = {LINE: pl.UInt32, **dict.fromkeys(header, pl.String)}
    is_first = True
    while (batch := list(islice(rows, CHUNK_ROWS))) or is_first:
        is_first = False
        columns = zip(*batch, strict=True) if batch else iter([()] * (width + 1))
        yield pl.DataFrame(
            [pl.Series(n, c, dtype=t) for (n, t), c in zip(schema.items(), columns, strict=True)]
        )
    rejected.check(path)


def _guess_delimiter(path: Path, header: str) -> str:
    if base_name(path).endswith((".tsv", ".inter", ".item", ".user")):
        return "\t"
    return max(",\t;|", key=header.count)


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _parsed_rows(
    path: Path,
    lines: Iterable[tuple[int, str]],
    delimiter: str,
    quoting: int,
    width: int,
    rejected: Rejected,
) -> Iterator[tuple[Any, ...]]:
    """Rows as (line, field, ...); a quoted field may hold line breaks."""
    number = 0

    def feed() -> Iterator[str]:
        nonlocal number
        for number, text in lines:  # noqa: B007
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
                        rejected.add(path, number, reason, delimiter.join(row))
                return
            except csv.Error as error:
                rejected.add(path, number, f"{error} (an unclosed quote?)")
    finally:
        csv.field_size_limit(previous)
