"""Item images: encoded files gathered into one Parquet file, and read back in pieces.

Bytes are not decoded here: whether they are a picture is for the encoder to find out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bbqrec.errors import CorruptArtifactError
from bbqrec.storage import read_json

IMAGES_FILE = "images.parquet"
ROW_GROUP = 256


def has_images(directory: Path) -> bool:
    """Whether the prepared dataset holds any image."""
    return (directory / IMAGES_FILE).is_file()


def iter_images(directory: Path) -> Iterator[tuple[int, bytes]]:
    """(item, encoded bytes) in item order, read one row group at a time."""
    import polars as pl

    item_of = _item_numbers(directory)
    frame = pl.scan_parquet(directory / IMAGES_FILE)
    try:
        num_rows = frame.select(pl.len()).collect().item()
        for start in range(0, num_rows, ROW_GROUP):
            for item_id, content in frame.slice(start, ROW_GROUP).collect().iter_rows():
                yield item_of[item_id], content
    except (pl.exceptions.PolarsError, OSError, KeyError) as error:
        raise _damaged(directory, error) from None


def read_images(directory: Path, items: Sequence[int]) -> dict[int, bytes]:
    """The encoded bytes of those of `items` that have an image."""
    import polars as pl

    if not has_images(directory):
        return {}
    item_ids = read_json(directory / "ids.json")["items"]
    wanted = {item_ids[item]: int(item) for item in items}
    frame = pl.scan_parquet(directory / IMAGES_FILE)
    try:
        rows = frame.select("item_id").collect()["item_id"]
        places = rows.is_in(list(wanted)).arg_true()
        found = {}
        for place in places:
            item_id, content = frame.slice(place, 1).collect().row(0)
            found[wanted[item_id]] = content
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(directory, error) from None
    return found


def _item_numbers(directory: Path) -> dict[str, int]:
    return {
        item_id: item for item, item_id in enumerate(read_json(directory / "ids.json")["items"])
    }


def _damaged(directory: Path, error: Exception) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{directory / IMAGES_FILE} is damaged ({error}); run `bbqrec prepare` again"
    )
