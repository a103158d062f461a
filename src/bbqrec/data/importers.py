"""Which importer reads a source: named, or told from its files."""

from pathlib import Path

from bbqrec.data.amazon import find_files, read_amazon
from bbqrec.data.config import PrepareConfig
from bbqrec.data.lines import Rejected, base_name, first_line
from bbqrec.data.published import read_lcrec, read_movielens, read_recbole, read_sequences
from bbqrec.data.raw import RawData
from bbqrec.data.records import Layout
from bbqrec.data.tables import INTERACTION_STEMS, SUFFIXES, find_table, read_folder, read_table
from bbqrec.errors import DataError


def read_source(source: Path, config: PrepareConfig, rejected: Rejected) -> RawData:
    """Interactions, items and images of `source`, read as `config.format` says."""
    name = detect(source) if config.format == "auto" else config.format
    columns = {str(ours): theirs for ours, theirs in config.columns.items()}
    layout = Layout(config.delimiter, config.encoding or "utf-8", config.header)
    if name == "folder" and source.is_dir():
        return read_folder(source, columns, layout, rejected)
    if name == "table" and source.is_file():
        return read_table(source, columns, layout, rejected)
    if name in ("folder", "table"):
        raise DataError(f"{source}: format {name!r} needs a {name.replace('table', 'file')}")
    if name == "amazon":
        return read_amazon(source, rejected)
    if name == "recbole":
        return read_recbole(source, columns, rejected)
    if name == "movielens":
        return read_movielens(source, rejected)
    if name == "lcrec":
        return read_lcrec(source, rejected)
    return read_sequences(source, rejected)


def detect(source: Path) -> str:
    """The format of a file or folder; DataError when nothing in it is recognized."""
    if source.is_file():
        return _detect_file(source)
    names = [base_name(path) for path in sorted(source.iterdir()) if path.is_file()]
    if any(name.endswith(".inter.json") for name in names):
        return "lcrec"
    if any(name.endswith(".inter") for name in names):
        return "recbole"
    if "ratings.dat" in names:
        return "movielens"
    if find_files(source)[0]:
        return "amazon"
    if find_table(source, INTERACTION_STEMS):
        return "folder"
    if any(name.endswith(".txt") for name in names):
        return "s3rec"
    raise DataError(
        f"{source} holds no interactions that are recognized (it has: "
        f"{', '.join(names[:10]) or 'no files'}); a dataset folder holds interactions.parquet or "
        ".csv; docs/data.md lists the other formats"
    )


def _detect_file(source: Path) -> str:
    name = base_name(source)
    if name.endswith(".inter.json"):
        return "lcrec"
    if name.endswith(".inter"):
        return "recbole"
    if name.endswith(".dat") and "::" in first_line(source, "latin-1"):
        return "movielens"
    if name.endswith((".json", ".jsonl")) and find_files(source)[0]:
        return "amazon"
    if name.endswith(".txt") and not any(mark in first_line(source) for mark in ",\t;|"):
        return "s3rec"
    if name.endswith(SUFFIXES):
        return "table"
    raise DataError(
        f"{source.name} is of no known kind; give .csv, .tsv, .jsonl or .parquet, or name the "
        "format"
    )
