"""A small prepared catalog, the drawn shop as one, and a linear probe."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from bbqrec.data import Cases, Dataset, Sequences


class Catalog(NamedTuple):
    """A prepared data folder and the dataset in it."""

    directory: Path
    dataset: Dataset


def write_catalog(
    directory: Path,
    item_ids: Sequence[str],
    texts: Sequence[str | None],
    images: Sequence[bytes | None] | None = None,
) -> Catalog:
    """Items nobody bought: all that encoding needs."""
    directory.mkdir(parents=True, exist_ok=True)
    ids = list(item_ids)
    pl.DataFrame(
        {"item_id": ids, "title": list(texts)}, schema_overrides={"title": pl.String}
    ).write_parquet(directory / "items.parquet")
    if images is not None:
        rows = [(i, b) for i, b in zip(ids, images, strict=True) if b is not None]
        pl.DataFrame(
            {"item_id": [i for i, _ in rows], "bytes": [b for _, b in rows]}
        ).write_parquet(directory / "images.parquet")
    dataset = Dataset(
        user_ids=[],
        item_ids=ids,
        titles=ids,
        train=_nothing(),
        validation=Cases(np.zeros(0, np.int64), _nothing(), np.zeros(0, np.int32)),
        test=Cases(np.zeros(0, np.int64), _nothing(), np.zeros(0, np.int32)),
        is_cold=np.zeros(len(ids), np.bool_),
        info={},
    )
    dataset.save(directory)
    return Catalog(directory, Dataset.load(directory))


def _nothing() -> Sequences:
    return Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64))


class Shop(NamedTuple):
    """A drawn shop as a catalog, item by item in the order of its truth."""

    catalog: Catalog
    truth: dict[str, Tensor]


def probe(vectors: Tensor, targets: Tensor) -> Tensor:
    """R^2 per column, on a quarter of the rows, of a ridge regression fitted on the others."""
    x, y = vectors.double().numpy(), targets.double().numpy()
    is_held_out = np.arange(len(x)) % 4 == 0
    ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(x[~is_held_out], y[~is_held_out])
    residual = y[is_held_out] - ridge.predict(x[is_held_out])
    total = y[is_held_out] - y[~is_held_out].mean(0)
    return torch.from_numpy(1 - np.square(residual).sum(0) / np.square(total).sum(0))
