"""Item images: encoded files gathered into one Parquet file, and read back in pieces.

Bytes are not decoded here: whether they are a picture is for the encoder to find out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bbqrec.data.parquet import reading_parquet
from bbqrec.errors import CorruptArtifactError
from bbqrec.storage import read_json

if TYPE_CHECKING:
    import polars as pl

IMAGES_FILE = "images.parquet"
ROW_GROUP = 256
_ADVICE = "run `bbqrec prepare` again"


def has_images(directory: Path) -> bool:
    """Whether the prepared dataset holds any image."""
    return (directory / IMAGES_FILE).is_file()


def iter_images(directory: Path) -> Iterator[tuple[int, bytes]]:
    """(item, encoded bytes) in item order, read one row group at a time."""
    import polars as pl

    item_of = _item_numbers(directory)
    path = directory / IMAGES_FILE
    with reading_parquet(path, CorruptArtifactError, _ADVICE):
        frame = pl.scan_parquet(path, glob=False)
        num_rows = frame.select(pl.len()).collect().item()
    for start in range(0, num_rows, ROW_GROUP):
        with reading_parquet(path, CorruptArtifactError, _ADVICE):
            rows = frame.slice(start, ROW_GROUP).select("item_id", "bytes").collect().rows()
        for item_id, content in rows:
            if item_id not in item_of:
                raise CorruptArtifactError(
                    f"{path} has an image of the unknown item {item_id!r}; {_ADVICE}"
                )
            yield item_of[item_id], content


def read_images(directory: Path, items: Sequence[int]) -> dict[int, bytes]:
    """The encoded bytes of those of `items` that have an image."""
    import polars as pl

    if not has_images(directory):
        return {}
    item_ids = read_json(directory / "ids.json")["items"]
    wanted = {item_ids[item]: int(item) for item in items}
    found = {}
    path = directory / IMAGES_FILE
    with reading_parquet(path, CorruptArtifactError, _ADVICE):
        frame = pl.scan_parquet(path, glob=False).select("item_id", "bytes")
        rows = frame.select("item_id").collect()["item_id"]
        for place in rows.is_in(list(wanted)).arg_true():
            item_id, content = frame.slice(place, 1).collect().row(0)
            found[wanted[item_id]] = content
    return found


class ImageFile:
    """The images of a prepared dataset one by one, also once it was prepared anew."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / IMAGES_FILE
        self._stamp: tuple[int, int] | None = None
        self._frame: pl.LazyFrame | None = None
        self._places: dict[str, int] = {}
        self._keep_up()

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._places

    @property
    def item_ids(self) -> list[str]:
        """Of the items that have an image."""
        return list(self._places)

    def read(self, item_id: str) -> bytes | None:
        """The encoded bytes, in about a millisecond; None for an item without an image."""
        self._keep_up()
        frame, place = self._frame, self._places.get(item_id)
        if frame is None or place is None:
            return None
        with reading_parquet(self._path, CorruptArtifactError, _ADVICE):
            return bytes(frame.slice(place, 1).select("bytes").collect().row(0)[0])

    def _keep_up(self) -> None:
        """Polars keeps what it knows of a file, so it must be told that another took its place."""
        import polars as pl

        try:
            status = self._path.stat()
        except OSError:
            self._stamp, self._frame, self._places = None, None, {}
            return
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp == self._stamp:
            return
        with reading_parquet(self._path, CorruptArtifactError, _ADVICE):
            frame = pl.scan_parquet(self._path, glob=False)
            item_ids = frame.select("item_id").collect()["item_id"]
        self._places = {item_id: place for place, item_id in enumerate(item_ids)}
        self._frame, self._stamp = frame, stamp


def _item_numbers(directory: Path) -> dict[str, int]:
    return {
        item_id: item for item, item_id in enumerate(read_json(directory / "ids.json")["items"])
    }
