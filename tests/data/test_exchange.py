"""Semantic IDs, histories and recommendations survive the way out and back."""

import json
import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from bbqrec.data import (
    read_histories,
    read_semantic_ids,
    write_index_json,
    write_recommendations,
    write_semantic_ids,
)
from bbqrec.errors import DataError, SemanticIdError
from bbqrec.semantic_ids import SemanticIds

ITEM_IDS = ["007", "7", "b", "=cmd()", "é"]


def random_ids(seed: int = 0) -> SemanticIds:
    codes = torch.randint(0, 16, (5, 3), generator=torch.Generator().manual_seed(seed))
    return SemanticIds(codes, (16, 32, 16))


def test_a_parquet_table_comes_back_whole_in_any_item_order(tmp_path: Path) -> None:
    ids = random_ids()

    write_semantic_ids(tmp_path / "ids.parquet", ITEM_IDS, ids)
    back = read_semantic_ids(tmp_path / "ids.parquet", ITEM_IDS[::-1])

    assert back.codes.tolist() == ids.codes.flip(0).tolist()
    assert back.codebook_sizes == (16, 32, 16)
    assert pl.read_parquet(tmp_path / "ids.parquet").columns == [
        *("item_id", "code_0", "code_1", "code_2")
    ]


def test_an_index_json_comes_back(tmp_path: Path) -> None:
    ids = random_ids()

    write_index_json(tmp_path / "x.index.json", ITEM_IDS, ids)
    back = read_semantic_ids(tmp_path / "x.index.json", ITEM_IDS)

    table = json.loads((tmp_path / "x.index.json").read_text())
    first = ids.codes[0].tolist()
    assert back.codes.tolist() == ids.codes.tolist()
    assert table["007"] == [f"<a_{first[0]}>", f"<b_{first[1]}>", f"<c_{first[2]}>"]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "num_distinct"), [("lemb", 5988), ("vitemb", 6250)])
def test_published_semantic_ids_are_read_by_asin(
    real_data: Path, name: str, num_distinct: int
) -> None:
    folder = real_data / "thirdparty_formats" / "mql4grec_instruments"
    lines = (folder / "Instruments.item2id").read_text().splitlines()
    asins = [line.split("\t")[0] for line in reversed(lines)]
    table = json.loads((folder / f"Instruments.index_{name}.json").read_text())

    ids = read_semantic_ids(folder / f"Instruments.index_{name}.json", asins)

    assert ids.codes.shape == (6250, 4)
    assert len(torch.unique(ids.codes, dim=0)) == num_distinct  # 262 and no collisions
    assert ids.codes[-1].tolist() == [int(code[3:-1]) for code in table["0"]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": ["<a_1>"]}, "no semantic ID for 1 of 2 items, the first is 'b'"),
        ({"a": ["<a_1>"], "b": ["<a_1>", "<b_2>"]}, "the same number of codes"),
        ({"a": ["<a_1>"], "b": ["1"]}, "item 'b' must have codes such as"),
        ({"a": ["<a_1>"], "b": []}, "item 'b' must have codes such as"),
        ({"a": ["<a_1>"], "b": "<a_1>"}, "item 'b' must have codes such as"),
        ([], "must be a JSON object"),
    ],
)
def test_a_malformed_index_json_is_refused(tmp_path: Path, table: object, message: str) -> None:
    (tmp_path / "x.index.json").write_text(json.dumps(table))

    with pytest.raises(SemanticIdError, match=message):
        read_semantic_ids(tmp_path / "x.index.json", ["a", "b"])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"item_id": ["a"], "code_1": [3]}), "must have the columns item_id, code_0"),
        (pl.DataFrame({"item_id": ["a"], "code_0": [0.5]}), "not whole numbers"),
        (pl.DataFrame({"item_id": ["a"], "code_0": [-1]}), "codes run from 0"),
    ],
)
def test_a_malformed_parquet_table_is_refused(
    tmp_path: Path, frame: pl.DataFrame, message: str
) -> None:
    frame.write_parquet(tmp_path / "ids.parquet")

    with pytest.raises(SemanticIdError, match=message):
        read_semantic_ids(tmp_path / "ids.parquet", ["a"])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "wide csv", "parquet", "wide parquet"])
def test_histories_are_read_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    rows = pl.DataFrame(
        {"user_id": ["007", "v", "007"], "item_id": ["2", "9", "1"], "timestamp": [5, 1, 3]}
    )
    wide = pl.DataFrame({"user_id": ["007", "v"], "history": [["1", "2"], ["9"]]})
    path = tmp_path / f"users.{kind.split()[-1]}"
    {
        "jsonl": lambda: wide.write_ndjson(path),
        "csv": lambda: rows.write_csv(path),
        "wide csv": lambda: path.write_text("user_id,history\n007,1 2\nv,9\n"),
        "parquet": lambda: rows.write_parquet(path),
        "wide parquet": lambda: wide.write_parquet(path),
    }[kind]()

    assert read_histories(path) == (["007", "v"], [["1", "2"], ["9"]])


def test_a_batch_keeps_every_user_whatever_is_wrong_with_the_history(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text(
        '{"user_id": "u", "history": ["a"]}\n{"user_id": "v"}\nnonsense\n'
        '{"user_id": "w", "history": "abc"}\n{"user_id": "x", "history": [1.5]}\n'
        '{"user_id": "y", "history": []}\n{"user_id": 7, "history": [8]}\n'
    )

    with caplog.at_level(logging.WARNING):
        users, histories = read_histories(path)

    assert users == ["u", "v", "w", "x", "y", "7"]
    assert histories == [["a"], [], [], [], [], ["8"]]
    assert "4 lines" in caplog.text
    assert "the first is line 2" in caplog.text


def test_a_batch_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("who,what\nu,a\n")

    with pytest.raises(DataError, match="it has: who, what"):
        read_histories(tmp_path / "users.csv")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_recommendations_come_back(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"user_id": "007", "items": ["a", "b"], "scores": [0.5, 0.25], "note": None},
        {"user_id": "v", "items": [], "scores": [], "note": "unknown"},
    ]
    path = tmp_path / f"out.{suffix}"

    write_recommendations(path, rows)

    if suffix == "jsonl":
        assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    else:
        assert pl.read_parquet(path).to_dicts() == rows


def test_recommendations_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.parquet, \.csv or \.jsonl"):
        write_recommendations(tmp_path / "out.xlsx", [{"user_id": "u", "items": np.arange(2)}])


def test_a_table_of_users_may_have_the_names_and_dates_of_the_runs_own_data(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("who,what,when\nu,b,31/01/2024\nu,a,02/01/2024\nu,c,soon\n")
    names = {"user_id": "who", "item_id": "what", "timestamp": "when"}

    mapped = read_histories(path, columns=names, time_format="%d/%m/%Y")

    assert mapped == (["u"], [["a", "b", "c"]])
    path.write_text("user_id,item_id,ts\nu,b,2024-01-31\nu,a,2024-01-02\n")
    assert read_histories(path, columns=names, time_format="%d/%m/%Y") == (["u"], [["a", "b"]])
