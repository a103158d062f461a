"""`bbqrec prepare`: any supported source -> a prepared dataset."""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bbqrec.data.config import PrepareConfig
from bbqrec.data.dataset import Dataset
from bbqrec.errors import DataError
from bbqrec.storage import read_tensors, write_bytes, write_json, write_tensors

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"
REJECTED_FILE = "rejected.jsonl"
LEFT_OUT_FILE = "left_out.json"  # items that the source describes, but of which too little is known


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
