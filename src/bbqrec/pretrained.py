"""A run reduced to what recommending needs: to be copied, shared, and fetched from a model hub.

The folder has a fixed set of files, JSON and safetensors alone, each with its digest in one
manifest. From a hub these files are fetched and no others, all of one commit; nothing in them is
executed.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from bbqrec.bundle import RunFolder
from bbqrec.data import Cases, Dataset, Sequences
from bbqrec.errors import (
    BBQRecError,
    CorruptArtifactError,
    MissingDependencyError,
    RequestError,
    StorageError,
)
from bbqrec.evaluation import environment
from bbqrec.storage import (
    new_directory,
    read_bytes,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
)

MANIFEST = "bbqrec.json"
KIND = "bbqrec pretrained"
FORMAT_VERSION = 1
STAGE_FILES = {
    "prepare": ("dataset.json", "ids.json", "sequences.safetensors"),
    "tokenize": ("semantic_ids.safetensors",),
    "train": ("model.json", "model.safetensors"),
}
FOLDERS = RunFolder(Path(), 0)
FILES = frozenset(
    str(PurePosixPath(FOLDERS.folder(stage)) / name)
    for stage, names in STAGE_FILES.items()
    for name in (*names, "manifest.json")
)
KEPT_INFO = ("options", "statistics", "withdrawn")
_REPO_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)


def is_pretrained(folder: Path) -> bool:
    """Whether `save_pretrained` wrote the folder."""
    return (folder / MANIFEST).is_file()


def save_pretrained(run: RunFolder, to: Path, *, with_users: bool = False) -> None:
    """Write what recommending needs of a finished run into the folder `to`.

    Args:
        with_users: also write the users' ids and all that they did; without them the folder knows
            how often each item was taken, and no more of anybody.

    Raises:
        StorageError: `to` holds something else.
    """
    if to.exists() and not is_pretrained(to) and (to.is_file() or any(to.iterdir())):
        raise StorageError(
            f"{to} holds something else than a saved model and would be replaced; give another "
            "folder, or move it away"
        )
    dataset = run.dataset() if with_users else _without_users(run.dataset())
    with new_directory(to) as folder:
        saved = RunFolder(folder, 0)
        for stage, names in STAGE_FILES.items():
            key = str(run.verify(stage, names=names)["key"])
            with saved.write_stage(stage, key) as directory:
                if stage == "prepare":
                    dataset.save(directory)
                    continue
                for name in names:
                    source = run.folder(stage) / name
                    write_bytes(directory / name, read_bytes(source, max_bytes=2**40))
        run.trained_semantic_ids()  # stages of one run, not of two
        about = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "bbqrec": environment()["bbqrec"],
            "model_version": run.model_version(),
            "num_items": dataset.num_items,
            "with_users": with_users,
        }
        digests = {name: sha256_file(folder / name) for name in sorted(FILES)}
        write_json(folder / MANIFEST, {**about, "sha256": digests})
        write_bytes(folder / "README.md", _card(about).encode())


def verify_pretrained(folder: Path) -> dict[str, Any]:
    """The manifest, once the folder's files have been found to be those it names."""
    manifest = _read_manifest(folder / MANIFEST)
    for name, digest in manifest["sha256"].items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != digest:
            raise CorruptArtifactError(
                f"{path} is missing or damaged (its SHA-256 is not the one in {MANIFEST}); save or "
                "fetch the model again"
            )
    return manifest


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """The local folder of a model of the Hugging Face hub, downloaded if it is not here yet.

    Args:
        revision: a branch, tag or commit; a commit is pinned for good.

    Raises:
        RequestError: that is no name of a model, or the hub does not give it.
        CorruptArtifactError: the repository is not one that `save_pretrained` wrote.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise RequestError(
            f"{repo_id!r} is neither a folder here nor a model of the Hugging Face hub, whose "
            "names look like owner/name"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingDependencyError(
            f"there is no folder {repo_id}; a model of that name on the Hugging Face hub would "
            "need huggingface_hub: pip install 'bbqrec[hub]'"
        ) from None
    try:
        path = Path(hf_hub_download(repo_id, MANIFEST, revision=revision))
        manifest = _read_manifest(path)
        # By the library's layout the folder is named for the commit: what else is fetched must not
        # be of a later one.
        for name in sorted(manifest["sha256"]):
            hf_hub_download(repo_id, name, revision=path.parent.name)
    except BBQRecError:
        raise
    except Exception as error:  # the library raises OSError, ValueError, its own and httpx's
        _refuse(repo_id, revision, error)
    return path.parent


def _refuse(repo_id: str, revision: str | None, error: Exception) -> NoReturn:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    where = repo_id + (f" at revision {revision}" if revision else "")
    raise RequestError(
        f"there is no folder {repo_id} here, and the Hugging Face hub does not give the model "
        f"{where} ({type(error).__name__}: {reason[:160].rstrip('.')}); check the name, the "
        "revision and the network"
    ) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    is_ours = isinstance(manifest, dict) and manifest.get("kind") == KIND
    if not is_ours or manifest.get("format_version") != FORMAT_VERSION:
        raise CorruptArtifactError(
            f"{path} is not the manifest of a model saved in format {FORMAT_VERSION}; was it made "
            "by another version of bbqrec?"
        )
    digests = manifest.get("sha256")
    if not isinstance(digests, dict) or digests.keys() != FILES:
        named = sorted(map(str, digests)) if isinstance(digests, dict) else []
        wrong = next(iter(sorted(FILES.symmetric_difference(named))), "nothing")
        raise CorruptArtifactError(
            f"{path} must name exactly the {len(FILES)} files of a saved model, but {wrong} is "
            "missing or does not belong there"
        )
    return dict(manifest)


def _without_users(dataset: Dataset) -> Dataset:
    """The catalog alone. The one row of `train`, nobody's, has each item as often as it was taken
    and in order of number, since popular items answer where nothing is known."""
    items = np.repeat(np.arange(dataset.num_items, dtype=np.int32), dataset.popularity())
    nobody = Cases(
        np.zeros(0, dtype=np.int64),
        Sequences(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64)),
        np.zeros(0, dtype=np.int32),
    )
    return Dataset(
        user_ids=[],
        item_ids=dataset.item_ids,
        titles=dataset.titles,
        train=Sequences(items, np.array([0, len(items)], dtype=np.int64)),
        validation=nobody,
        test=nobody,
        is_cold=dataset.is_cold,
        info={name: dataset.info[name] for name in KEPT_INFO if name in dataset.info},
    )


def _card(about: dict[str, Any]) -> str:
    users = (
        "It holds the ids and histories of the users it was trained on: mind whose they are."
        if about["with_users"]
        else "It holds no user's id and nobody's history."
    )
    return f"""---
library_name: bbqrec
tags: [recommendation, sequential-recommendation, semantic-ids]
---

# A bbqrec recommender of {about["num_items"]:,} items

Model version {about["model_version"]}, saved by bbqrec {about["bbqrec"]}. {users}

```python
from bbqrec import Recommender

recommender = Recommender.from_pretrained("OWNER/NAME")  # or a folder; revision="..." pins a commit
print(recommender.recommend([["an item id", "another"]], k=10))
```

JSON and safetensors alone; `{MANIFEST}` has the SHA-256 of every file. Upload this folder with
`hf upload OWNER/NAME .`
"""
