"""Images: only regular files inside the folder are read; every other kind is counted."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bbqrec.data import Dataset, PrepareConfig, has_images, iter_images, prepare, read_images
from bbqrec.data import gather_images as gather_module
from bbqrec.errors import CorruptArtifactError, DataError


def prepared(tmp_path: Path, source: Path) -> Dataset:
    (tmp_path / "out").mkdir()
    return prepare(source, tmp_path / "out", PrepareConfig())


def images_of(dataset: Dataset, out: Path) -> dict[str, bytes]:
    return {dataset.item_ids[item]: content for item, content in iter_images(out)}


def shop(tmp_path: Path, items: list[str]) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = "".join(f"u,{item},{place}\n" for place, item in enumerate(items))
    (folder / "interactions.csv").write_text("user_id,item_id,position\n" + rows)
    return folder


@pytest.mark.real_data
def test_posters_come_back_byte_for_byte_in_item_order(real_data: Path, tmp_path: Path) -> None:
    source = pl.read_parquet(real_data / "ml1m_posters" / "images.parquet").head(700)
    folder = shop(tmp_path, source["item_id"].to_list())
    source.write_parquet(folder / "images.parquet")

    dataset = prepared(tmp_path, folder)

    pairs = list(iter_images(tmp_path / "out"))
    expected = dict(source.select("item_id", "jpeg").iter_rows())
    assert [item for item, _ in pairs] == list(range(700))
    assert {dataset.item_ids[item]: content for item, content in pairs} == expected
    assert read_images(tmp_path / "out", [699, 3, 5]) == {i: pairs[i][1] for i in (3, 5, 699)}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pictures/{}.jpg", "3 of 3 image paths lead to no file, for example 'pictures/"),
        ("https://example.org/{}.jpg", "3 of 3 image paths are addresses, which are never fetched"),
        ("../{}.jpg", "3 of 3 image paths lead out of the folder"),
    ],
)
def test_images_that_are_mostly_missing_are_called_out(
    tmp_path: Path, path: str, message: str
) -> None:
    source = tmp_path / "shop" / "log.csv"
    source.parent.mkdir()
    rows = "".join(f"u,{item},{time},{path.format(item)}\n" for time, item in enumerate("abc", 1))
    source.write_text("user_id,item_id,timestamp,image\n" + rows)

    [warning] = prepared(tmp_path, source).info["warnings"]

    assert message in warning
    assert f"looked for in {source.parent}" in warning


def test_one_csv_with_image_paths_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"picture of a")
    path = tmp_path / "log.csv"
    path.write_text(
        "user_id,item_id,timestamp,title,image\n"
        "u,a,1,A,pictures/a.jpg\nu,b,2,B,pictures/none.jpg\nu,c,3,C,\nv,a,4,A,pictures/a.jpg\n"
    )

    dataset = prepared(tmp_path, path)

    assert images_of(dataset, tmp_path / "out") == {"a": b"picture of a"}
    assert dataset.info["counts"]["images"]["images_missing"] == 1
    assert dataset.info["statistics"]["items_with_image"] == 1
    [warning] = [line for line in dataset.info["warnings"] if "image" in line]
    assert warning.startswith("1 of 2 image files was not found, the first that of item 'b'; ")


def test_a_folder_of_images_is_named_by_item(tmp_path: Path) -> None:
    folder = shop(tmp_path, ["007", "b"])
    (folder / "images").mkdir()
    for name in ("007.png", "stranger.jpg", "b.txt"):
        (folder / "images" / name).write_bytes(name.encode())

    dataset = prepared(tmp_path, folder)

    assert images_of(dataset, tmp_path / "out") == {"007": b"007.png"}
    assert dataset.info["counts"]["images"]["image_rows_of_unknown_items"] == 1


@pytest.mark.timeout(30)
def test_only_regular_files_inside_the_folder_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_module, "MAX_IMAGE_BYTES", 100)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    folder = shop(tmp_path, [f"i{n}" for n in range(11)])
    (folder / "good.jpg").write_bytes(b"good")
    (folder / "link.jpg").symlink_to(secret)
    (folder / "inner.jpg").symlink_to(folder / "good.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "empty.jpg").touch()
    (folder / "large.jpg").write_bytes(b"x" * 101)
    os.mkfifo(folder / "pipe.jpg")
    names = ["good.jpg", "link.jpg", "inner.jpg", "loop.jpg", "empty.jpg", "large.jpg", "pipe.jpg"]
    names += [".", "../secret.jpg", str(secret), "https://example.org/a.jpg"]
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(11)], "image": names})
    items.write_csv(folder / "items.csv")

    dataset = prepared(tmp_path, folder)

    assert images_of(dataset, tmp_path / "out") == {"i0": b"good", "i2": b"good"}
    assert dataset.info["counts"]["images"] == {
        "items_with_image": 2,
        "images_missing": 1,
        "images_refused": 5,
        "images_too_large": 1,
        "images_empty": 1,
        "images_that_are_addresses": 1,
        "image_rows_of_unknown_items": 0,
    }


def test_pieces_of_any_size_write_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_module, "_PIECE_BYTES", 50)
    folder = shop(tmp_path, [f"i{n}" for n in range(40)])
    contents: dict[str, Any] = {f"i{n}": b"x" * n for n in range(60)}
    frame = pl.DataFrame({"item_id": contents.keys(), "bytes": contents.values()})
    pl.concat([frame, frame.head(5)]).write_parquet(folder / "images.parquet")

    dataset = prepared(tmp_path, folder)

    expected = {f"i{n}": b"x" * n for n in range(1, 40)}
    counts = dataset.info["counts"]["images"]
    assert images_of(dataset, tmp_path / "out") == expected
    assert (counts["image_rows_of_unknown_items"], counts["images_empty"]) == (20, 2)


def test_no_usable_image_leaves_no_file(tmp_path: Path) -> None:
    folder = shop(tmp_path, ["a"])
    (folder / "items.csv").write_text("item_id,image\na,none.jpg\n")

    dataset = prepared(tmp_path, folder)

    assert not has_images(tmp_path / "out")
    assert read_images(tmp_path / "out", [0]) == {}
    assert dataset.info["counts"]["items"]["items_without_text_and_image"] == 1


def test_an_image_table_without_bytes_is_refused(tmp_path: Path) -> None:
    folder = shop(tmp_path, ["a"])
    pl.DataFrame({"item_id": ["a"], "path": ["a.jpg"]}).write_parquet(folder / "images.parquet")

    with pytest.raises(DataError, match="columns item_id and bytes; it has: item_id, path"):
        prepared(tmp_path, folder)


def test_a_source_of_damaged_images_ends_in_one_sentence(tmp_path: Path) -> None:
    folder = shop(tmp_path, [f"i{n}" for n in range(20)])
    frame = pl.DataFrame({"item_id": [f"i{n}" for n in range(20)], "bytes": [b"x" * 50] * 20})
    frame.write_parquet(folder / "images.parquet")
    content = bytearray((folder / "images.parquet").read_bytes())
    content[4:40] = bytes(36)
    (folder / "images.parquet").write_bytes(content)

    with pytest.raises(DataError, match="not a readable Parquet file"):
        prepared(tmp_path, folder)


def test_a_damaged_image_file_is_named(tmp_path: Path) -> None:
    folder = shop(tmp_path, ["a"])
    pl.DataFrame({"item_id": ["a"], "bytes": [b"x"]}).write_parquet(folder / "images.parquet")
    prepared(tmp_path, folder)
    (tmp_path / "out" / "images.parquet").write_bytes(b"PAR1 damaged")

    with pytest.raises(CorruptArtifactError, match=r"images\.parquet is not a readable Parquet"):
        list(iter_images(tmp_path / "out"))
