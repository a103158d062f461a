"""Raw item tables and image files -> items.parquet and images.parquet of a prepared dataset."""

import io
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from bbqrec.data.catalog import ITEMS_FILE, TEXT_SEPARATOR, unescape
from bbqrec.data.collected import PostedItem
from bbqrec.data.images import IMAGES_FILE, ROW_GROUP
from bbqrec.data.parquet import reading_parquet
from bbqrec.data.prepare import PrepareConfig
from bbqrec.data.raw import ImageFiles, ImageTable
from bbqrec.data.tables import IMAGE_SUFFIXES
from bbqrec.errors import DataError, StorageError
from bbqrec.progress import tracker
from bbqrec.storage import write_bytes

MAX_IMAGE_BYTES = 20 * 2**20
MAX_SHOWN_CHARS = 80
IMAGE_PATH = rf"({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})$"
_PROBLEMS = {
    "images_missing": "lead to no file",
    "images_refused": "lead out of the folder, or to what is no file",
    "images_too_large": "lead to files of more than 20 MB",
    "images_empty": "lead to empty files",
    "images_that_are_addresses": "are addresses, which are never fetched",
}
_PIECE_BYTES = 256 * 2**20
_TITLE_NAMES = ("title", "name", "movie_title", "product_title", "item_name", "product_name")
_IMAGE_SCHEMA = {"item_id": pl.String, "bytes": pl.Binary}


class Texts(NamedTuple):
    """What was written of the items' texts.

    Args:
        title, columns: the source's names of the title and of all text columns.
        left_out: described items that are not in the catalog.
    """

    titles: list[str]
    is_described: NDArray[np.bool_]
    title: str | None
    columns: list[str]
    counts: dict[str, int]
    warnings: list[str]
    left_out: list[str]


class Images(NamedTuple):
    """What was written of the items' images."""

    is_pictured: NDArray[np.bool_]
    counts: dict[str, int]
    warnings: list[str]


def write_items(
    directory: Path, item_ids: list[str], raw_items: pl.DataFrame | None, config: PrepareConfig
) -> Texts:
    """Write the text columns in item order.

    Text columns are those the config names, else all of strings that are not just numbers; lists
    of strings are joined.
    HTML entities are unescaped. An item without a title goes by its id.
    """
    catalog = pl.DataFrame({"item_id": item_ids}, schema={"item_id": pl.String})
    if raw_items is None:
        if config.text_columns or config.title_column:
            wanted = (config.text_columns or (config.title_column,))[0]
            raise DataError(f"the source has no table of items, so no column {wanted!r}")
        raw_items = catalog.clear()
    lists = [n for n, t in raw_items.schema.items() if t == pl.List(pl.String)]
    raw_items = raw_items.with_columns(pl.col(name).list.join(", ") for name in lists)
    title = _title_column(raw_items, config)
    names = _text_columns(raw_items, config, title)
    items, titles = _in_item_order(item_ids, raw_items, names, title)
    _write_table(directory / ITEMS_FILE, items)
    is_described = np.zeros(items.height, dtype=bool)
    for name in names:
        is_described |= items[name].is_not_null().to_numpy()
    described, used = set(raw_items["item_id"]), set(item_ids)
    left_out = sorted(described - used)
    counts = {
        "items_described_but_never_used": len(left_out),
        "items_without_row": len(used - described),
        "items_without_text": int((~is_described).sum()),
    }
    warnings = [] if config.text_columns is not None else _warn_of_paths(items.select(names))
    return Texts(titles, is_described, title, names, counts, warnings, left_out)


def add_items(
    directory: Path,
    known: Path,
    item_ids: list[str],
    raw_items: pl.DataFrame | None,
    title: str | None,
    posted: Mapping[str, PostedItem],
) -> list[str]:
    """Write the texts of the dataset in `known` and after them those of new items; their titles.

    The columns stay those of the dataset; what else is known of the new items is not read.

    Args:
        title: the dataset's name of the column of titles.
        posted: descriptions for items that `raw_items` does not have.
    """
    old = pl.read_parquet(known / ITEMS_FILE, glob=False)
    names = [name for name in old.columns if name != "item_id"]
    raw_items = _plain_texts(raw_items)
    found = set(raw_items["item_id"])
    others = [item for name, item in posted.items() if name not in found]
    columns = dict.fromkeys([*names, *([title] if title else [])])
    # Whatever of a posted item has no column of its own is read with the first text there is.
    body = next((name for name in columns if name != title), title)
    rows: dict[str, list[str | None]] = {"item_id": [item.item_id for item in others]}
    for column in columns:
        parts = [
            ((item.title,) if column == (title or body) else ())
            + ((item.text,) if column == body else ())
            for item in others
        ]
        rows[column] = [TEXT_SEPARATOR.join(p for p in part if p) or None for part in parts]
    extra = pl.DataFrame(rows, schema=dict.fromkeys(rows, pl.String))
    raw_items = pl.concat([raw_items, extra], how="diagonal")
    new, titles = _in_item_order(item_ids, raw_items, names, title)
    _write_table(directory / ITEMS_FILE, pl.concat([old, new.select(old.columns)]))
    called = {item.item_id: item.title for item in others}
    return [called.get(i) or name for i, name in zip(item_ids, titles, strict=True)]


def _plain_texts(raw_items: pl.DataFrame | None) -> pl.DataFrame:
    if raw_items is None:
        return pl.DataFrame(schema={"item_id": pl.String})
    texts = [name for name, dtype in raw_items.schema.items() if dtype == pl.String]
    lists = [name for name, dtype in raw_items.schema.items() if dtype == pl.List(pl.String)]
    joined = [pl.col(name).list.join(", ") for name in lists]
    return raw_items.select(*texts, *joined)


def _in_item_order(
    item_ids: list[str], raw_items: pl.DataFrame, names: list[str], title: str | None
) -> tuple[pl.DataFrame, list[str]]:
    """`item_id` and the text columns, a row per item, and titles; an id where there is none."""
    catalog = pl.DataFrame({"item_id": item_ids}, schema={"item_id": pl.String})
    keep = list(dict.fromkeys([*names, *([title] if title else [])]))
    items = catalog.join(
        raw_items.select("item_id", *keep), on="item_id", how="left", maintain_order="left"
    ).with_columns(_unescaped(name) for name in keep)
    titles = items[title].fill_null(items["item_id"]).to_list() if title else list(item_ids)
    return items.select("item_id", *names), titles


def _write_table(path: Path, items: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    items.write_parquet(buffer, row_group_size=8192)
    write_bytes(path, buffer.getvalue())


def _warn_of_paths(texts: pl.DataFrame) -> list[str]:
    """A sentence for every text column that rather names image files."""
    warnings = []
    for column in texts:
        known = column.drop_nulls()
        is_path = known.str.to_lowercase().str.contains(IMAGE_PATH)
        if 2 * is_path.sum() > len(known):
            warnings.append(
                f"the column {column.name!r} is read as text, but looks like paths of images (such "
                f"as {_shown(known.filter(is_path)[0])}); if that is what it is: --set "
                f"prepare.columns.image={column.name}"
            )
    return warnings


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}...")


def _title_column(raw_items: pl.DataFrame, config: PrepareConfig) -> str | None:
    if config.title_column is not None:
        _require(raw_items, config.title_column)
        return config.title_column
    strings = {n.lower(): n for n, t in reversed(raw_items.schema.items()) if t == pl.String}
    return next((strings[name] for name in _TITLE_NAMES if name in strings), None)


def _text_columns(raw_items: pl.DataFrame, config: PrepareConfig, title: str | None) -> list[str]:
    if config.text_columns is not None:
        for name in config.text_columns:
            _require(raw_items, name)
        return list(config.text_columns)
    names = [
        name
        for name, dtype in raw_items.schema.items()
        if dtype == pl.String and name not in ("item_id", "image", "")
    ]
    texts = [name for name in names if name == title or not _is_numeric(raw_items[name])]
    return sorted(texts, key=lambda name: name != title)


def _is_numeric(column: pl.Series) -> bool:
    """Whether a column of a text file holds only numbers, such as a price."""
    known = column.drop_nulls()
    return len(known) > 0 and known.cast(pl.Float64, strict=False).null_count() == 0


def _require(raw_items: pl.DataFrame, name: str) -> None:
    strings = [n for n, t in raw_items.schema.items() if t == pl.String and n != "item_id"]
    if name not in strings:
        raise DataError(
            f"the items have no text column {name!r}; they have: {', '.join(strings) or 'none'}"
        )


def _unescaped(name: str) -> pl.Expr:
    column = pl.col(name).str.strip_chars()
    has_entity = column.str.contains(r"&#?\w+;")
    text = (
        pl.when(has_entity)
        .then(pl.when(has_entity).then(column).map_elements(unescape, return_dtype=pl.String))
        .otherwise(column)
    )
    return pl.when(text != "").then(text).alias(name)


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
                examples.setdefault(problem, path_of[item_id])
                continue
            rows.append((item_id, content))
            num_bytes += len(content)
            if num_bytes > _PIECE_BYTES:
                yield pl.DataFrame(rows, schema=_IMAGE_SCHEMA, orient="row")
                rows, num_bytes = [], 0
    num_listed = len(path_of) - counts["image_rows_of_unknown_items"]
    warnings += [
        f"{counts[problem]:,} of {num_listed:,} image paths {_PROBLEMS[problem]}, for example "
        f"{_shown(example)}, looked for in {source.root}; put the image files there, or name "
        "another column with --set prepare.columns.image=NAME"
        for problem, example in examples.items()
        if 2 * counts[problem] > num_listed
    ]
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
