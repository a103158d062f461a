"""Reading text tables: the fast path agrees with the careful one; damage is named."""

import csv
import gzip
import io
from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbqrec.data import lines as lines_module
from bbqrec.data import records as records_module
from bbqrec.data.lines import Rejected, read_lines
from bbqrec.data.records import LINE, Layout, flatten, json_chunks, read_chunks
from bbqrec.errors import DataError

FIELD = st.sampled_from(["", "a", "007", " x ", "é", "null", "1.5", "=1+1", "\u202eright"])
QUOTED = st.sampled_from(['"', '""', "a,b", "two\nlines", 'quo"te', "\n"])
ROW = st.lists(st.one_of(FIELD, FIELD, FIELD, QUOTED), min_size=3, max_size=3)
RAGGED = st.lists(FIELD, min_size=4, max_size=5)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.one_of(ROW, ROW, RAGGED), min_size=1, max_size=30), block=st.integers(1, 60)
)
def test_blocks_of_any_size_read_what_the_csv_module_reads(
    rows: list[list[str]], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([["p", "q", "r"], ["1", "2", "3"], *rows])
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_bytes(buffer.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_BYTES", block)

        rejected = Rejected(1.0)
        found = pl.concat(read_chunks(path, Layout(delimiter=","), rejected), how="vertical")

    expected = [["1", "2", "3"], *(row for row in rows if len(row) == 3)]
    assert found.drop(LINE).rows() == [tuple(row) for row in expected]
    assert [row["reason"] for row in rejected.rows] == [
        f"{len(row)} fields where the header has 3" for row in rows if len(row) != 3
    ]


def test_line_numbers_survive_quoted_line_breaks_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('p,q\n1,2\n\n"three\nfour",5\nragged\n6,7\n')
    rejected = Rejected(1.0)

    found = pl.concat(read_chunks(path, Layout(), rejected))

    assert found.rows() == [(2, "1", "2"), (5, "three\nfour", "5"), (7, "6", "7")]
    assert [row["line"] for row in rejected.rows] == [6]


def test_an_unclosed_quote_counts_every_line_it_swallowed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('p,q\n1,2\n"3,4\n' + "5,6\n" * 97)

    with pytest.raises(DataError, match="98 of 100 lines cannot be used"):
        list(read_chunks(path, Layout(), Rejected(0.5)))


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_gzip_file_is_named(tmp_path: Path, keep: float) -> None:
    content = gzip.compress(b"".join(b'{"n": "%d"}\n' % n for n in range(10_000)))
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(content[: int(keep * len(content))])

    with pytest.raises(DataError, match="damaged gzip"):
        list(read_lines(path, Rejected(0.0)))


def test_a_text_file_called_gz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_text("p,q\n1,2\n")

    with pytest.raises(DataError, match="damaged gzip"):
        list(read_chunks(path, Layout(), Rejected(0.0)))


def test_a_giant_line_is_set_aside_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines_module, records_module):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 50)
    path = tmp_path / "log.csv"
    path.write_text("p,q\n1,2\n3," + "x" * 5000 + "\n5,6\n")
    rejected = Rejected(1.0)

    found = pl.concat(read_chunks(path, Layout(), rejected))

    assert found.rows() == [(2, "1", "2"), (4, "5", "6")]
    assert rejected.rows[0]["line"] == 3
    assert rejected.rows[0]["reason"] == "longer than 1000 bytes"


@pytest.mark.parametrize(
    "line",
    ["{", "[1, 2]", '{"n": NaN}', "[" * 200_000, '"text"', '{"n": 1}}', '{"n": "\\ud800"}'],
)
def test_a_line_that_is_no_json_object_is_set_aside(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"n": "1"}}\n{line}\n{{"n": 2}}\n')
    rejected = Rejected(0.5)

    found = pl.concat(json_chunks(path, rejected, flatten))

    assert found.rows() == [(1, "1"), (3, "2")]
    assert [row["line"] for row in rejected.rows] == [2]


def test_json_values_become_text() -> None:
    record = {"a": "x", "b": 7, "c": 1.5, "d": None, "e": True, "f": ["p", "q"], "g": {"h": 1}}

    expected = {"a": "x", "b": "7", "c": "1.5", "d": None, "e": None, "f": "p, q", "g": None}
    assert flatten(orjson.dumps(record).decode()) == expected


def test_bad_bytes_in_one_line_cost_that_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"p,q\n1,\xe9\n2,3\n")
    rejected = Rejected(0.5)

    found = pl.concat(read_chunks(path, Layout(), rejected))

    assert found.rows() == [(3, "2", "3")]
    assert rejected.rows[0]["text"] == "1,é\n"


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_text("user_id,item_id\n")

    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_chunks(path, Layout(), Rejected(0.0)))
