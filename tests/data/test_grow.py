"""What comes later joins what is there as if everything had been prepared at once."""

import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbqrec.data import (
    Cases,
    Collected,
    Dataset,
    Event,
    Found,
    PostedItem,
    PrepareConfig,
    has_images,
    hash_user,
    load_texts,
    prepare,
    read_images,
)
from bbqrec.data.grow import grow
from bbqrec.errors import DataError

START = 1_700_000_000
Row = tuple[str, str, int]


def write(path: Path, rows: list[Row], **columns: list[str]) -> Path:
    users, items, times = (list(column) for column in zip(*rows, strict=True))
    frame = {"user_id": users, "item_id": items, "timestamp": times, **columns}
    pl.DataFrame(frame).write_csv(path)
    return path


def prepared(folder: Path, source: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    prepare(source, folder, PrepareConfig.parse(options))
    return folder


def grown(
    folder: Path,
    source: Path | None,
    out: Path,
    collected: Collected | None = None,
    **options: Any,
) -> tuple[Dataset, Found]:
    out.mkdir(parents=True)
    config = PrepareConfig.parse(Dataset.load(folder).info["options"])
    found = grow(folder, source, collected or Collected(), out, config, **options)
    return (Dataset.load(out) if found.is_anything else Dataset.load(folder)), found


def by_name(dataset: Dataset) -> dict[str, Any]:
    """Histories and cases in words, whatever the numbers are."""

    def names(items: Any) -> list[str]:
        return [dataset.item_ids[item] for item in items]

    def cases(cases: Cases) -> dict[str, tuple[list[str], str]]:
        return {
            dataset.user_ids[user]: (
                names(cases.histories.row(case)),
                dataset.item_ids[int(cases.targets[case])],
            )
            for case, user in enumerate(cases.users.tolist())
        }

    return {
        "train": {u: names(dataset.train.row(n)) for n, u in enumerate(dataset.user_ids)},
        "validation": cases(dataset.validation),
        "test": cases(dataset.test),
        "items": set(dataset.item_ids),
    }


# Distinct times per user, so that no order depends on which file came first.
EVENTS = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 40)), st.integers(0, 6), min_size=6, max_size=60
)


@settings(max_examples=40, deadline=None)
@given(
    events=EVENTS,
    split=st.sampled_from(["leave_one_out", "temporal"]),
    repeats=st.sampled_from(["keep", "first", "last"]),
    cuts=st.data(),
)
def test_in_parts_that_overlap_or_all_at_once_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    events: dict[tuple[int, int], int],
    split: str,
    repeats: str,
    cuts: st.DataObject,
) -> None:
    tmp_path = tmp_path_factory.mktemp("grow")
    rows = [(f"u{u}", f"i{item}", START + 60 * t) for (u, t), item in events.items()]
    rows.sort(key=lambda row: row[2])
    indices = st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True)
    later, latest = cuts.draw(indices), cuts.draw(indices)
    first = [row for n, row in enumerate(rows) if n not in {*later, *latest}]
    options = {"split": split, "repeats": repeats}
    try:
        whole = Dataset.load(
            prepared(tmp_path / "whole", write(tmp_path / "w.csv", rows), **options)
        )
        folder = prepared(tmp_path / "0", write(tmp_path / "0.csv", first), **options)
    except (DataError, ValueError):
        return  # too few to be split, or nothing to begin with

    for turn, part in enumerate((later, latest), start=1):
        source = write(tmp_path / f"{turn}.csv", [rows[n] for n in sorted(part)])
        _, found = grown(folder, source, tmp_path / str(turn))
        folder = tmp_path / str(turn) if found.is_anything else folder
        again, nothing = grown(folder, source, tmp_path / f"{turn} again")
        assert not nothing.is_anything

    expected = by_name(whole)
    assert by_name(again) == expected
    assert set(again.user_ids) == set(whole.user_ids)


BASE: list[Row] = [
    (f"u{u}", f"i{(u + step) % 7}", START + 1000 * step + u) for u in range(8) for step in range(5)
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return prepared(tmp_path / "base", write(tmp_path / "base.csv", BASE))


def test_old_items_keep_their_numbers_and_new_ones_follow(base: Path, tmp_path: Path) -> None:
    before = Dataset.load(base)
    new = [("u0", "new a", START + 10_000), ("u9", "new b", START + 10_000)]

    dataset, found = grown(base, write(tmp_path / "new.csv", new), tmp_path / "out")

    assert dataset.item_ids[:7] == before.item_ids
    assert set(dataset.item_ids[7:]) == {"new a", "new b"}
    assert (found.interactions, found.users, found.items, found.known) == (2, 1, 2, 0)
    assert found.sentence() == (
        "2 new interactions (0 known already), 1 new user, 2 new items, 0 withdrawn"
    )


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000, "dates"])
def test_times_in_another_unit_are_the_same_times(
    unit: int | str, base: Path, tmp_path: Path
) -> None:
    rows = [*BASE, ("u0", "i0", START + 4500), ("u1", "i0", START - 5)]
    if unit == "dates":
        shown = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t)) for _, _, t in rows]
        frame = pl.DataFrame({"user_id": [r[0] for r in rows], "item_id": [r[1] for r in rows]})
        source = tmp_path / "dates.csv"
        frame.with_columns(timestamp=pl.Series(shown)).write_csv(source)
    else:
        source = write(tmp_path / "new.csv", [(u, i, t * int(unit)) for u, i, t in rows])

    dataset, found = grown(base, source, tmp_path / "out")

    assert (found.interactions, found.known) == (2, len(BASE))
    known = dict(zip(dataset.user_ids, dataset.known_histories(), strict=True))
    assert [dataset.item_ids[i] for i in known["u0"]] == ["i0", "i1", "i2", "i3", "i4", "i0"]
    assert [dataset.item_ids[i] for i in known["u1"]][:2] == ["i0", "i1"]  # late, but in its place


def test_who_is_in_the_run_needs_no_minimum_and_others_wait_for_theirs(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "base", write(tmp_path / "base.csv", BASE), min_user=3, min_item=2)
    late = START + 10_000
    new = [
        ("u0", "i1", late),  # of both something is known
        *(("u0", "rare", late + 1), ("young", "i1", late)),
        *(("u1", "common", late), ("u2", "common", late)),
    ]

    dataset, found = grown(folder, write(tmp_path / "new.csv", new), tmp_path / "out")

    assert (found.interactions, found.waiting) == (3, 2)
    assert "2 interactions left out until there are more" in found.sentence()
    assert "young" not in dataset.user_ids
    assert set(dataset.item_ids) - {f"i{n}" for n in range(7)} == {"common"}
    more = [*new, ("young", "i2", late + 1), ("young", "i3", late + 2)]
    dataset, found = grown(tmp_path / "out", write(tmp_path / "m.csv", more), tmp_path / "more")
    assert (found.interactions, found.known) == (3, 3)
    assert "young" in dataset.user_ids


def test_without_times_what_a_user_has_not_had_follows_what_was(tmp_path: Path) -> None:
    base = tmp_path / "base.txt"
    base.write_text("1 10 11 12\n2 12 10\n")
    more = tmp_path / "more.txt"
    more.write_text("1 12 13 14\n3 10 11 12\n")
    folder = prepared(tmp_path / "base", base)
    events = [Event("2", "15", 5.0), Event("2", "16", 4.0), Event("2", "12", 9.0)]

    dataset, found = grown(folder, more, tmp_path / "out", Collected(events))
    _, again = grown(tmp_path / "out", more, tmp_path / "again", Collected(events))

    known = {
        user: [dataset.item_ids[i] for i in items]
        for user, items in zip(dataset.user_ids, dataset.known_histories(), strict=True)
    }
    assert known == {
        "1": ["10", "11", "12", "13", "14"],
        "2": ["12", "10", "16", "15"],
        "3": ["10", "11", "12"],
    }
    assert (found.interactions, found.known) == (7, 2)
    assert not again.is_anything


def test_positions_cannot_be_put_in_order_with_times(base: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("u0 i1 i2 i3\n")

    with pytest.raises(DataError, match=r"have times, but the new ones have only positions"):
        grown(base, tmp_path / "new.txt", tmp_path / "out")


def test_a_new_item_is_asked_about_only_where_nothing_describes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    write(shop / "interactions.csv", BASE)
    items = {"item_id": [f"i{n}" for n in range(7)] + ["old stock"]}
    pl.DataFrame(items | {"title": ["A title"] * 8}).write_csv(shop / "items.csv")
    folder = prepared(tmp_path / "base", shop)
    user, _, time = BASE[-1]
    write(
        shop / "interactions.csv", [*BASE, (user, "old stock", time + 1), (user, "typo", time + 2)]
    )

    dataset, _ = grown(folder, shop, tmp_path / "out")

    assert set(dataset.item_ids[7:]) == {"old stock", "typo"}
    assert "nothing describes 1 of the new items (typo ...)" in caplog.text


def test_described_items_come_in_unless_they_were_left_out_before(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "images").mkdir(parents=True)
    write(shop / "interactions.csv", BASE)
    items = [(f"i{n}", f"Item {n}", "text") for n in range(7)] + [("old stock", "Never sold", "")]

    def describe(rows: list[tuple[str, str, str]]) -> None:
        frame = pl.DataFrame(rows, schema=["item_id", "title", "description"], orient="row")
        frame.write_csv(shop / "items.csv")

    describe(items)
    (shop / "images" / "i3.png").write_bytes(b"a picture")
    folder = prepared(tmp_path / "base", shop)
    assert "old stock" not in Dataset.load(folder).item_ids
    describe([*items, ("fresh", "Fresh &amp; new", "quite"), ("i3", "Another title", "")])
    (shop / "images" / "fresh.png").write_bytes(b"another picture")
    posted = [PostedItem("posted", "Posted", "words", b"posted picture")]

    dataset, found = grown(folder, shop, tmp_path / "out", Collected(items=posted))

    item_of = {item_id: item for item, item_id in enumerate(dataset.item_ids)}
    assert set(dataset.item_ids[7:]) == {"fresh", "posted"}
    assert found.interactions == 0
    assert [dataset.titles[item_of[i]] for i in ("i3", "fresh", "posted")] == [
        *("Item 3", "Fresh & new", "Posted"),
    ]
    texts = load_texts(tmp_path / "out")
    assert texts[item_of["fresh"]] == "Fresh & new\nquite"
    assert texts[item_of["posted"]] == "Posted\nwords"
    assert texts[item_of["i3"]] == "Item 3\ntext"
    assert has_images(tmp_path / "out")
    pictures = read_images(tmp_path / "out", list(item_of.values()))
    assert {dataset.item_ids[i]: content for i, content in pictures.items()} == {
        "i3": b"a picture",
        "fresh": b"another picture",
        "posted": b"posted picture",
    }
    assert not grown(tmp_path / "out", shop, tmp_path / "again")[1].is_anything


def test_whoever_is_forgotten_is_gone_but_for_what_came_after(base: Path, tmp_path: Path) -> None:
    events = [Event("u3", "i5", START + 9_000.5)]
    forgotten = frozenset({hash_user("u2"), hash_user("u3")})
    source = write(tmp_path / "again.csv", BASE)

    dataset, found = grown(base, source, tmp_path / "out", Collected(events, forgotten=forgotten))

    known = dict(zip(dataset.user_ids, dataset.known_histories(), strict=True))
    assert "u2" not in known
    assert [dataset.item_ids[i] for i in known["u3"]] == ["i5"]
    assert found.forgotten == 2
    assert "2 users forgotten" in found.sentence()
    again = Collected(events, forgotten=forgotten)
    assert not grown(tmp_path / "out", source, tmp_path / "again", again)[1].is_anything


def test_the_list_of_withdrawn_items_is_what_was_said_last(base: Path, tmp_path: Path) -> None:
    dataset, found = grown(
        base,
        None,
        tmp_path / "1",
        Collected(withdrawn=frozenset({"i1", "not there yet"})),
        withdrawn=["i2"],
    )
    assert dataset.info["withdrawn"] == ["i1", "i2", "not there yet"]
    assert found.withdrawn == 3

    dataset, found = grown(
        tmp_path / "1", None, tmp_path / "2", Collected(restored=frozenset({"i1"}))
    )
    assert dataset.info["withdrawn"] == ["i2", "not there yet"]
    assert (found.withdrawn, found.restored) == (0, 1)

    dataset, found = grown(tmp_path / "2", None, tmp_path / "3", withdrawn=[])
    assert dataset.info["withdrawn"] == []


def test_what_was_posted_and_withdrawn_is_no_new_item_but_in_the_catalog(
    base: Path, tmp_path: Path
) -> None:
    posted = [PostedItem(name, name, None, None) for name in ("kept", "gone")]
    collected = Collected(items=posted, withdrawn=frozenset({"gone"}))

    dataset, found = grown(base, None, tmp_path / "1", collected)
    back = collected._replace(withdrawn=frozenset(), restored=frozenset({"gone"}))
    later, restored = grown(tmp_path / "1", None, tmp_path / "2", back)

    assert (found.items, found.withdrawn) == (1, 1)
    assert set(dataset.item_ids[7:]) == {"kept", "gone"}  # later semantic IDs depend on both
    assert not grown(tmp_path / "1", None, tmp_path / "again", collected)[1].is_anything
    assert (restored.items, restored.restored) == (0, 1)
    assert later.item_ids == dataset.item_ids


def test_the_cold_items_of_a_split_stay_the_cold_ones(tmp_path: Path) -> None:
    source = write(tmp_path / "base.csv", BASE)
    folder = prepared(tmp_path / "base", source, split="cold", cold_share=0.3)
    before = Dataset.load(folder)
    new = [(f"u{n}", "new", START + 10_000) for n in range(4)]

    dataset, _ = grown(folder, write(tmp_path / "new.csv", new), tmp_path / "out")

    assert before.is_cold.any()
    assert dataset.is_cold.tolist() == [*before.is_cold.tolist(), False]
    assert not dataset.popularity()[dataset.is_cold].any()


def test_a_run_of_a_version_without_times_is_refused_with_the_remedy(
    base: Path, tmp_path: Path
) -> None:
    (base / "log.safetensors").unlink()

    with pytest.raises(DataError, match=r"kept no times.*prepare and train in a new folder"):
        grown(base, None, tmp_path / "out")
