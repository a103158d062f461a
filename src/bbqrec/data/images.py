"""Item images: encoded files gathered into one Parquet file, and read back in pieces.

Bytes are not decoded here: whether they are a picture is for the encoder to find out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bbqrec.data.parquet import reading_parquet
from bbqrec.errors import CorruptArtifactError
from bbqrec.storage import read_json

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


def _item_numbers(directory: Path) -> dict[str, int]:
    return {
        item_id: item for item, item_id in enumerate(read_json(directory / "ids.json")["items"])
    }
