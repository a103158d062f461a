"""Where the versions of a run come from: each was updated from the one before, and says so."""

from pathlib import Path
from typing import Any, NamedTuple

from bbqrec.bundle import CURRENT_FILE, FORMAT_VERSION, VERSIONS, RunFolder, current_version
from bbqrec.errors import BBQRecError, ConfigError, CorruptArtifactError
from bbqrec.storage import read_json, write_json

LINEAGE_FILE = "version.json"  # written last: a version without it was never finished
PARTS = ("prepare", "encode", "tokenize", "train")
"""The stages that make a version what it is; the others measure and show it."""


class Step(NamedTuple):
    """One version of a run.

    Args:
        identity: fingerprint of its data, semantic IDs and weights.
        about: of an update: `parent`, `parent_identity`, `finished`, `data`, `events`, `found`,
            `is_kept` (the weights are the parent's, but for transitions, found anew) and
            `changes`; of the first version nothing.
        is_current: whether it is what commands and servers use.
    """

    version: int
    identity: str
    about: dict[str, Any]
    is_current: bool


def finished_versions(root: Path) -> list[int]:
    """Numbers of the versions of a run that can be loaded, oldest first; 0 was trained first."""
    folder = root / VERSIONS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
    return [0, *(n for n in numbers if (folder / str(n) / LINEAGE_FILE).is_file())]


def lineage(root: Path) -> list[Step]:
    """Every finished version, oldest first."""
    current = current_version(root)
    steps = []
    for version in finished_versions(root):
        run = RunFolder(root, version)
        about = read_json(run.directory / LINEAGE_FILE) if version else {}
        try:
            identity = run.model_version()
        except CorruptArtifactError:
            if "identity" not in about:
                raise
            identity = about["identity"]  # damaged since: the others are to be shown all the same
        steps.append(Step(version, identity, dict(about), version == current))
    return steps


def use_version(root: Path, version: int) -> None:
    """Let commands and servers use this version from now on, all at once.

    Raises:
        ConfigError: there is no such version.
        CorruptArtifactError: it is not whole.
    """
    known = finished_versions(root)
    if version not in known:
        raise ConfigError(
            f"{root} has no finished version {version}; it has: {', '.join(map(str, known))}"
        )
    run = RunFolder(root, version)
    for stage in PARTS:
        run.verify(stage)
    write_json(root / CURRENT_FILE, {"format_version": FORMAT_VERSION, "version": version})


def update_of(run: RunFolder) -> dict[str, Any] | None:
    """What the data of this version were updated from and with; None where they were not."""
    try:
        about = run.manifest("prepare").get("update")
    except BBQRecError:
        return None
    return dict(about) if isinstance(about, dict) else None


def is_update(run: RunFolder) -> bool:
    """Whether an update made this version, opened as a version of its run or by its own folder."""
    has_lineage = (run.directory / LINEAGE_FILE).is_file()
    return run.version > 0 or has_lineage or update_of(run) is not None


def way_back(run: RunFolder) -> str | None:
    """The command that goes back to the version before; None where its run is not around it."""
    folder = run.directory if run.version else run.directory.resolve()
    if folder.parent.name != VERSIONS or not folder.name.isdecimal():
        return None
    root = folder.parent.parent
    about = update_of(run) or {}
    before = [n for n in finished_versions(root) if n < int(folder.name)]
    parent = about.get("parent")
    return f"`bbqrec versions {root} --use {parent if parent in before else before[-1]}`"


def parent_of(run: RunFolder) -> RunFolder | None:
    """The version that this one was updated from; None where there is none, or it is gone."""
    about = update_of(run)
    if about is None:
        return None
    # Relative, so that a run can be moved, and a version be opened by its own folder.
    number, root = int(about["parent"]), run.directory.parent.parent
    parent = RunFolder(root, number)
    try:
        identity = parent.model_version()
    except CorruptArtifactError:
        return None
    return parent if identity == about["parent_identity"] else None
