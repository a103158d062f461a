"""Vectors of a catalog's images, whatever state the files are in."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bbqrec.data import has_images, iter_images
from bbqrec.errors import FeatureError
from bbqrec.features.image_files import UnreadableImageError, open_image
from bbqrec.features.shards import compute_in_shards
from bbqrec.features.sources import BATCHES_PER_SHARD, Encoded, Job, check_bad_share
from bbqrec.features.visual import VisualEncoder, picture_statistics

logger = logging.getLogger(__name__)

_NAMED_IN_LOG = 5

Picture = tuple[int, bytes]  # item, image file
Embed = Callable[[Sequence[Image.Image]], Tensor]


def encode_images(job: Job, parts_dir: Path) -> Encoded:
    """Images that cannot be read are left out, counted and named in the log."""
    if not has_images(job.data_dir):
        raise FeatureError(f"no item has an image, so the modality {job.modality!r} would be empty")
    is_local = job.config.encoder == "visual"
    embed: Embed = picture_statistics
    if not is_local:
        from bbqrec.features.pretrained import PretrainedImageEncoder

        pretrained = PretrainedImageEncoder(
            job.config.encoder,
            revision=job.config.revision,
            batch_size=job.config.batch_size,
            device=job.device,
        )
        embed = pretrained.encode_pictures
    reader = _PictureReader(job.dataset.item_ids, job.config.batch_size)
    done = compute_in_shards(
        _chunks(iter_images(job.data_dir), BATCHES_PER_SHARD * job.config.batch_size),
        lambda chunk: reader.embed(chunk, embed),
        parts_dir,
        description=f"encoding {job.modality}",
        total=job.dataset.num_items,
    )
    is_readable = done["is_readable"] if done else torch.empty(0, dtype=torch.bool)
    statistics = {"images": len(is_readable), "unreadable": int((~is_readable).sum())}
    check_bad_share(job.modality, job.config, statistics)
    if not is_readable.any():
        raise FeatureError(
            f"none of {len(is_readable)} images can be read, so the modality {job.modality!r} "
            "would be empty"
        )
    items, vectors = done["item"][is_readable].tolist(), done["vectors"]
    if is_local:
        visual = VisualEncoder.fit(vectors, job.config.dim)
        return Encoded(items, visual.project(vectors), visual, statistics)
    return Encoded(items, vectors, pretrained, statistics)


def _chunks(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while chunk := list(islice(pictures, size)):
        yield chunk


class _PictureReader:
    """Opens pictures one batch at a time, leaving out the bad ones and saying so a few times."""

    def __init__(self, item_ids: Sequence[str], batch_size: int) -> None:
        self._item_ids = item_ids
        self._batch_size = batch_size
        self._num_named = 0

    def embed(self, chunk: Sequence[Picture], embed: Embed) -> dict[str, Tensor]:
        """Vectors of the readable pictures, and for every one its item and whether it was."""
        opened = (self._open(item, content) for item, content in chunk)
        is_readable, batch, vectors = [], [], []
        for picture in opened:
            is_readable.append(picture is not None)
            if picture is not None:
                batch.append(picture)
            if len(batch) == self._batch_size:
                vectors.append(embed(batch))
                batch = []
        if batch:
            vectors.append(embed(batch))
        return {
            "item": torch.tensor([item for item, _ in chunk]),
            "is_readable": torch.tensor(is_readable),
            "vectors": torch.cat(vectors) if vectors else torch.empty(0),
        }

    def _open(self, item: int, content: bytes) -> Image.Image | None:
        try:
            return open_image(content)
        except UnreadableImageError as error:
            self._num_named += 1
            if self._num_named <= _NAMED_IN_LOG:
                logger.warning("the image of %s is left out: %s", self._item_ids[item], error)
            return None
