"""What a run's data are prepared from: one source, recognized wherever it lies."""

from pathlib import Path

from bbqrec.bundle import OWN_NAMES, RunFolder, fingerprint
from bbqrec.data import PrepareConfig
from bbqrec.errors import ConfigError, StorageError
from bbqrec.lineage import update_of
from bbqrec.storage import sha256_json


def source_to_prepare(run: RunFolder, config: PrepareConfig, source: Path | None) -> Path | None:
    """What the run's data are to be prepared from; None where those it holds stand as they are.

    Raises:
        StorageError: the run was made from another source.
        ConfigError: without `source`, data must be prepared again whose source is gone.
    """
    held = run.source()
    if source is None:
        run.verify("prepare")
        used = PrepareConfig.parse(run.dataset().info["options"], source=str(run.directory))
        wanted = config.model_dump()
        changed = [name for name, value in used.model_dump().items() if value != wanted[name]]
        if not changed:
            return None
        if update_of(run) is not None:
            raise ConfigError(
                f"{run.root} was updated since its data were prepared, so they cannot be prepared "
                f"with another prepare.{changed[0]}; begin another run with --out"
            )
        if held is None or not held.path.exists():
            raise ConfigError(
                f"the data in {run.directory} were prepared with another prepare.{changed[0]}, and "
                f"their source {held.path if held else '(unknown)'} is not there to prepare them "
                f"again; give --data again: `bbqrec run --data SOURCE --out {run.directory}`"
            )
        return held.path
    files = source_fingerprint(source, run)
    # The same files elsewhere, moved or reached by another path, are the same source.
    if held is not None and held.files != files and held.path != source.resolve():
        remedy = (
            f", or delete {run.directory} first"
            if update_of(run) is None
            else (f"; what is new in it comes in by `bbqrec update {run.root} --data {source}`")
        )
        raise StorageError(
            f"{run.root} holds a run on {held.path}, which {source} would replace; give "
            f"another folder as --out{remedy}"
        )
    if run.is_current("prepare", fingerprint(files, config)):
        return None
    if update_of(run) is not None:
        raise StorageError(
            f"{run.root} was updated since, which preparing {source} anew would undo; bring in "
            f"what is new by `bbqrec update {run.root} --data {source}`, or give another folder as "
            "--out"
        )
    return source


def source_fingerprint(source: Path, run: RunFolder | None = None) -> str:
    """Names, sizes and modification times of the source's files."""
    files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    if run is not None and run.root.resolve().is_relative_to(source.resolve()):
        # What the run writes is not what it reads; other files may lie beside it.
        inside = source / run.root.resolve().relative_to(source.resolve())
        own = {inside / name for name in OWN_NAMES}
        files = [p for p in files if own.isdisjoint({p, *p.parents})]
    stats = [(str(p.relative_to(source)), p.stat()) for p in files if p.exists()]
    return sha256_json([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
