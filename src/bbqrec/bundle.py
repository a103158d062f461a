"""A run folder: one subfolder per finished stage, each with a manifest of SHA-256 digests.

A stage's folder appears all at once when the stage is done; its manifest names the key (a
fingerprint of settings and inputs) it was made for, so a stage is repeated only when that changes.

An update leaves a run as it is and makes a run of the same kind in `versions/1`, `versions/2` and
so on; `current.json` says which of them the run is now.
"""

import fcntl
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
from jaxtyping import Bool
from torch import Tensor

from bbqrec.config import Config
from bbqrec.data import Dataset
from bbqrec.errors import (
    BBQRecError,
    CorruptArtifactError,
    RunBusyError,
    SemanticIdError,
    StorageError,
)
from bbqrec.features import Features, load_features, main_directions, standardize
from bbqrec.recommender import ItemTables, RecommenderConfig, find_neighbors
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import (
    new_directory,
    read_json,
    read_tensors,
    sha256_file,
    sha256_json,
    write_json,
)

FORMAT_VERSION = 1
ITEMS_PER_DIRECTION = 32  # of content; see RecommenderConfig.content_dim
STAGE_FOLDERS = {
    "prepare": "data",
    "encode": "features",
    "tokenize": "tokenizer",
    "train": "recommender",
    "evaluate": "evaluation",
}
TRAINED_ON_FILE = "trained_on.safetensors"  # of the tokenize stage, after an update
VERSIONS = "versions"
CURRENT_FILE = "current.json"
OWN_NAMES = {
    *STAGE_FOLDERS.values(),
    *("checkpoints", "serving", "tracking", "config.json", "metrics.json", "report.html", ".lock"),
    *(VERSIONS, CURRENT_FILE),
}


class Source(NamedTuple):
    """What a run's data were prepared from: where it was, and its files' sizes and times."""

    path: Path
    files: str


def not_a_run(path: Path) -> str:
    """What to say where a run folder was asked for and none is there."""
    if path.is_file():
        return f"{path} is a file, not a run folder; give the folder that `bbqrec run` made"
    return f"there is no run folder at {path}; `bbqrec run` makes one"


class RunFolder:
    """Paths, stage manifests and the lock of one version of a run, which it stays with.

    Args:
        root: what people call the run.
        version: 0 is what was trained first, in `root` itself; None the one that is current.
        directory: where that version lies.
    """

    def __init__(self, root: Path, version: int | None = None) -> None:
        self.root = root
        self.version = current_version(root) if version is None else version
        self.directory = root / VERSIONS / str(self.version) if self.version else root

    def folder(self, stage: str) -> Path:
        return self.directory / STAGE_FOLDERS[stage]

    @property
    def config_path(self) -> Path:
        return self.directory / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second writer out; the lock vanishes with the process that held it."""
        path = self.root / ".lock"
        is_new = not self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StorageError(
                f"cannot write in {self.root}: {getattr(error, 'strerror', error)}; give "
                "another folder as --out"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunBusyError(
                    f"another command is working in {self.root}; wait for it, or choose "
                    "another --out"
                ) from None
            try:
                yield
            finally:
                if is_new and not any(p != path for p in self.root.iterdir()):
                    shutil.rmtree(self.root, ignore_errors=True)  # a run that never began

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of a finished stage; CorruptArtifactError when there is none."""
        path = self.folder(stage) / "manifest.json"
        if not path.is_file():
            if not any((self.directory / name).exists() for name in STAGE_FOLDERS.values()):
                raise CorruptArtifactError(
                    f"{self.root} is not the folder of a run: it holds none of a run's parts; give "
                    "one that `bbqrec run` made, for example runs/demo"
                )
            raise CorruptArtifactError(
                f"{self.directory} has no finished `{stage}` stage; run `bbqrec {stage}` or "
                "`bbqrec run` first"
            )
        manifest = read_json(path)
        is_ours = isinstance(manifest, dict) and isinstance(manifest.get("sha256"), dict)
        if not is_ours or manifest.get("format_version") != FORMAT_VERSION:
            raise CorruptArtifactError(
                f"{path} is not a manifest of format version {FORMAT_VERSION}; was the run made "
                "by another version of bbqrec?"
            )
        return dict(manifest)

    def verify(self, stage: str, *, names: Collection[str] | None = None) -> dict[str, Any]:
        """The manifest, once its files (those in `names` if given) have been found unchanged."""
        manifest = self.manifest(stage)
        fault = self._fault(stage, manifest["sha256"], names)
        if fault is not None:
            # What an update made goes on from the version before; its stages cannot be run again.
            remedy = (
                f"go back to another version with `bbqrec versions {self.root} --use NUMBER`"
                if self.version and stage != "evaluate"
                else f"run `bbqrec {stage}` again"
            )
            raise CorruptArtifactError(f"{fault}; {remedy}")
        return manifest

    def fault(self, stage: str) -> str | None:
        """What is missing or damaged of a stage; None where it is as it was written."""
        path = self.folder(stage) / "manifest.json"
        if not path.is_file():
            return f"{path} is missing"
        try:
            return self._fault(stage, self.manifest(stage)["sha256"], None)
        except BBQRecError:
            return f"{path} is damaged"

    def _fault(
        self, stage: str, digests: Mapping[str, str], names: Collection[str] | None
    ) -> str | None:
        for name, digest in digests.items():
            if names is not None and name not in names:
                continue
            path = self.folder(stage) / name
            if not path.is_file():
                return f"{path} is missing"
            if sha256_file(path) != digest:
                return f"{path} is damaged (its SHA-256 is not the one in manifest.json)"
        return None

    def is_current(self, stage: str, key: str) -> bool:
        """Whether the stage is finished, undamaged and was made for `key`."""
        try:
            return bool(self.verify(stage).get("key") == key)
        except BBQRecError:
            return False

    def source(self) -> Source | None:
        """What the run was prepared from; None where that is not known (any more)."""
        try:
            kept = self.manifest("prepare").get("source")
            return None if kept is None else Source(Path(kept["path"]), kept["files"])
        except (BBQRecError, KeyError, TypeError):
            return None

    def model_version(self) -> str:
        """Twelve hex digits that name this state of catalog, semantic IDs and weights."""
        stages = ("prepare", "tokenize", "train")
        return sha256_json([self.manifest(stage)["sha256"] for stage in stages])[:12]

    @contextmanager
    def write_stage(
        self, stage: str, key: str, about: Mapping[str, Any] | None = None
    ) -> Iterator[Path]:
        """Yield an empty folder that becomes the stage's if the block succeeds.

        Args:
            about: further entries of the manifest.

        Raises StorageError where that would delete files that are not a stage's.
        """
        folder = self.folder(stage)
        if folder.exists() and not (folder / "manifest.json").is_file():
            raise StorageError(
                f"{folder} was not written by bbqrec (it has no manifest.json) and would be "
                "replaced; give another folder as --out, or move it away"
            )
        start = time.monotonic()
        with new_directory(folder) as directory:
            yield directory
            names = sorted(
                str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
            )
            write_json(
                directory / "manifest.json",
                {
                    "format_version": FORMAT_VERSION,
                    "stage": stage,
                    "key": key,
                    "seconds": round(time.monotonic() - start, 1),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    **(about or {}),
                    "sha256": {name: sha256_file(directory / name) for name in names},
                },
            )

    def dataset(self) -> Dataset:
        return Dataset.load(self.folder("prepare"))

    def features(self, dataset: Dataset) -> list[Features]:
        return load_features(self.folder("encode"), catalog_fingerprint=dataset.catalog_fingerprint)

    def semantic_ids(self) -> SemanticIds:
        return SemanticIds.load(self.folder("tokenize") / "semantic_ids.safetensors")

    def trained_semantic_ids(self) -> SemanticIds:
        """The run's semantic IDs, once they are known to be those the recommender learned."""
        ids = self.semantic_ids()
        trained_on = read_json(self.folder("train") / "model.json")["semantic_ids"]
        if ids.fingerprint != trained_on:
            raise SemanticIdError(
                f"{self.folder('tokenize')} holds other semantic IDs than {self.folder('train')} "
                f"was trained on; `bbqrec run --out {self.directory}` brings the run up to date"
            )
        return ids

    def tokenized(
        self, dataset: Dataset, features: list[Features]
    ) -> tuple[list[Features], Bool[Tensor, " item"]]:
        """Features of the items that the tokenizer was trained on, and which it knew by behavior.

        After an update these are the first of the catalog, and not what training knows now.
        """
        path = self.folder("tokenize") / TRAINED_ON_FILE
        if path.is_file():
            is_seen = read_tensors(path)["is_seen"]
        else:
            is_seen = torch.from_numpy(dataset.popularity() > 0)
        return [_first(f, len(is_seen)) for f in features], is_seen

    def built_for(self, features: list[Features]) -> list[Features]:
        """Features of the items that the recommender was built for before any update."""
        model = read_json(self.folder("train") / "model.json")
        return [_first(f, int(model.get("built_for", len(f.vectors)))) for f in features]

    def item_tables(self, dataset: Dataset, config: RecommenderConfig) -> ItemTables:
        """What a recommender of these settings reads of the catalog: IDs, content, likeness."""
        features = self.features(dataset)
        is_present = {f.modality: f.is_present for f in features}
        similarity = {f.modality: f.vectors for f in features}
        vectors = read_tensors(self.folder("tokenize") / "item_vectors.safetensors")
        if config.similarity.source == "aligned":
            similarity = {f.modality: vectors[f"aligned.{f.modality}"] for f in features}
        elif config.similarity.source == "quantized":
            similarity = {"quantized": vectors["quantized"]}
        everyone = torch.ones(dataset.num_items, dtype=torch.bool)
        content_dim = config.content_dim or max(1, dataset.num_items // ITEMS_PER_DIRECTION)
        whole = {f.modality: standardize(f) for f in features}
        return ItemTables(
            semantic_ids=self.semantic_ids(),
            content={f.modality: main_directions(f, content_dim) for f in features},
            is_present=is_present,
            similarity=similarity,
            similarity_present={name: is_present.get(name, everyone) for name in similarity},
            is_unseen=torch.from_numpy(dataset.popularity() == 0),
            neighbors=find_neighbors(dataset.train, dataset.num_items, whole, is_present, config),
        )


def _first(features: Features, num_items: int) -> Features:
    return replace(
        features,
        vectors=features.vectors[:num_items],
        is_present=features.is_present[:num_items],
    )


def current_version(root: Path) -> int:
    """The version of a run that commands and servers use unless told otherwise.

    Raises CorruptArtifactError when it is not there.
    """
    path = root / CURRENT_FILE
    if not path.is_file():
        return 0
    found = read_json(path)
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, int) or found.get("format_version") != FORMAT_VERSION:
        raise CorruptArtifactError(
            f"{path} does not name a version of the run; `bbqrec versions {root} --use NUMBER` does"
        )
    if version and not (root / VERSIONS / str(version)).is_dir():
        raise CorruptArtifactError(
            f"{path} names version {version}, which is not there; choose another with "
            f"`bbqrec versions {root} --use NUMBER`"
        )
    return version


def fingerprint(*parts: Config | dict[str, Any] | list[Any] | str | int) -> str:
    """SHA-256 of settings and inputs together: the key of a stage."""
    values = [
        orjson.loads(part.model_dump_json()) if isinstance(part, Config) else part for part in parts
    ]
    return sha256_json(values)
