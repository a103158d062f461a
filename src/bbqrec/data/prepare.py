"""`bbqrec prepare`: any supported source -> a prepared dataset."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from bbqrec.config import Config
from bbqrec.data.dataset import Dataset
from bbqrec.errors import DataError
from bbqrec.storage import read_tensors, write_bytes, write_json, write_tensors

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"
REJECTED_FILE = "rejected.jsonl"
LEFT_OUT_FILE = "left_out.json"  # items that the source describes, but of which too little is known

Column = Literal[
    "user_id", "item_id", "timestamp", "position", "event", "rating", "weight", "image"
]
Format = Literal["auto", "folder", "table", "amazon", "recbole", "movielens", "lcrec", "s3rec"]


class PrepareConfig(Config):
    """How a source is read, filtered, ordered and split.

    Args:
        format: who wrote the source; "auto" looks at its files.
        columns: our name -> the file's, for tables with names of their own.
        header: column names of a table whose first line is data already.
        time_format: strptime pattern of dates that are not ISO 8601.
        text_columns: which item columns are text, in this order; None takes every string column.
        event_weights: event type -> weight; types not named here, or at 0, are dropped.
        latest: how many of each user's latest interactions stay, before the k-core; None is all.
        min_user, min_item: k-core bounds, in interactions; 1 keeps everybody.
        repeats: which interactions of a repeated user-item pair stay.
        ties: order of one user's events at one time: as in the source, or shuffled by `seed`.
        cold_share: how many items the cold split removes from all training.
        max_bad_share: how many lines of a file may be unusable before the job ends.
    """

    format: Format = "auto"
    columns: dict[Column, str] = Field({})
    header: tuple[str, ...] | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    encoding: str | None = None
    time_format: str | None = None
    text_columns: tuple[str, ...] | None = None
    title_column: str | None = None
    event_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    min_rating: float | None = Field(None, allow_inf_nan=False)
    latest: int | None = Field(None, ge=1)
    min_user: int = Field(1, ge=1)
    min_item: int = Field(1, ge=1)
    repeats: Literal["keep", "first", "last"] = "keep"
    ties: Literal["source", "random"] = "source"
    split: Literal["leave_one_out", "temporal", "cold"] = "leave_one_out"
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    test_share: float = Field(0.1, gt=0, lt=0.5)
    cold_share: float = Field(0.05, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    max_bad_share: float = Field(0.01, ge=0, lt=1)


def prepare(source: Path, out_dir: Path, config: PrepareConfig) -> Dataset:
    """Read `source`, split it and write the prepared dataset into the existing `out_dir`.

    Besides what `Dataset.save` writes: items.parquet (texts) and images.parquet (encoded images),
    both in item order, log.safetensors with all events and their times, and rejected.jsonl with
    every line set aside. `Dataset.info` holds the options, `statistics`, `counts` of everything
    dropped, and `warnings`.

    Raises DataError when the source breaks a rule that cannot be worked around line by line.
    """
    # Here, not above: everything past this point needs polars, which training does without.
    from bbqrec.data.gather import write_items
    from bbqrec.data.gather_images import write_images
    from bbqrec.data.importers import read_source
    from bbqrec.data.interactions import build_log
    from bbqrec.data.lines import Rejected
    from bbqrec.data.splits import split_log
    from bbqrec.data.statistics import describe, warn

    if not (source.is_file() or source.is_dir()):
        raise DataError(f"{source} is no file and no folder; give one or the other of interactions")
    rejected = Rejected(config.max_bad_share)
    raw = read_source(source, config, rejected)
    raw_items, raw_images, detected, columns = raw.items, raw.images, raw.format, raw.columns
    log, counts = build_log(raw, config, rejected)
    del raw
    statistics = describe(log)
    split = split_log(log, config)
    log.save(out_dir)
    texts = write_items(out_dir, log.item_ids, raw_items, config)
    if texts.left_out:
        write_json(out_dir / LEFT_OUT_FILE, {"items": texts.left_out})
    images = write_images(out_dir, log.item_ids, raw_images)
    warnings = [*warn(statistics, config.ties), *texts.warnings, *images.warnings]
    for sentence in warnings:
        logger.warning("%s", sentence)
    has_nothing = ~(texts.is_described | images.is_pictured)
    statistics |= {
        "train_interactions": len(split.train.items),
        "validation_cases": len(split.validation),
        "test_cases": len(split.test),
        "items_with_image": images.counts["items_with_image"],
    }
    if log.weights is not None:
        weights = torch.from_numpy(log.weights[split.train_rows])
        write_tensors(out_dir / WEIGHTS_FILE, {"train": weights})
    if rejected.rows:
        write_bytes(out_dir / REJECTED_FILE, rejected.to_jsonl())
    dataset = Dataset(
        user_ids=log.user_ids,
        item_ids=log.item_ids,
        titles=texts.titles,
        train=split.train,
        validation=split.validation,
        test=split.test,
        is_cold=split.is_cold,
        info={
            "source": source.name,
            "format": detected,
            "columns": {**columns, "title": texts.title, "text": texts.columns},
            "options": config.model_dump(mode="json"),
            "statistics": statistics,
            "counts": {
                "interactions": counts,
                "items": {
                    **texts.counts,
                    "items_without_text_and_image": int(has_nothing.sum()),
                },
                "images": images.counts,
                "split": split.counts,
                "lines_set_aside": len(rejected.rows),
            },
            "warnings": warnings,
        },
    )
    dataset.save(out_dir)
    return Dataset.load(out_dir)


def load_weights(directory: Path) -> NDArray[np.float32] | None:
    """The weight of every entry of `Dataset.train.items`; None where all weigh the same."""
    path = directory / WEIGHTS_FILE
    return read_tensors(path)["train"].numpy() if path.is_file() else None
