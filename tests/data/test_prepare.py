"""From files to a prepared dataset: counts, ordering, filters, determinism, traps."""

import gzip
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bbqrec.data import Dataset, PrepareConfig, load_texts, load_weights, prepare
from bbqrec.errors import ConfigError, DataError

LOG = """user_id,item_id,timestamp,title,genre,price
007,b,3,The &amp;amp; Second,drama,2
007,a,1,"A ""first"" title
on two lines",comedy,1.5
007,c,2,Third,,
7,a,10,"A ""first"" title
on two lines",,
7,b,30,ignored,,
7,c,20,,,
"""


def prepared(tmp_path: Path, source: Path | str, **options: Any) -> Dataset:
    if isinstance(source, str):
        (tmp_path / "log.csv").write_text(source)
        source = tmp_path / "log.csv"
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return prepare(source, out, PrepareConfig.parse(options))


def histories(dataset: Dataset) -> dict[str, list[str]]:
    """Every user's whole sequence of item ids, put together from the leave-one-out parts."""
    result = {}
    for user, user_id in enumerate(dataset.user_ids):
        result[user_id] = dataset.train.row(user).tolist()
    for case, user in enumerate(dataset.test.users.tolist()):
        result[dataset.user_ids[user]] = [
            *dataset.test.histories.row(case).tolist(),
            int(dataset.test.targets[case]),
        ]
    return {user: [dataset.item_ids[i] for i in items] for user, items in result.items()}


@pytest.mark.real_data
def test_the_posters_come_out_with_their_published_counts(real_data: Path, tmp_path: Path) -> None:
    dataset = prepared(tmp_path, real_data / "ml1m_posters")

    statistics = dataset.info["statistics"]
    source = pl.read_parquet(real_data / "ml1m_posters" / "interactions.parquet")
    expected = source.sort("position").group_by("user_id").agg("item_id")
    assert (dataset.num_users, dataset.num_items) == (6040, 3706)
    assert statistics["interactions"] == 1_000_209
    assert statistics["items_with_image"] == 3279
    assert statistics["interactions_per_item_median"] == 123.5
    assert histories(dataset) == dict(expected.iter_rows())
    assert dataset.info["warnings"] == []


@pytest.mark.real_data
def test_beauty_comes_out_with_its_published_counts_and_a_warning_about_its_order(
    real_data: Path, tmp_path: Path
) -> None:
    dataset = prepared(tmp_path, real_data / "amazon2014_beauty", min_user=5, min_item=5)

    texts = load_texts(tmp_path / "out", ["title", "keywords"])
    assert (dataset.num_users, dataset.num_items) == (22_363, 12_101)
    assert dataset.info["statistics"]["interactions"] == 198_502
    assert "69% of neighboring events stand in item-id order" in dataset.info["warnings"][0]
    assert texts[dataset.item_ids.index("B004756YJA")].startswith("OPI Nail Lacquer, Simmer")
    assert not any("&amp;" in title for title in dataset.titles)
    assert sum(title == i for title, i in zip(dataset.titles, dataset.item_ids, strict=True)) == 7


def test_one_csv_gives_interactions_texts_and_titles(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, LOG)

    texts = dict(zip(dataset.item_ids, load_texts(tmp_path / "out"), strict=True))
    assert histories(dataset) == {"007": ["a", "c", "b"], "7": ["a", "c", "b"]}
    assert texts["a"] == 'A "first" title\non two lines\ncomedy'
    assert texts["c"] == "Third"
    assert dataset.titles[dataset.item_ids.index("b")] == "The & Second"


def test_a_column_that_changes_with_every_interaction_is_no_text_of_the_item(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"u{u},i{i},{u + i},name {i},I am user {u}" for u in range(5) for i in range(4)]

    with caplog.at_level(logging.WARNING):
        prepared(tmp_path, "user_id,item_id,timestamp,title,review\n" + "\n".join(rows))

    assert sorted(map(str, load_texts(tmp_path / "out"))) == [f"name {i}" for i in range(4)]
    assert "column review is left out" in caplog.text


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".tsv", ".csv.gz"])
def test_every_kind_of_table_gives_the_same_dataset(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "csv").mkdir()
    expected = prepared(tmp_path / "csv", LOG)
    frame = pl.read_csv(LOG.encode(), infer_schema=False).with_columns(
        pl.col("timestamp").cast(pl.Int64)
    )
    path = tmp_path / f"log{suffix}"
    {
        ".parquet": lambda: frame.write_parquet(path),
        ".jsonl": lambda: frame.write_ndjson(path),
        ".tsv": lambda: frame.write_csv(path, separator="\t"),
        ".csv.gz": lambda: path.write_bytes(gzip.compress(LOG.encode())),
    }[suffix]()

    dataset = prepared(tmp_path, path)

    assert dataset.fingerprint == expected.fingerprint


def test_columns_of_any_name_are_mapped(tmp_path: Path) -> None:
    text = "who;what;when;verdict\nu;a;2024-01-03;5\nu;b;2024-01-01T10:00:00Z;4\nu;c;2024-01-02;5\n"

    columns = {"user_id": "who", "item_id": "what", "timestamp": "when", "rating": "verdict"}
    dataset = prepared(tmp_path, text, columns=columns, min_rating=4.5)

    assert histories(dataset) == {"u": ["c", "a"]}


def test_a_table_without_header_takes_the_one_it_is_given(tmp_path: Path) -> None:
    header = ["user_id", "item_id", "rating", "timestamp"]

    dataset = prepared(tmp_path, "u,b,5.0,2\nu,a,1.0,1\n", header=header)

    assert histories(dataset) == {"u": ["a", "b"]}


def test_the_same_seed_repeats_and_row_order_does_not_number_items(tmp_path: Path) -> None:
    rows = [f"u{u},i{i},{u * 7 + i}" for u in range(5) for i in range(6)]
    header = "user_id,item_id,timestamp\n"

    first = prepared(tmp_path, header + "\n".join(rows))
    again = prepared(tmp_path, header + "\n".join(rows))
    mirrored = prepared(tmp_path, header + "\n".join(reversed(rows)))
    other = prepared(tmp_path, header + "\n".join(rows), seed=1)

    assert first.fingerprint == again.fingerprint
    assert first.item_ids == mirrored.item_ids != sorted(first.item_ids)
    assert mirrored.user_ids == first.user_ids[::-1]
    assert other.item_ids != first.item_ids


def test_ties_keep_the_source_order_or_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    items = [f"{i:02d}" for i in np.random.default_rng(0).permutation(40)]
    text = "user_id,item_id,timestamp\n" + "".join(f"u,{item},5\n" for item in items)

    kept = prepared(tmp_path, text)
    shuffled = prepared(tmp_path, text, ties="random")
    again = prepared(tmp_path, text, ties="random")

    assert histories(kept)["u"] == items
    assert histories(shuffled)["u"] not in (items, sorted(items))
    assert histories(shuffled) == histories(again)
    assert "100% of the events share their time" in kept.info["warnings"][-1]


def test_event_types_are_filtered_and_weighted(tmp_path: Path) -> None:
    text = (
        "user_id,item_id,timestamp,event\n"
        "u,a,1,view\nu,b,2,buy\nu,c,3,click\nu,d,4,view\nu,e,5,buy\nu,f,6,buy\n"
    )

    dataset = prepared(tmp_path, text, event_weights={"view": 0.25, "buy": 1.0})

    weights = load_weights(tmp_path / "out")
    assert histories(dataset) == {"u": ["a", "b", "d", "e", "f"]}
    assert weights is not None
    assert weights.tolist() == [0.25, 1.0, 0.25]
    assert dataset.info["counts"]["interactions"]["filtered_out"] == 1


@pytest.mark.parametrize(("num_times", "num_warnings"), [(10**6, 0), (3, 2)])
def test_only_ties_can_have_been_written_in_the_order_of_ids(
    tmp_path: Path, num_times: int, num_warnings: int
) -> None:
    """Ids that grow with time are no sign of anything where no two events share their time."""
    generator = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"{item + 20 * (place // 3):03d}", f"{place * num_times // 12 + 1}")
        for user in range(30)
        for place, item in enumerate(
            item for _ in range(4) for item in sorted(generator.choice(40, 3, replace=False))
        )
    ]
    log = "user_id,item_id,timestamp\n" + "".join(",".join(row) + "\n" for row in rows)

    warnings = prepared(tmp_path, log).info["warnings"]

    assert len(warnings) == num_warnings, warnings
    if num_warnings:
        assert "of neighboring events of equal time stand in item-id order" in warnings[0]


def test_sequences_sorted_by_item_id_are_called_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    lines = [
        f"u{u},{item:03d},{place}\n"
        for u in range(30)
        for place, item in enumerate(sorted(generator.choice(200, 8, replace=False)))
    ]

    with caplog.at_level(logging.WARNING):
        dataset = prepared(tmp_path, "user_id,item_id,position\n" + "".join(lines))

    assert "100% of the users' sequences are sorted by item id" in dataset.info["warnings"][0]
    assert "sorted by item id" in caplog.text


def test_bad_lines_are_kept_aside_with_number_and_reason(tmp_path: Path) -> None:
    lines = [f"u{i % 20},i{i % 7},{i}" for i in range(400)]
    lines[10] = "u1,i1"
    lines[20] = ",i1,20"
    lines[30] = "u2,i2,soon"
    text = "user_id,item_id,timestamp\n" + "\n".join(lines) + "\n"

    dataset = prepared(tmp_path, text)

    rejected = [
        json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    ]
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (12, "2 fields where the header has 3"),
        (22, "user_id is missing"),
        (32, "the time cannot be read"),
    ]
    assert dataset.info["statistics"]["interactions"] == 397
    assert dataset.info["counts"]["lines_set_aside"] == 3


def test_only_training_users_too_short_for_the_split_are_counted(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\nx,a,1\ny,a,1\ny,b,2\nz,a,1\nz,b,2\nz,c,3\n"

    dataset = prepared(tmp_path, text)

    assert dataset.train.lengths.tolist() == [1, 2, 1]
    assert dataset.test.users.tolist() == [2]
    assert dataset.info["counts"]["split"]["users_that_only_train"] == 2


def test_a_dataset_folder_joins_items_and_counts_strangers(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user_id,item_id,position\nu,a,0\nu,b,1\nu,c,2\n")
    (folder / "items.jsonl").write_text(
        '{"item_id": "a", "title": null, "tags": ["x", "y"], "price": 3}\n'
        '{"item_id": "a", "title": "A", "tags": []}\n'
        '{"item_id": "z", "title": "never used"}\n'
    )

    dataset = prepared(tmp_path, folder)

    texts = dict(
        zip(dataset.item_ids, load_texts(tmp_path / "out", ["title", "tags"]), strict=True)
    )
    assert texts == {"a": "A\nx, y", "b": None, "c": None}
    assert dataset.info["counts"]["items"] == {
        "items_described_but_never_used": 1,
        "items_without_row": 2,
        "items_without_text": 2,
        "items_without_text_and_image": 2,
    }


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("user_id,item_id,timestamp\n", {}, "has no rows"),
        ("user_id,thing,timestamp\nu,a,1\n", {}, "no column item_id; it has: user_id, thing,"),
        ("user_id,item_id\nu,a\n", {}, "no column timestamp .or position"),
        ("user_id,item_id,timestamp\nu,a,1\n", {"columns": {"rating": "stars"}}, "'stars'"),
        ("user_id,item_id,timestamp\nu,a,1\n,b,2\n", {}, "line 3: user_id is missing"),
        ("user_id,item_id,timestamp\nu,a,soon\nu,b,later\n", {}, "for example 'soon'"),
        ("user_id,item_id,timestamp\nu,a,1\n", {"min_user": 5}, "at least 5 per user"),
        ("user_id,item_id,timestamp\nu,a,1600000000\nu,b,1600000000000\n", {}, "mixes units"),
        ("user_id,item_id,timestamp\nu,a,1600000000\nu,b,1600000001\nu,c,0\n", {}, "zero or neg"),
        ("user_id,item_id,item_id\nu,a,1\n", {}, "two columns called 'item_id'"),
        ("user_id,item_id,timestamp,rating\nu,a,1,inf\n", {}, "rating is missing or not a"),
        ("user_id,item_id,timestamp\nu,a,1\n", {"min_rating": 3}, "no rating column"),
        ("user_id,item_id,timestamp,event\nu,a,1,x\n", {"event_weights": {"y": 1}}, "type 'y'"),
        ("user_id,item_id,timestamp\nu,a,1\n", {"text_columns": ["plot"]}, "'plot'"),
        ("user_id,item_id,position\nu,a,1\nu,b,2\n", {"split": "temporal"}, "needs timestamps"),
        ("user_id,item_id,timestamp\nu,a,1\nu,b,1\n", {"split": "temporal"}, "too few different"),
        ("user_id,item_id,timestamp\nu,a,1\nu,a,2\n", {"split": "cold"}, "of a cold item"),
    ],
)
def test_unusable_input_ends_in_one_sentence(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepared(tmp_path, text, **options)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("item_id", [1.0, 2.0], "ids in column item_id are Float64"),
        ("user_id", [["u"], ["v"]], "ids in column user_id are List"),
        ("timestamp", [["1"], ["2"]], "no timestamp can be read"),
        ("timestamp", [None, None], "no timestamp can be read"),
        ("timestamp", [float("nan"), float("inf")], "no timestamp can be read"),
        ("item_id", [None, None], "item_id is missing"),
    ],
)
def test_columns_of_an_unusable_type_end_in_one_sentence(
    tmp_path: Path, name: str, values: list[Any], message: str
) -> None:
    frame = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [1, 2]})
    frame.with_columns(pl.Series(name, values)).write_parquet(tmp_path / "log.parquet")

    with pytest.raises(DataError, match=message):
        prepared(tmp_path, tmp_path / "log.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,item_id,timestamp\nu,a,1\n".encode("utf-16"), "prepare.encoding=utf-16"),
        ("user_id,item_id,timestamp\nü,a,1\nü,b,2\n".encode("latin-1"), "not utf-8 text"),
        (b"user_id,item_id,timestamp\ru,a,1\ru,b,2\r", "the header line cannot be read"),
        (b"user_id,item_id,timestamp\nu,a," + b"9" * 400, "no timestamp can be read"),
    ],
)
def test_wrong_bytes_end_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)

    with pytest.raises(DataError, match=message):
        prepared(tmp_path, tmp_path / "log.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_another_encoding_is_read_when_named(tmp_path: Path, encoding: str) -> None:
    text = "user_id,item_id,timestamp\r\nü,a,1\r\nü,é,2\r\n"
    (tmp_path / "log.csv").write_bytes(text.encode(encoding))

    dataset = prepared(tmp_path, tmp_path / "log.csv", encoding=encoding)

    assert histories(dataset) == {"ü": ["a", "é"]}


@pytest.mark.parametrize(
    "item_id", ["007", "nan", "null", "__proto__", "=cmd()", " a ", "1e3", "🙂"]
)
def test_ids_stay_as_they_are(tmp_path: Path, item_id: str) -> None:
    dataset = prepared(tmp_path, f"user_id,item_id,timestamp\nu,{item_id},1\nu,x,2\n")

    assert set(dataset.item_ids) == {item_id, "x"}


def test_a_misspelled_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="columns"):
        PrepareConfig.parse({"columns": {"user": "who"}})


def test_importing_the_room_does_not_import_polars() -> None:
    code = "import sys, bbqrec.data; sys.exit('polars' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
