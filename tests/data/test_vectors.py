"""Vectors brought along are read from three kinds of file, or refused by name."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from bbqrec.data import read_vectors
from bbqrec.errors import BBQRecError, FeatureError
from bbqrec.storage import write_json, write_tensors

IDS = ["007", "b", "c"]
VECTORS = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]], dtype=np.float32)


def write_npy(path: Path, vectors: np.ndarray, ids: list[str]) -> Path:
    np.save(path, vectors, allow_pickle=vectors.dtype == object)
    write_json(path.with_suffix(".ids.json"), ids)
    return path


def write_parquet(path: Path, rows: list[list[float | None] | None], ids: list[str | None]) -> Path:
    pl.DataFrame({"item_id": ids, "vector": rows}).write_parquet(path)
    return path


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    write_npy(tmp_path / "v.npy", VECTORS.astype(np.float64), IDS)
    write_parquet(tmp_path / "v.parquet", VECTORS.tolist(), IDS)
    array = pl.Series("vector", VECTORS.tolist(), dtype=pl.Array(pl.Float32, 2))
    pl.DataFrame({"item_id": IDS, "vector": array}).write_parquet(tmp_path / "array.parquet")
    write_tensors(tmp_path / "s.safetensors", {"vectors": torch.from_numpy(VECTORS)})
    (tmp_path / "s.ids.txt").write_text("007\nb\nc\n")

    for name in ("v.npy", "v.parquet", "array.parquet", "s.safetensors"):
        item_ids, vectors = read_vectors(tmp_path / name)

        assert item_ids == IDS
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, VECTORS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_names_the_item(tmp_path: Path, value: float) -> None:
    broken = VECTORS.copy()
    broken[1, 1] = value

    with pytest.raises(FeatureError, match="item 'b'"):
        read_vectors(write_npy(tmp_path / "v.npy", broken, IDS))


@pytest.mark.parametrize(
    ("rows", "ids", "says"),
    [
        ([[1.0, 2.0], [1.0], [3.0, 4.0]], IDS, "item 'b' has 1 numbers, others have 2"),
        ([[1.0, 2.0], [1.0, None], [3.0, 4.0]], IDS, "item 'b' holds NaN"),
        ([[1.0], None, [2.0]], IDS, "without an id or a vector"),
        ([[1.0], [2.0], [3.0]], ["a", None, "c"], "without an id or a vector"),
        ([[1.0], [2.0], [3.0]], ["a", "b", "a"], "more than one vector for item 'a'"),
    ],
)
def test_bad_rows_of_parquet_are_named(
    tmp_path: Path, rows: list[list[float | None] | None], ids: list[str | None], says: str
) -> None:
    with pytest.raises(FeatureError, match=says):
        read_vectors(write_parquet(tmp_path / "v.parquet", rows, ids))


@pytest.mark.parametrize(
    ("vectors", "ids", "says"),
    [
        (VECTORS[:2], IDS, "2 rows but 3 item ids"),
        (VECTORS[0], IDS, r"shape \(2,\)"),
        (VECTORS.astype(str), IDS, "a table of numbers"),
        (np.array([{}, {}, {}], dtype=object), IDS, "not a readable NumPy array"),
    ],
)
def test_bad_arrays_are_refused(
    tmp_path: Path, vectors: np.ndarray, ids: list[str], says: str
) -> None:
    with pytest.raises(FeatureError, match=says):
        read_vectors(write_npy(tmp_path / "v.npy", vectors, ids))


def test_files_that_are_not_what_they_seem_are_refused(tmp_path: Path) -> None:
    for name in ("v.npy", "v.parquet", "v.safetensors"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(BBQRecError, match=name):
            read_vectors(tmp_path / name)

    np.save(tmp_path / "lonely.npy", VECTORS)
    with pytest.raises(FeatureError, match=r"lonely\.ids\.json"):
        read_vectors(tmp_path / "lonely.npy")
    with pytest.raises(FeatureError, match=r"\.npy"):
        read_vectors(tmp_path / "v.pkl")
