"""Files written by others come out with the counts their publishers state."""

import gzip
import html
import json
from pathlib import Path
from typing import Any

import pytest

from bbqrec.data import Dataset, PrepareConfig, load_texts, prepare
from bbqrec.data.amazon import parse_metadata
from bbqrec.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")


def prepared(source: Path, out: Path, **options: Any) -> Dataset:
    out.mkdir()
    return prepare(source, out, PrepareConfig.parse(options))


def sequence(dataset: Dataset, user_id: str) -> list[str]:
    """A user's whole sequence of item ids (leave-one-out, at least three events)."""
    user = dataset.user_ids.index(user_id)
    case = dataset.test.users.tolist().index(user)
    items = [*dataset.test.histories.row(case).tolist(), int(dataset.test.targets[case])]
    return [dataset.item_ids[item] for item in items]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "kind", "users", "items", "interactions"),
    [
        ("recbole_ml-100k", "recbole", 943, 1682, 100_000),
        ("amazon2018_gift_cards", "amazon", 458, 148, 2969),  # 2,972 with 3 exact duplicates
        ("mql4grec_instruments", "lcrec", 17_112, 6250, 136_226),
        ("s3rec_beauty", "s3rec", 22_363, 12_101, 198_502),
    ],
)
def test_published_counts_are_met(
    real_data: Path,
    tmp_path: Path,
    folder: str,
    kind: str,
    users: int,
    items: int,
    interactions: int,
) -> None:
    dataset = prepared(real_data / "thirdparty_formats" / folder, tmp_path / "out")

    assert dataset.info["format"] == kind
    assert (dataset.num_users, dataset.num_items) == (users, items)
    assert dataset.info["statistics"]["interactions"] == interactions
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


@pytest.mark.real_data
def test_two_publishers_of_beauty_agree(real_data: Path, tmp_path: Path) -> None:
    folder = prepared(real_data / "amazon2014_beauty", tmp_path / "a")
    text = prepared(real_data / "thirdparty_formats" / "s3rec_beauty", tmp_path / "b")

    assert folder.item_ids == text.item_ids
    assert folder.user_ids == text.user_ids
    assert (folder.train.items == text.train.items).all()
    assert (folder.test.targets == text.test.targets).all()


@pytest.mark.real_data
def test_a_source_sorted_by_item_is_recognized(real_data: Path, tmp_path: Path) -> None:
    dataset = prepared(real_data / "thirdparty_formats" / "idgenrec_sports", tmp_path / "out")

    texts = dict(zip(dataset.item_ids, load_texts(tmp_path / "out"), strict=True))
    assert (dataset.num_users, dataset.num_items) == (35_598, 18_357)
    assert dataset.info["statistics"]["interactions"] == 296_337
    assert "100% of the users' sequences are sorted by item id" in dataset.info["warnings"][0]
    assert texts["B00307W7EW"] == "mudguard rear bicycle fender sports"


@pytest.mark.real_data
def test_recbole_orders_by_its_times_and_brings_titles(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "thirdparty_formats" / "recbole_ml-100k"
    rows = [line.split("\t") for line in (source / "ml-100k.inter").read_text().splitlines()[1:]]
    own = [row for row in rows if row[0] == "196"]

    dataset = prepared(source, tmp_path / "out")

    assert sequence(dataset, "196") == [row[1] for row in sorted(own, key=lambda r: float(r[3]))]
    assert dataset.titles[dataset.item_ids.index("1")] == "Toy Story"


@pytest.mark.real_data
def test_gift_cards_take_their_titles_from_the_metadata(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "thirdparty_formats" / "amazon2018_gift_cards"
    with gzip.open(source / "meta_Gift_Cards.json.gz") as file:
        records = [json.loads(line) for line in file]
    expected = {record["asin"]: html.unescape(record["title"]).strip() for record in records}

    dataset = prepared(source, tmp_path / "out")

    texts = load_texts(tmp_path / "out", ["description"])
    titles = dict(zip(dataset.item_ids, dataset.titles, strict=True))
    assert titles == {item_id: expected[item_id] for item_id in dataset.item_ids}
    assert not any("<br" in (text or "") for text in texts)


@pytest.mark.real_data
def test_python_literals_of_2014_are_read_without_running_them(real_data: Path) -> None:
    path = real_data / "thirdparty_formats" / "amazon2014_meta_sample" / "meta_sample_2014.json"

    items = [parse_metadata(line) for line in path.read_text().splitlines()]

    assert [item["item_id"] for item in items][-1] == "B0000CDBQT"
    assert items[-1]["title"] == (
        "Chef Paul Prudhomme's Magic Seasoning Blends ~ Meat Magic, 24-Ounce Canister"
    )
    assert 'store bought "vanilla extract."' in str(items[2]["description"])


@pytest.mark.parametrize(
    "line",
    [
        "{'asin': __import__('os').system('touch /tmp/hacked')}",
        "{'asin': (lambda: 1)()}",
        "{'asin': " + "[" * 5000 + "}",
        "{'asin': open('/etc/passwd').read()}",
        "__import__('os')",
    ],
)
def test_code_in_metadata_is_a_bad_line(line: str) -> None:
    with pytest.raises(ValueError, match="neither JSON nor a Python literal"):
        parse_metadata(line)


REVIEWS = {
    2014: [
        {"reviewerID": "A1", "asin": "0000000078", "overall": 5.0, "unixReviewTime": 1353196800},
        {"reviewerID": "A1", "asin": "B2", "overall": 3.0, "unixReviewTime": 1353100400},
        {"reviewerID": "A1", "asin": "B3", "overall": 1.0, "unixReviewTime": 1353300400},
    ],
    2023: [
        {"user_id": "A1", "asin": "X", "parent_asin": i, "rating": r, "timestamp": t, "text": ""}
        for i, r, t in (
            *[("0000000078", 5.0, 1588687728923), ("B2", 3.0, 1588687728000)],
            *[("B3", 1.0, 1588687730000)],
        )
    ],
}
METADATA = {
    2014: "{'asin': 'B2', 'title': \"Ann's &amp; Co\", 'price': 3.5, "
    "'categories': [['Beauty', 'Nails'], ['Toys']]}",
    2023: json.dumps(
        {
            "main_category": "All Beauty",
            "title": "Ann's & Co",
            "features": ["light"],
            "description": ["<b>soft</b>"],
            "images": [{"thumb": "https://example.org/a.jpg", "variant": "MAIN"}],
            "store": "Ann",
            "categories": ["Beauty", "Nails"],
            "parent_asin": "B2",
        }
    ),
}
TEXTS = {
    2014: "Ann's & Co\nBeauty > Nails; Toys",
    2023: "Ann's & Co\nAnn\nBeauty > Nails\nlight\nsoft",
}


@pytest.mark.parametrize("year", [2014, 2023])
@pytest.mark.parametrize("is_gzipped", [False, True])
def test_amazon_records_of_each_release_are_understood(
    tmp_path: Path, year: int, is_gzipped: bool
) -> None:
    folder = tmp_path / "amazon"
    folder.mkdir()
    reviews = "".join(json.dumps(record) + "\n" for record in REVIEWS[year])
    for name, text in (("reviews.json", reviews), ("meta.json", METADATA[year] + "\n")):
        path = folder / (name + ".gz" * is_gzipped)
        path.write_bytes(gzip.compress(text.encode()) if is_gzipped else text.encode())

    dataset = prepared(folder, tmp_path / "out")

    texts = dict(zip(dataset.item_ids, load_texts(tmp_path / "out"), strict=True))
    assert dataset.info["format"] == "amazon"
    assert sequence(dataset, "A1") == ["B2", "0000000078", "B3"]
    assert texts == {"B2": TEXTS[year], "0000000078": None, "B3": None}


@pytest.mark.real_data
def test_movielens_reads_latin_1_titles(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ml"
    folder.mkdir()
    movies = (real_data / "thirdparty_formats" / "movielens_1m_dat" / "movies.dat").read_bytes()
    (folder / "movies.dat").write_bytes(movies)
    # As the publisher's README describes them: UserID::MovieID::Rating::Timestamp.
    (folder / "ratings.dat").write_text("1::73::5::978300760\n1::1::3::978302109\n1::2::3::1\n")

    dataset = prepared(folder, tmp_path / "out", min_rating=3)

    assert dataset.info["format"] == "movielens"
    assert sequence(dataset, "1") == ["2", "73", "1"]
    assert dataset.titles[dataset.item_ids.index("73")] == "Misérables, Les (1995)"
    assert "Toy Story (1995)\nAnimation, Children's, Comedy" in load_texts(tmp_path / "out")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_titles_are_read_in_the_encoding_of_their_release(
    tmp_path: Path, encoding: str
) -> None:
    folder = tmp_path / "ml"
    folder.mkdir()
    (folder / "movies.dat").write_bytes("1::Misérables, Les (1995)::Drama\n".encode(encoding))
    (folder / "ratings.dat").write_text("1::1::5::978300760\n")

    dataset = prepared(folder, tmp_path / "out")

    assert dataset.titles == ["Misérables, Les (1995)"]


def test_lcrec_items_and_ids_are_mapped_back(tmp_path: Path) -> None:
    folder = tmp_path / "lcrec"
    folder.mkdir()
    (folder / "Arts.inter.json").write_text('{"0": [2, 0, 1]}')
    (folder / "Arts.item2id").write_text("B0\t0\nB1\t1\nB2\t2\n")
    (folder / "Arts.user2id").write_text("A0\t0\n")
    (folder / "Arts.item.json").write_text('{"0": {"title": "Zero", "brand": "", "tags": ["x"]}}')

    dataset = prepared(folder, tmp_path / "out")

    texts = dict(zip(dataset.item_ids, load_texts(tmp_path / "out"), strict=True))
    assert sequence(dataset, "A0") == ["B2", "B0", "B1"]
    assert texts == {"B0": "Zero\nx", "B1": None, "B2": None}


def test_a_folder_of_nothing_known_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")

    with pytest.raises(DataError, match=r"it has: notes\.md"):
        prepared(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("x.inter", "user_id\titem_id\n1\t2\n", {}, "without a type"),
        ("x.inter", "user_id:token\titem_id:token\n1\t2\n", {}, "no column timestamp"),
        ("x.inter", "user_id:token\titem_id:token\ttimestamp:float\n", {}, "has no rows"),
        ("x.dat", "1::2::3\n", {}, "3 fields where 4 are expected"),
        ("x.inter.json", "[1, 2]", {}, "must be a JSON object"),
        ("x.txt", "u\n", {}, "a user without items"),
        ("x.json", '{"a": 1}\n', {"format": "amazon"}, "holds no Amazon reviews"),
        ("x.csv", "user_id,item_id,timestamp\n", {"format": "folder"}, "needs a folder"),
        ("x.xlsx", "PK", {}, "no known kind"),
    ],
)
def test_broken_files_end_in_one_sentence(
    tmp_path: Path, name: str, text: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(DataError, match=message) as error:
        prepared(tmp_path / name, tmp_path / "out", **options)

    assert "\n" not in str(error.value)
