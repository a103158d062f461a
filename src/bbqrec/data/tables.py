"""Our dataset folder, and tables with any column names: CSV, TSV, JSON lines, Parquet."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from bbqrec.data.lines import Rejected, base_name
from bbqrec.data.parquet import reading_parquet
from bbqrec.data.raw import (
    LOG_COLUMNS,
    ImageFiles,
    ImageTable,
    RawData,
    first_known,
    ids_as_strings,
    map_columns,
    require_log_columns,
)
from bbqrec.data.records import LINE, Layout, read_chunks
from bbqrec.errors import DataError

logger = logging.getLogger(__name__)

MAX_DIFFERING_SHARE = 0.5
SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
INTERACTION_STEMS = ("interactions", "ratings", "events", "reviews")
ITEM_STEMS = ("items", "movies", "products", "metadata")
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


def find_table(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """The table in `folder` that goes by one of these names, whatever its suffix."""
    files = {base_name(path): path for path in sorted(folder.iterdir()) if path.is_file()}
    names = (stem + suffix for stem in stems for suffix in SUFFIXES)
    return next((files[name] for name in names if name in files), None)


def read_folder(
    folder: Path, columns: Mapping[str, str], layout: Layout, rejected: Rejected
) -> RawData:
    """A folder with a table of interactions and, where there are any, items and images."""
    log_path = find_table(folder, INTERACTION_STEMS)
    if log_path is None:
        raise DataError(
            f"{folder} has no table of interactions; a dataset folder holds interactions.parquet "
            "(or .csv, .tsv, .jsonl) and, if there are any, items and images"
        )
    item_path = find_table(folder, ITEM_STEMS)
    if item_path is None:
        return _with_images(read_table(log_path, columns, layout, rejected), folder)
    interactions, _, found = _read_log(log_path, columns, layout, rejected, with_items=False)
    items, found_items = read_items(item_path, columns, layout, rejected)
    images = _image_paths(item_path, items, found_items, columns)
    raw = RawData(interactions, items, images, log_path, "folder", {**found_items, **found})
    return _with_images(raw, folder)


def read_table(
    path: Path, columns: Mapping[str, str], layout: Layout, rejected: Rejected
) -> RawData:
    """One table of interactions; further columns describe the item, an image path among them."""
    interactions, items, found = _read_log(path, columns, layout, rejected, with_items=True)
    images = _image_paths(path, items, found, columns)
    return RawData(interactions, items, images, path, "table", found)


def read_items(
    path: Path, columns: Mapping[str, str], layout: Layout, rejected: Rejected
) -> tuple[pl.DataFrame, dict[str, str]]:
    """One row per item, `image` being the path of its picture, and which columns became what."""
    chunks = []
    found: dict[str, str] = {}
    for chunk in read_chunks(path, layout, rejected):
        found = map_columns(chunk.columns, columns, ("item_id", "image"))
        if "item_id" not in found:
            there = ", ".join(name for name in chunk.columns if name != LINE)
            raise DataError(
                f"{path} has no column item_id; it has: {there}; name the one to use with "
                "--set prepare.columns.item_id=NAME"
            )
        chunks.append(_item_columns(path, chunk, found, drop=()))
    items = first_known(pl.concat(chunks, how="diagonal_relaxed"))
    return items, found


def _read_log(
    path: Path, columns: Mapping[str, str], layout: Layout, rejected: Rejected, *, with_items: bool
) -> tuple[pl.DataFrame, pl.DataFrame | None, dict[str, str]]:
    wanted = (*LOG_COLUMNS, "image") if with_items else LOG_COLUMNS
    found: dict[str, str] = {}
    logs, items = [], pl.DataFrame(schema={"item_id": pl.String})
    num_known: Counter[str] = Counter()
    num_differing: Counter[str] = Counter()
    for chunk in read_chunks(path, layout, rejected):
        found = map_columns(chunk.columns, columns, wanted)
        require_log_columns(path, found, chunk.columns, columns)
        log = chunk.select(LINE, **{o: pl.col(t) for o, t in found.items() if o in LOG_COLUMNS})
        logs.append(ids_as_strings(path, log, ("user_id", "item_id")))
        if not with_items:
            continue
        drop = [theirs for ours, theirs in found.items() if ours not in ("item_id", "image")]
        described = _item_columns(path, chunk, found, drop)
        names = [name for name, dtype in described.schema.items() if dtype == pl.String][1:]
        if names:
            items = first_known(pl.concat([items, described], how="diagonal_relaxed"))
            first = described.select("item_id").join(
                items, on="item_id", how="left", maintain_order="left"
            )
            num_known.update({name: described[name].count() for name in names})
            num_differing.update({n: int((described[n] != first[n]).sum()) for n in names})
    for name in num_known:
        # What changes from one interaction to the next, such as a review, is no text of the item:
        # it would also tell of interactions that are held out.
        repeats = num_known[name] - items[name].count()
        if num_differing[name] > MAX_DIFFERING_SHARE * repeats:
            logger.warning(
                "%s: column %s is left out of the items: of %d values after an item's first, "
                "%d differ from it",
                *(path, name, repeats, num_differing[name]),
            )
            items = items.drop(name)
    has_items = len(items.columns) > 1
    return pl.concat(logs, how="diagonal_relaxed"), items if has_items else None, found


def _item_columns(
    path: Path, chunk: pl.DataFrame, found: Mapping[str, str], drop: tuple[str, ...] | list[str]
) -> pl.DataFrame:
    renamed = {found[ours]: ours for ours in ("item_id", "image") if ours in found}
    others = [name for name in chunk.columns if name not in {LINE, *drop, *renamed}]
    frame = chunk.select(
        pl.col(found["item_id"]).alias("item_id"),
        *(pl.col(theirs).alias(ours) for theirs, ours in renamed.items() if ours == "image"),
        *others,
    )
    frame = ids_as_strings(path, frame, ("item_id",))
    # An empty field is an unknown value, so that another row of the same item can fill it.
    return frame.with_columns(
        pl.when(pl.col(pl.String).str.strip_chars() != "").then(pl.col(pl.String))
    ).filter(pl.col("item_id").is_not_null())


def _image_paths(
    path: Path,
    items: pl.DataFrame | None,
    found: Mapping[str, str],
    columns: Mapping[str, str],
) -> ImageFiles | None:
    if "image" in columns and columns["image"] != found.get("image"):
        there = [] if items is None else [found.get(name, name) for name in items.columns]
        raise DataError(
            f"{path} has no column {columns['image']!r} to use as image; it describes items by: "
            f"{', '.join(there) or 'none'}; name one with --set prepare.columns.image=NAME"
        )
    if items is None or "image" not in items.columns:
        return None
    if items.schema["image"] != pl.String:
        logger.warning(
            "%s: images are not paths but %s, so none is read", path, items["image"].dtype
        )
        return None
    known = items.select("item_id", "image").drop_nulls()
    return ImageFiles(path.parent, known["item_id"].to_list(), known["image"].to_list())


def _with_images(raw: RawData, folder: Path) -> RawData:
    """`raw` with the images of images.parquet or of the folder images/, if there are any."""
    table, directory = folder / "images.parquet", folder / "images"
    columns = {ours: theirs for ours, theirs in raw.columns.items() if ours != "image"}
    if table.is_file():
        return raw._replace(images=image_table(table), columns=columns)
    if raw.images is None and directory.is_dir():
        return raw._replace(images=files_named_by_item(directory), columns=columns)
    return raw


def files_named_by_item(directory: Path) -> ImageFiles:
    """The image files of a folder, each named by its item: `B004.jpg` is the image of B004."""
    files = [p for p in sorted(directory.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    return ImageFiles(directory, [path.stem for path in files], [path.name for path in files])


def image_table(path: Path) -> ImageTable:
    """A Parquet file with `item_id` and one column of bytes, whatever that is called."""
    with reading_parquet(path):
        schema = pl.read_parquet_schema(path)
    binary = [name for name, dtype in schema.items() if dtype == pl.Binary]
    if "item_id" not in schema or not binary:
        raise DataError(
            f"{path} must have the columns item_id and bytes; it has: {', '.join(schema)}"
        )
    return ImageTable(path, "bytes" if "bytes" in binary else binary[0])
