"""Vectors of items that came later, by the encoders that made the catalog's own."""

import hashlib
import logging
import shutil
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bbqrec.data import Dataset, has_images, iter_images, load_texts, read_vectors
from bbqrec.errors import FeatureError
from bbqrec.features.config import ModalityConfig
from bbqrec.features.encoders import load_encoder
from bbqrec.features.features import Features
from bbqrec.features.image_files import UnreadableImageError
from bbqrec.progress import track
from bbqrec.storage import sha256_json

logger = logging.getLogger(__name__)


def encode_more(
    known: Features,
    source_dir: Path,
    data_dir: Path,
    dataset: Dataset,
    config: ModalityConfig | None,
    out_dir: Path,
    *,
    device: str = "cpu",
) -> Features:
    """Write the features of a catalog that goes on after the items of `known`, which keep theirs.

    Args:
        source_dir: the folder with `known` and its encoder.
        data_dir: the prepared dataset of the longer catalog.
        config: of this modality; needed for vectors that were brought along, whose file is read
            again.

    Raises:
        FeatureError: a pretrained model is gone or no longer the same, or a vector is not finite.
    """
    num_known = len(known.vectors)
    is_brought = known.identity["source"] == "vectors"
    if is_brought:
        new = _brought_along(known, dataset.item_ids[num_known:], config)
    else:
        folder = source_dir / "encoders" / known.modality
        shutil.copytree(folder, out_dir / "encoders" / known.modality)
        new = _encoded(known, folder, data_dir, num_known, dataset, device)
    if new.shape[1] != known.dim:
        raise FeatureError(
            f"the new items' {known.modality} vectors have {new.shape[1]} dimensions, the run was "
            f"trained on {known.dim}; train a new run with them"
        )
    if not new.isfinite().all():
        raise FeatureError(f"a {known.modality} vector of a new item holds NaN or infinity")
    vectors = torch.cat([known.vectors, new])
    is_present = torch.cat([known.is_present, new.any(1)])
    made = hashlib.sha256(new.numpy().tobytes()).hexdigest()
    features = Features(
        known.modality,
        vectors,
        is_present,
        {
            **known.identity,
            "catalog_fingerprint": dataset.catalog_fingerprint,
            "content_sha256": sha256_json([known.identity["content_sha256"], made]),
            "vectors_sha256": hashlib.sha256(vectors.numpy().tobytes()).hexdigest(),
            "statistics": {
                "present": int(is_present.sum()),
                "missing": int((~is_present).sum()),
            },
        },
    )
    features.save(out_dir)
    return features


def _encoded(
    known: Features, folder: Path, data_dir: Path, num_known: int, dataset: Dataset, device: str
) -> Float[Tensor, "new dim"]:
    encoder = load_encoder(folder, device=device)
    vectors = torch.zeros(dataset.num_items - num_known, known.dim)
    if known.identity["source"] == "text":
        texts = load_texts(data_dir, known.identity["options"].get("columns"))[num_known:]
        rows = [row for row, text in enumerate(texts) if text is not None]
        if rows:
            vectors[rows] = encoder.encode([texts[row] for row in rows])
        return vectors
    images = iter_images(data_dir) if has_images(data_dir) else iter(())
    later = (entry for entry in images if entry[0] >= num_known)
    for item, content in track(later, f"encoding {known.modality}", len(vectors)):
        try:
            vectors[item - num_known] = encoder.encode([content])[0]
        except UnreadableImageError as error:
            logger.warning("the image of %s is left out: %s", dataset.item_ids[item], error)
    return vectors


def _brought_along(
    known: Features, item_ids: list[str], config: ModalityConfig | None
) -> Float[Tensor, "new dim"]:
    vectors = torch.zeros(len(item_ids), known.dim)
    if config is None or not Path(config.path or "").is_file():
        logger.warning(
            "%s: the file of vectors is not there any more, so new items have none", known.modality
        )
        return vectors
    found_ids, found = read_vectors(Path(config.path or ""))
    row_of = {item_id: row for row, item_id in enumerate(found_ids)}
    rows = [row_of.get(item_id, -1) for item_id in item_ids]
    num_without = rows.count(-1)
    if num_without:
        logger.warning("%s has no vector for %d of the new items", config.path, num_without)
    for place, row in enumerate(rows):
        if row >= 0:
            vectors[place] = torch.from_numpy(found[row])
    return vectors
