"""Everything that is exported, in one folder that appears only when all of it is right."""

import io
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bbqrec import __version__
from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, write_lcrec, write_semantic_ids
from bbqrec.decoding import BothRanker, DenseRanker
from bbqrec.errors import CorruptArtifactError, MissingDependencyError, StorageError
from bbqrec.export.graph_files import GraphFile, write_graphs
from bbqrec.export.guide import guide
from bbqrec.export.onnx_check import Agreement, check_graphs
from bbqrec.recommend import Recommender
from bbqrec.recommender import OnePassRecommender, SequenceModel, dense_tables
from bbqrec.semantic_ids import PAD_TOKEN
from bbqrec.storage import (
    new_directory,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
)

KIND = "bbqrec export"
FORMAT_VERSION = 1
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
LCREC_NAME = "bbqrec"

logger = logging.getLogger(__name__)


class ExportSummary(NamedTuple):
    """What was written; `agreement` is None where no graphs were asked for."""

    folder: Path
    model_version: str
    files: list[str]
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        values = self._asdict() | {"folder": str(self.folder)}
        return values | {"agreement": self.agreement and self.agreement._asdict()}


def export_run(
    run_dir: Path,
    to: Path,
    *,
    with_graphs: bool = True,
    with_histories: bool = False,
    forgotten: Collection[str] = (),
) -> ExportSummary:
    """Write the graphs, vectors and semantic IDs of a run into the folder `to`.

    Args:
        with_graphs: False writes semantic IDs alone, which needs no further library.
        with_histories: also hand over what users did, for projects that train on the same data.
        forgotten: users, by `bbqrec.data.hash_user`, whose histories are not handed over.

    Raises:
        MissingDependencyError: graphs were asked for and a library for them is not installed.
        ExportError: an exported graph does not compute what the model does.
        StorageError: `to` holds something else.
    """
    if with_graphs:
        _require_libraries()
        logger.info("exporting, and comparing every graph with the model: a minute or two ...")
    _refuse_to_replace(to)
    run = RunFolder(run_dir)
    recommender = Recommender.load(run)
    version = run.model_version()
    dataset, ids = recommender.dataset, recommender.semantic_ids
    graph_files: list[GraphFile] = []
    agreement = None
    with new_directory(to) as folder:
        write_semantic_ids(folder / "semantic_ids.parquet", dataset.item_ids, ids)
        write_lcrec(
            folder / "lcrec",
            LCREC_NAME,
            dataset,
            ids,
            with_histories=with_histories,
            forgotten=forgotten,
        )
        if with_graphs:
            model = recommender.model
            assert isinstance(model, SequenceModel)
            write_json(folder / "items.json", _items(dataset, recommender))
            boost = _new_item_boost(recommender)
            if isinstance(model, OnePassRecommender):
                _write_vectors(folder, model, boost)
            graph_files = write_graphs(folder, model, new_item_boost=boost)
            agreement = check_graphs(folder, graph_files, recommender)
        about = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "bbqrec": __version__,
            "model_version": version,
            "num_items": len(ids),
            "codebook_sizes": list(ids.codebook_sizes),
            "level_offsets": ids.level_offsets.tolist(),
            "start_token": PAD_TOKEN,
            **(_about_model(run, recommender) if with_graphs else {}),
            "graphs": {graph.name: graph.to_json() for graph in graph_files},
            "agreement": agreement and agreement._asdict(),
        }
        write_bytes(folder / "README.md", guide(about, folder).encode())
        names = _names(folder)
        digests = {name: sha256_file(folder / name) for name in names}
        write_json(folder / "manifest.json", {**about, "sha256": digests})
    return ExportSummary(to, version, [*names, "manifest.json"], agreement)


def _require_libraries() -> None:
    for name in LIBRARIES:
        try:
            __import__(name)
        except ImportError:
            raise MissingDependencyError(
                f"exporting graphs needs {name}: pip install 'bbqrec[export]'; semantic IDs alone "
                "are written without it: --only-ids"
            ) from None


def _refuse_to_replace(to: Path) -> None:
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    try:
        is_ours = read_json(to / "manifest.json").get("kind") == KIND
    except (CorruptArtifactError, AttributeError):
        is_ours = False
    if not is_ours:
        raise StorageError(
            f"{to} holds something else than an export and would be replaced; give another folder "
            "as --to, or move it away"
        )


def _items(dataset: Dataset, recommender: Recommender) -> dict[str, Any]:
    """What items are called, by item number, and their codes for whoever reads no Parquet."""
    return {
        "item_ids": dataset.item_ids,
        "titles": dataset.titles,
        "codes": recommender.semantic_ids.codes.tolist(),
    }


def _about_model(run: RunFolder, recommender: Recommender) -> dict[str, Any]:
    settings = read_json(run.folder("train") / "model.json")
    model = recommender.model
    assert isinstance(model, SequenceModel)
    return {
        "form": settings["recommender"]["form"],
        "max_history": model.max_history,
        "ranking": settings["ranking"],
    }


def _new_item_boost(recommender: Recommender) -> float:
    ranker = recommender.ranker
    return ranker.new_item_boost if isinstance(ranker, DenseRanker | BothRanker) else 0.0


def _write_vectors(folder: Path, model: OnePassRecommender, new_item_boost: float) -> None:
    with torch.no_grad():
        vectors = model.output_table().numpy()
        added = dense_tables(model, new_item_boost=new_item_boost)
        tables = {name: table.numpy() for name, table in added.items()}
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    write_bytes(folder / "item_vectors.npy", buffer.getvalue())
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **tables)  # type: ignore[arg-type]  # of numpy's own stub
    write_bytes(folder / "dense_tables.npz", buffer.getvalue())


def _names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
