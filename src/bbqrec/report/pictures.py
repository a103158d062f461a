"""Items as tiles: a small picture where there is one that opens, else a card with the title."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bbqrec.data import Dataset, read_images

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 112  # pixels of a thumbnail's longer side: sharp at 56 to 96 CSS pixels
QUALITY = 80
MAX_TITLE = 160
RATIOS = (2 / 3, 4 / 3)  # of width to height: posters stay upright, nothing becomes a strip


def small_picture(content: bytes, side: int) -> "Image | None":
    """The picture in a file of unknown origin, at most `side` pixels a side; None if unreadable."""
    # Only here: a run without pictures needs no Pillow.
    from bbqrec.features.image_files import UnreadableImageError, open_image

    try:
        picture = open_image(content)
    except UnreadableImageError:
        return None
    picture.thumbnail((side, side))
    return picture


def common_ratio(pictures: "list[Image]") -> float:
    """Width over height of the shape that suits most of the pictures."""
    if not pictures:
        return 1.0
    ratio = np.median([picture.width / picture.height for picture in pictures])
    return float(np.clip(ratio, *RATIOS))


class Pictures:
    """The items a report shows: sections ask for them by `want`, one `load` reads them all.

    Args:
        directory: the prepared dataset that holds the images.
    """

    def __init__(self, directory: Path, dataset: Dataset) -> None:
        self._directory = directory
        self._dataset = dataset
        self._wanted: set[int] = set()
        self._thumbnails: dict[int, str] = {}
        self.ratio = 1.0

    def want(self, items: Iterable[int]) -> list[int]:
        """`items` as a list, remembered for `load`."""
        wanted = [int(item) for item in items]
        self._wanted.update(wanted)
        return wanted

    def load(self) -> None:
        """Make the thumbnails of all wanted items, cut to one shape; broken files are left out."""
        found = read_images(self._directory, sorted(self._wanted))
        opened = {
            item: picture
            for item, content in found.items()
            if (picture := small_picture(content, 3 * SIDE)) is not None
        }
        self.ratio = common_ratio(list(opened.values()))
        self._thumbnails = {item: self._encode(picture) for item, picture in opened.items()}

    @property
    def are_there(self) -> bool:
        """Whether any wanted item has a picture; known after `load`."""
        return bool(self._thumbnails)

    def pictured(self, items: list[int], *, row: int, rows: int) -> list[int]:
        """Those of `items` that have a picture, evenly thinned to fill up to `rows` rows."""
        found = [item for item in items if item in self._thumbnails]
        number = min(rows, len(found) // row) * row or len(found)
        return [found[i] for i in np.linspace(0, len(found) - 1, number).astype(int)]

    def source(self, item: int) -> str | None:
        """The thumbnail as a data URI, or None."""
        return self._thumbnails.get(item)

    def title(self, item: int) -> str:
        """What to call the item: its title on one line, shortened."""
        title = " ".join(self._dataset.titles[item].split()) or self._dataset.item_ids[item]
        return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…"

    def _encode(self, picture: "Image") -> str:
        from PIL import ImageOps

        width = round(SIDE * min(1.0, self.ratio))
        height = round(SIDE * min(1.0, 1 / self.ratio))
        file = io.BytesIO()
        ImageOps.fit(picture, (width, height)).save(file, "JPEG", quality=QUALITY, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
