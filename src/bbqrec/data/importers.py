"""Which importer reads a source: named, or told from its files."""

from pathlib import Path

from bbqrec.data.prepare import PrepareConfig
from bbqrec.data.raw import RawData
from bbqrec.data.records import Layout, Rejected
from bbqrec.data.tables import INTERACTION_STEMS, find_table, read_folder, read_table
from bbqrec.errors import DataError


def read_source(source: Path, config: PrepareConfig, rejected: Rejected) -> RawData:
    """Interactions, items and images of `source`, read as `config.format` says."""
    name = detect(source) if config.format == "auto" else config.format
    layout = Layout(config.delimiter, config.encoding or "utf-8", config.header)
    if name == "folder":
        return read_folder(source, config.columns, layout, rejected)
    if name == "table":
        return read_table(source, config.columns, layout, rejected)
    raise DataError(f"{source}: format {name!r} is not known")


def detect(source: Path) -> str:
    """The format of a source; DataError when nothing in it is recognized."""
    if source.is_file():
        return "table"
    if find_table(source, INTERACTION_STEMS):
        return "folder"
    raise DataError(f"{source} holds no file that is recognized as interactions")
