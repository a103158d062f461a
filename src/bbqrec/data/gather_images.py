"""Raw image files and tables of images -> images.parquet of a prepared dataset."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from bbqrec.data.collected import PostedItem
from bbqrec.data.gather import shown
from bbqrec.data.images import IMAGES_FILE, ROW_GROUP
from bbqrec.data.parquet import reading_parquet
from bbqrec.data.raw import ImageFiles, ImageTable
from bbqrec.errors import StorageError
from bbqrec.progress import tracker

MAX_IMAGE_BYTES = 20 * 2**20
_PROBLEMS = {
    "images_missing": "lead to no file",
    "images_refused": "lead out of the folder, or to what is no file",
    "images_too_large": "lead to files of more than 20 MB",
    "images_empty": "lead to empty files",
    "images_that_are_addresses": "are addresses, which are never fetched",
}
_PIECE_BYTES = 256 * 2**20
_IMAGE_SCHEMA = {"item_id": pl.String, "bytes": pl.Binary}


class Images(NamedTuple):
    """What was written of the items' images."""

    is_pictured: NDArray[np.bool_]
    counts: dict[str, int]
    warnings: list[str]


def write_images(
    directory: Path, item_ids: list[str], source: ImageTable | ImageFiles | None
) -> Images:
    """Write the images of known items in item order.

    Memory stays bounded: files are read one by one, a table in pieces of items.
    """
    if source is None:
        return Images(np.zeros(len(item_ids), dtype=bool), {"items_with_image": 0}, [])
    counts: dict[str, int] = {}
    warnings: list[str] = []
    pieces = _pieces(item_ids, source, counts, warnings)
    return _written(directory, item_ids, pieces, counts, warnings)


def add_images(
    directory: Path,
    known: Path,
    item_ids: list[str],
    source: ImageTable | ImageFiles | None,
    posted: Mapping[str, PostedItem],
) -> Images:
    """Write the images of the dataset in `known` and after them those of new items."""
    counts: dict[str, int] = {}
    warnings: list[str] = []
    path = known / IMAGES_FILE

    def pieces() -> Iterator[pl.DataFrame]:
        if path.is_file():
            frame = pl.scan_parquet(path, glob=False)
            with reading_parquet(path):
                num_rows = frame.select(pl.len()).collect().item()
            for start in range(0, num_rows, ROW_GROUP):
                with reading_parquet(path):
                    yield frame.slice(start, ROW_GROUP).collect()
        done: set[str] = set()
        if source is not None:
            for piece in _pieces(item_ids, source, counts, warnings):
                done |= set(piece["item_id"])
                yield piece
        for item_id in item_ids:
            item = posted.get(item_id)
            if item is not None and item.image and item_id not in done:
                yield pl.DataFrame([(item_id, item.image)], schema=_IMAGE_SCHEMA, orient="row")

    return _written(directory, item_ids, pieces(), counts, warnings)


def _pieces(
    item_ids: list[str],
    source: ImageTable | ImageFiles,
    counts: dict[str, int],
    warnings: list[str],
) -> Iterator[pl.DataFrame]:
    catalog = pl.DataFrame({"item_id": item_ids}, schema={"item_id": pl.String})
    if isinstance(source, ImageTable):
        return _from_table(source, catalog, counts)
    return _from_files(source, catalog, counts, warnings)


def _written(
    directory: Path,
    item_ids: list[str],
    pieces: Iterator[pl.DataFrame],
    counts: dict[str, int],
    warnings: list[str],
) -> Images:
    path = directory / IMAGES_FILE
    _sink(path, pieces)
    pictured = pl.scan_parquet(path, glob=False).select("item_id").collect()["item_id"]
    if not len(pictured):
        path.unlink()
    is_pictured = pl.Series(item_ids, dtype=pl.String).is_in(pictured.implode()).to_numpy()
    return Images(is_pictured, {"items_with_image": len(pictured), **counts}, warnings)


def _sink(path: Path, pieces: Iterator[pl.DataFrame]) -> None:
    failures: list[Exception] = []

    def generate(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        try:
            yield from pieces
        except Exception as error:
            failures.append(error)
            raise

    frame = register_io_source(generate, schema=_IMAGE_SCHEMA)
    try:
        frame.sink_parquet(path, row_group_size=ROW_GROUP, compression="uncompressed")
    except (pl.exceptions.PolarsError, OSError) as error:
        if failures:  # Polars hands on what its source raised as an error of its own
            raise failures[0] from None
        raise StorageError(f"cannot write {path}: {error}; nothing was left half-written") from None


def _from_table(
    source: ImageTable, catalog: pl.DataFrame, counts: dict[str, int]
) -> Iterator[pl.DataFrame]:
    images = pl.scan_parquet(source.path, glob=False).select(
        pl.col("item_id").cast(pl.String), bytes=pl.col(source.bytes_column)
    )
    size = pl.col("bytes").bin.size()
    with reading_parquet(source.path):
        sizes = images.select("item_id", size=size).collect(engine="streaming")
    is_known = sizes["item_id"].is_in(catalog["item_id"].implode())
    counts["image_rows_of_unknown_items"] = int((~is_known).sum())
    counts["images_empty"] = int((sizes["size"].fill_null(0) == 0).sum())
    counts["images_too_large"] = int((sizes["size"] > MAX_IMAGE_BYTES).sum())
    usable = (size > 0) & (size <= MAX_IMAGE_BYTES)
    num_pieces = 1 + int(sizes["size"].sum()) // _PIECE_BYTES
    for piece in catalog.iter_slices(-(-catalog.height // num_pieces)):
        is_wanted = pl.col("item_id").is_in(piece["item_id"].implode()) & usable
        with reading_parquet(source.path):
            found = images.filter(is_wanted).collect(engine="streaming")
        found = found.unique("item_id", keep="first", maintain_order=True)
        yield piece.join(found, on="item_id", how="inner", maintain_order="left")


def _from_files(
    source: ImageFiles, catalog: pl.DataFrame, counts: dict[str, int], warnings: list[str]
) -> Iterator[pl.DataFrame]:
    counts |= dict.fromkeys(("images_missing", "images_refused", "images_too_large"), 0)
    counts["images_empty"] = counts["images_that_are_addresses"] = 0
    path_of = dict(zip(source.items, source.paths, strict=True))
    counts["image_rows_of_unknown_items"] = len(path_of.keys() - set(catalog["item_id"]))
    root = source.root.resolve()
    rows: list[tuple[str, bytes]] = []
    num_bytes = 0
    examples: dict[str, str] = {}
    with tracker("gathering images", catalog.height) as progress:
        for item_id in catalog["item_id"]:
            progress.advance()
            if item_id not in path_of:
                continue
            content, problem = _read_image(root, path_of[item_id])
            if content is None:
                counts[problem] += 1
                examples.setdefault(problem, item_id)
                continue
            rows.append((item_id, content))
            num_bytes += len(content)
            if num_bytes > _PIECE_BYTES:
                yield pl.DataFrame(rows, schema=_IMAGE_SCHEMA, orient="row")
                rows, num_bytes = [], 0
    num_listed = len(path_of) - counts["image_rows_of_unknown_items"]
    warnings += [
        f"{counts[problem]:,} of {num_listed:,} image paths {_PROBLEMS[problem]}, for example "
        f"{shown(path_of[item_id])}, looked for in {source.root}; put the image files there, or "
        "name another column with --set prepare.columns.image=NAME"
        for problem, item_id in examples.items()
        if 2 * counts[problem] > num_listed
    ]
    missing = counts["images_missing"]
    if 0 < 2 * missing <= num_listed:
        warnings.append(
            f"{missing:,} of {num_listed:,} image files {'was' if missing == 1 else 'were'} not "
            f"found, the first that of item {shown(examples['images_missing'])}; "
            f"{'that item goes' if missing == 1 else 'those items go'} without a picture"
        )
    yield pl.DataFrame(rows, schema=_IMAGE_SCHEMA, orient="row")


def _read_image(root: Path, name: str) -> tuple[bytes | None, str]:
    """The bytes of a regular file inside `root`, or the name of what is wrong with it.

    A path in a table is untrusted input: nothing outside the folder, no pipe or device (reading
    one would block for ever), no address on the network.
    """
    if "://" in name:
        return None, "images_that_are_addresses"
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            return None, "images_refused"
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None, "images_refused"
        if not status.st_size:
            return None, "images_empty"
        if status.st_size > MAX_IMAGE_BYTES:
            return None, "images_too_large"
        return path.read_bytes(), ""
    except PermissionError:
        return None, "images_refused"
    except (OSError, ValueError, RuntimeError):  # absent, a NUL in the name, a loop of links
        return None, "images_missing"
