"""Item vectors made elsewhere: Parquet, or NumPy and safetensors with the ids beside them."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbqrec.errors import FeatureError
from bbqrec.storage import read_json, read_tensors, read_text

logger = logging.getLogger(__name__)


class ItemVectors(NamedTuple):
    """One row per item id, all finite, no id twice."""

    item_ids: list[str]
    vectors: NDArray[np.float32]


def read_vectors(path: Path) -> ItemVectors:
    """The vectors of a file and the item ids they belong to.

    - `NAME.parquet`: a column item_id and one column of lists of numbers.
    - `NAME.npy` or `NAME.safetensors` (one tensor, or one called "vectors") with the ids in
      `NAME.ids.json` (a list) or `NAME.ids.txt` (one per line), in the order of the rows.

    Raises:
        FeatureError: the file is missing, of another format, ragged, not finite, or its ids do not
            fit; the message names the first item concerned.
    """
    readers = {".parquet": _read_parquet, ".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise FeatureError(f"{path} must end in one of {', '.join(readers)} to be read as vectors")
    if not path.is_file():
        raise FeatureError(f"the vectors {path} are missing or not a file")
    item_ids, table = readers[path.suffix](path)
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        raise FeatureError(
            f"{path} holds {table.dtype} of shape {table.shape}; vectors are a table of numbers "
            "with one row per item"
        )
    if len(item_ids) != len(table):
        raise FeatureError(f"{path} has {len(table)} rows but {len(item_ids)} item ids")
    vectors = table.astype(np.float32)
    is_bad = ~np.isfinite(vectors).all(1)
    if is_bad.any():
        raise FeatureError(
            f"{path}: the vector of item {item_ids[int(is_bad.argmax())]!r} holds NaN or infinity "
            f"({int(is_bad.sum())} such rows); leave items without a vector out"
        )
    if len(set(item_ids)) < len(item_ids):
        seen: set[str] = set()
        twice = next(i for i in item_ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise FeatureError(f"{path} has more than one vector for item {twice!r}")
    return ItemVectors(item_ids, vectors)


class KnownVectors(NamedTuple):
    """Rows of items by their numbers, and how many rows of unknown items were ignored."""

    items: list[int]
    vectors: NDArray[np.float32]
    num_unknown: int


def vectors_of(path: Path, known: list[str]) -> KnownVectors:
    """The file's vectors of the items whose ids are `known`, numbered as there.

    Raises:
        FeatureError: as `read_vectors`, and where no id is known.
    """
    item_ids, vectors = read_vectors(path)
    number_of = {item_id: item for item, item_id in enumerate(known)}
    rows = [row for row, item_id in enumerate(item_ids) if item_id in number_of]
    if not rows:
        raise FeatureError(
            f"none of the {len(item_ids)} item ids of {path} is in the catalog; it has ids such as "
            f"{known[0]!r}, the file {item_ids[:1]}"
        )
    if unknown := len(item_ids) - len(rows):
        logger.warning("%s: %d rows of unknown items ignored", path, unknown)
    return KnownVectors([number_of[item_ids[row]] for row in rows], vectors[rows], unknown)


def _read_ids(path: Path) -> list[str]:
    as_json, as_text = path.with_suffix(".ids.json"), path.with_suffix(".ids.txt")
    if as_json.is_file():
        ids = read_json(as_json)
        if not isinstance(ids, list) or not all(isinstance(item_id, str) for item_id in ids):
            raise FeatureError(f"{as_json} must be a list of item ids, each a string")
        return ids
    if as_text.is_file():
        return read_text(as_text).splitlines()
    raise FeatureError(f"{path} needs its item ids beside it, in {as_json.name} or {as_text.name}")


def _read_npy(path: Path) -> tuple[list[str], NDArray[Any]]:
    try:
        return _read_ids(path), np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FeatureError(f"{path} is not a readable NumPy array: {error}") from None


def _read_safetensors(path: Path) -> tuple[list[str], NDArray[Any]]:
    tensors = read_tensors(path)
    if "vectors" not in tensors and len(tensors) != 1:
        raise FeatureError(f"{path} holds {len(tensors)} tensors and none is called 'vectors'")
    tensor = tensors.get("vectors", next(iter(tensors.values())))
    return _read_ids(path), tensor.float().numpy()


def _read_parquet(path: Path) -> tuple[list[str], NDArray[Any]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeatureError(f"{path} is not readable Parquet: {error}") from None
    names = [n for n, t in frame.schema.items() if isinstance(t, pl.List | pl.Array)]
    if "item_id" not in frame.columns or len(names) != 1:
        raise FeatureError(
            f"{path} needs the column item_id and exactly one column of lists, "
            f"but has {', '.join(frame.columns)}"
        )
    column = frame[names[0]]
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    ids = frame["item_id"].cast(pl.String)
    lengths = column.list.len()
    if ids.null_count() or column.null_count() or not frame.height:
        raise FeatureError(f"{path} has no rows, or rows without an id or a vector")
    odd = (lengths != lengths.mode()[0]).arg_true()
    if len(odd):
        raise FeatureError(
            f"{path}: the vector of item {ids[odd[0]]!r} has {lengths[odd[0]]} numbers, "
            f"others have {lengths.mode()[0]}"
        )
    numbers = column.explode(empty_as_null=False, keep_nulls=True)
    if not numbers.dtype.is_numeric():
        raise FeatureError(f"{path}: the column {names[0]} holds {numbers.dtype}, not numbers")
    table = numbers.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return ids.to_list(), table.reshape(frame.height, -1)
