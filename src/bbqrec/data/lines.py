"""Lines of text files, gzipped or not, with their numbers; bad ones set aside.

A line that cannot be read is kept with its number and the reason, up to a stated share of all.
"""

import codecs
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from bbqrec.errors import DataError

BLOCK_BYTES = 32 * 2**20
MAX_LINE_BYTES = 16 * 2**20
_EARLY_CHECK_ROWS = 100_000


def base_name(path: Path) -> str:
    """The file's name in lower case without a trailing .gz."""
    return path.name.lower().removesuffix(".gz")


class Rejected:
    """Lines set aside, with the rule that too many of them end the job."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.rows: list[dict[str, Any]] = []
        self.num_lines: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def add(
        self, path: Path, line: int, reason: str, text: str = "", *, num_lines: int = 1
    ) -> None:
        """Set aside what ends at `line`; the first 200 characters of its text are kept."""
        self.rows.append({"file": path.name, "line": line, "reason": reason, "text": text[:200]})
        self._counts[path.name] += num_lines

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
                "correct the file or raise prepare.max_bad_share"
            )

    def num_of(self, path: Path) -> int:
        """How many lines of a file were set aside so far."""
        return self._counts[path.name]

    def to_jsonl(self) -> bytes:
        """All lines set aside, one JSON object per line."""
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in self.rows)


def read_lines(
    path: Path, rejected: Rejected, encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file with their numbers, gzipped or not."""
    with open_lines(path, rejected, encoding) as lines:
        yield from lines


def first_line(path: Path, encoding: str = "utf-8") -> str:
    """The first non-blank line, for telling formats apart; empty when there is none."""
    return next((text for _, text in read_lines(path, Rejected(1.0), encoding)), "")


@contextmanager
def open_lines(path: Path, rejected: Rejected, encoding: str) -> Iterator["Lines"]:
    """The lines of a text file; damage met while reading them becomes a DataError."""
    try:
        with _open(path, encoding) as file:
            yield Lines(path, file, rejected, encoding)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _open(path: Path, encoding: str) -> io.BufferedIOBase:
    """The bytes of a file, unpacked; text in a wide encoding is turned into UTF-8 at once."""
    try:
        codec = codecs.lookup(encoding)
    except LookupError:
        raise DataError(f'there is no encoding {encoding!r}; "latin-1" is one') from None
    file = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")
    if codec.name.startswith(("utf-16", "utf-32")):
        with file:
            return io.BytesIO(file.read().decode(encoding, errors="replace").encode())
    return file


class Lines:
    """Numbered lines of a file, or blocks of whole lines where those can be parsed faster."""

    def __init__(
        self, path: Path, file: io.BufferedIOBase, rejected: Rejected, encoding: str
    ) -> None:
        self.path = path
        self.number = 0  # of the last line read
        self.encoding = codecs.lookup(encoding).name
        if self.encoding.startswith(("utf-16", "utf-32", "utf-8")):
            self.encoding = "utf-8"
        self._file = file
        self._rejected = rejected
        self._pending = io.BytesIO()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while line := self._readline():
            self.number += 1
            text = self._decode(line)
            if text is not None and text and not text.isspace():
                yield self.number, text
            if self.number % _EARLY_CHECK_ROWS == 0:
                self._rejected.seen(self.path, self.number, is_last=False)
        self._rejected.seen(self.path, self.number, is_last=True)

    def read_block(self) -> bytes:
        """The next whole lines, about BLOCK_BYTES of them."""
        block = self._pending.read() + self._file.read(BLOCK_BYTES)
        return block + self._file.readline(MAX_LINE_BYTES) if block else block

    def give_back(self, block: bytes) -> None:
        """Have the next lines come from `block` again."""
        self._pending = io.BytesIO(block)

    def _readline(self) -> bytes:
        line = self._pending.readline()
        if line.endswith(b"\n"):
            return line
        return line + self._file.readline(MAX_LINE_BYTES)

    def _decode(self, line: bytes) -> str | None:
        if self.number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(
                    f"{self.path} is UTF-16 text; give --set "
                    "prepare.encoding=utf-16 or save it as UTF-8"
                )
            if b"\0" in line:
                raise DataError(
                    f"{self.path} is no text file: its first line holds zero bytes; save the table "
                    "as CSV, JSON lines or Parquet, and let the name's ending say which"
                )
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := self._file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            self._rejected.add(self.path, self.number, f"longer than {MAX_LINE_BYTES} bytes")
            return None
        try:
            return line.decode(self.encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            reason = (
                f"not {self.encoding} text at byte {error.start} (if it is another, name it: "
                "--set prepare.encoding=latin-1)"
            )
            self._rejected.add(self.path, self.number, reason, line[:200].decode("latin-1"))
            return None
