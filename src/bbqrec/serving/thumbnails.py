"""Small pictures of a run's items, made from the images that the run keeps when they are asked for.

Nothing is written: a thumbnail takes milliseconds, and those in use stay in memory and in browsers.
"""

import io
from functools import cached_property
from pathlib import Path

import numpy as np

from bbqrec.data import ImageFile
from bbqrec.report import common_ratio, small_picture

SIDE = 256  # pixels of the longer side: sharp at 128 CSS pixels on a dense screen
QUALITY = 82
NUM_SAMPLED = 24


class Thumbnails:
    """The pictures of a prepared dataset, which lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._images = ImageFile(directory)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._images

    @property
    def are_there(self) -> bool:
        return bool(self._images.item_ids)

    def jpeg(self, item_id: str) -> bytes | None:
        """An item's thumbnail; None where there is no picture, or none that opens."""
        content = self._images.read(item_id)
        return None if content is None else thumbnail(content)

    @cached_property
    def ratio(self) -> float:
        """Width over height of a frame that suits most pictures, from a sample."""
        item_ids = self._images.item_ids
        chosen = np.linspace(0, len(item_ids) - 1, min(NUM_SAMPLED, len(item_ids))).astype(int)
        contents = (self._images.read(item_ids[place]) for place in chosen)
        pictures = (small_picture(content, SIDE) for content in contents if content is not None)
        return common_ratio([picture for picture in pictures if picture is not None])


def thumbnail(content: bytes) -> bytes | None:
    """A small JPEG of an image file of unknown origin; None where it cannot be read."""
    picture = small_picture(content, SIDE)
    if picture is None:
        return None
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()
