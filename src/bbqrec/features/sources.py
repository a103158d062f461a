"""Vectors of a catalog's texts, or from a table somebody brings along (images: `pictures.py`)."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bbqrec.data import Dataset, has_images, iter_images, load_texts, read_vectors, vectors_of
from bbqrec.errors import FeatureError
from bbqrec.features.config import ModalityConfig, Source
from bbqrec.features.encoders import Encoder
from bbqrec.features.lexical import LexicalEncoder
from bbqrec.features.shards import compute_in_shards
from bbqrec.storage import sha256_json

logger = logging.getLogger(__name__)

BATCHES_PER_SHARD = 8


class Job(NamedTuple):
    """One modality to encode."""

    modality: str
    source: Source
    config: ModalityConfig
    data_dir: Path
    dataset: Dataset
    device: str


class Encoded(NamedTuple):
    """Vectors of the items that have the modality, and what happened to the others."""

    items: Sequence[int]
    vectors: Float[Tensor, "present dim"]
    encoder: Encoder | None
    statistics: dict[str, int]


def content_sha256(job: Job) -> str:
    """The identity of what is to be encoded."""
    if job.source == "text":
        return sha256_json(load_texts(job.data_dir, job.config.columns))
    if job.source == "image":
        images = iter_images(job.data_dir) if has_images(job.data_dir) else iter(())
        return sha256_json([[item, hashlib.sha256(image).hexdigest()] for item, image in images])
    item_ids, vectors = read_vectors(Path(job.config.path or ""))
    return sha256_json([item_ids, vectors.shape, hashlib.sha256(vectors.tobytes()).hexdigest()])


def encode_texts(job: Job, parts_dir: Path) -> Encoded:
    """Items without a text are left out."""
    texts = load_texts(job.data_dir, job.config.columns)
    items = [item for item, text in enumerate(texts) if text is not None]
    if not items:
        raise FeatureError(f"no item has a text, so the modality {job.modality!r} would be empty")
    present = [texts[item] or "" for item in items]
    if job.config.encoder == "lexical":
        lexical = LexicalEncoder.fit(present, job.config.dim)
        return Encoded(items, lexical.encode(present), lexical, {})

    from bbqrec.features.pretrained import PretrainedTextEncoder

    encoder = PretrainedTextEncoder(
        job.config.encoder,
        revision=job.config.revision,
        max_length=job.config.max_length,
        batch_size=job.config.batch_size,
        device=job.device,
    )
    # Long ones first: a memory limit shows at once, and the time left is never underestimated.
    order = sorted(range(len(items)), key=lambda index: -len(present[index]))
    size = BATCHES_PER_SHARD * job.config.batch_size
    vectors = compute_in_shards(
        [[present[index] for index in order[i : i + size]] for i in range(0, len(order), size)],
        lambda chunk: {"vectors": encoder.encode(chunk)},
        parts_dir,
        description=f"encoding {job.modality}",
        total=len(items),
    )["vectors"]
    return Encoded([items[index] for index in order], vectors, encoder, {})


def take_vectors(job: Job) -> Encoded:
    """Items without a row lack the modality."""
    found = vectors_of(Path(job.config.path or ""), job.dataset.item_ids)
    vectors = torch.from_numpy(found.vectors)
    return Encoded(found.items, vectors, None, {"unknown_items": found.num_unknown})


def check_bad_share(modality: str, config: ModalityConfig, statistics: dict[str, int]) -> None:
    """FeatureError when more images than `max_bad_share` allows could not be read."""
    images, unreadable = statistics.get("images", 0), statistics.get("unreadable", 0)
    if unreadable > config.max_bad_share * images:
        raise FeatureError(
            f"{unreadable} of {images} images cannot be read, more than max_bad_share = "
            f"{config.max_bad_share:g} of the modality {modality!r} allows; the log names the "
            f"first ones and why; repair them, or raise encode.{modality}.max_bad_share "
            "in a CONFIG with an [encode.NAME] section for every modality"
        )
