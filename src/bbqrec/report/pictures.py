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
        # Only here: a run without pictures needs no Pillow.
        from bbqrec.features.image_files import UnreadableImageError, open_image

        opened: dict[int, Image] = {}
        for item, content in read_images(self._directory, sorted(self._wanted)).items():
            try:
                picture = open_image(content)
            except UnreadableImageError:
                continue
            picture.thumbnail((3 * SIDE, 3 * SIDE))
            opened[item] = picture
        if opened:
            ratio = np.median([picture.width / picture.height for picture in opened.values()])
            self.ratio = float(np.clip(ratio, *RATIOS))
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
