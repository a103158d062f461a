"""Finished cells as small files: where every user's target stood, and how it was made.

A cell is kept as long as every setting it was made with still has the same value, so a benchmark
continues on a new machine and a new row costs only itself. The files hold no user ids.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bbqrec.benchmark.config import TRAINED, CellKey, PartsRunConfig, slug
from bbqrec.config import Config
from bbqrec.data import Dataset
from bbqrec.errors import CorruptArtifactError
from bbqrec.evaluation import Evaluation, EvaluationConfig, count_repeat_targets, slice_cases
from bbqrec.run_config import RunConfig
from bbqrec.storage import read_bytes, read_json, write_bytes, write_json

MAX_BYTES = 64 * 2**20
SPLITS = ("validation", "test")
Arrays = dict[str, NDArray[np.uint8]]


class Lists(Config):
    """What a model's lists were like under one setting of the history filter."""

    coverage: float
    novelty_bits: float
    filled: float
    users_per_s: float


class Cell(Config):
    """One model on one data set with one seed.

    Args:
        dataset: fingerprint of the prepared data; cells of one table share it.
        facts: parameters, best epoch, seconds of the stages and the like, by name.
        lists: "validation.kept" and so on -> what the lists were like.
    """

    row: str
    kind: str
    seed: int
    dataset: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    finished: str
    facts: dict[str, Any]
    lists: dict[str, Lists]


class CellStore:
    """The folder `cells/DATA` of one data set."""

    def __init__(self, directory: Path, data: str) -> None:
        self.directory = directory / slug(data)

    def save(self, key: CellKey, cell: Cell, evaluations: Mapping[str, Evaluation]) -> None:
        """Keep a finished cell; the ranks are those of its only model in each evaluation."""
        ranks = {
            f"{split}.{setting}": ranks
            for split, evaluation in evaluations.items()
            for setting, ranks in next(iter(evaluation.ranks.values())).items()
        }
        _write_arrays(self._arrays_path(key), ranks)
        write_json(self._path(key), cell.model_dump(mode="json"))

    def load(self, key: CellKey) -> Cell | None:
        """The cell, or None where it has not been made; CorruptArtifactError if damaged."""
        path = self._path(key)
        if not (path.is_file() and self._arrays_path(key).is_file()):
            return None
        return Cell.parse(read_json(path), source=str(path))

    def ranks(self, key: CellKey) -> Arrays:
        """`validation.kept` and so on -> rank of each case's target, 0 where it was not listed."""
        return _read_arrays(self._arrays_path(key))

    def save_cases(self, dataset: Dataset, config: EvaluationConfig) -> None:
        """Keep what tables need of the data set: which cases belong to which slice."""
        bands = [config.popularity_bands, *config.history_edges]
        path = self.directory / "cases.json"
        if path.is_file():
            kept = self.cases()
            if kept["dataset"] == dataset.fingerprint and kept["bands"] == bands:
                return
        arrays: dict[str, NDArray[np.int64]] = {}
        info: dict[str, Any] = {
            "dataset": dataset.fingerprint,
            "bands": bands,
            "num_items": dataset.num_items,
            "statistics": dataset.info["statistics"],
        }
        for split in SPLITS:
            cases = getattr(dataset, split)
            slices = slice_cases(
                cases,
                dataset,
                popularity_bands=config.popularity_bands,
                history_edges=config.history_edges,
            )
            info[split] = {
                "num_repeat_targets": count_repeat_targets(cases),
                "labels": {kind: list(groups) for kind, groups in slices.items()},
            }
            for kind, groups in slices.items():
                column = np.zeros(len(cases), np.int64)
                for number, rows in enumerate(groups.values()):
                    column[rows] = number
                arrays[f"{split}.{kind}"] = column
        _write_arrays(self.directory / "cases.npz", arrays)
        write_json(path, info)

    def cases(self) -> dict[str, Any]:
        """What `save_cases` kept of the data set besides the slices."""
        return dict(read_json(self.directory / "cases.json"))

    def slices(self, split: str) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Rows of the split's cases by kind of slice, then by label."""
        labels = self.cases()[split]["labels"]
        columns = _read_arrays(self.directory / "cases.npz")
        return {
            kind: {
                name: np.flatnonzero(columns[f"{split}.{kind}"] == number)
                for number, name in enumerate(names)
            }
            for kind, names in labels.items()
        }

    def _path(self, key: CellKey) -> Path:
        return self.directory / f"{key.name}.json"

    def _arrays_path(self, key: CellKey) -> Path:
        return self.directory / f"{key.name}.npz"


def made_with(cell: Cell, kind: str, config: RunConfig) -> bool:
    """Whether `cell` is what these settings would make.

    A setting that did not exist when the cell was made must be at its default now: new settings
    begin as what was always done.
    """
    if cell.kind != kind:
        return False
    default = RunConfig()
    if isinstance(config, PartsRunConfig):
        default = PartsRunConfig(parts={name: RunConfig() for name in config.parts})
    stored = _read_by_model(cell.settings) if kind in TRAINED else cell.settings
    return _agrees(stored, relevant_settings(kind, config), relevant_settings(kind, default))


def relevant_settings(kind: str, config: RunConfig) -> dict[str, Any]:
    """The settings that a row of this kind depends on, with those of the rows it is `of`."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude={"parts"})
    if kind in TRAINED:
        kept = _read_by_model(settings)
    else:
        names = ["seed", "prepare", "evaluation", *(["encode"] if kind == "content_knn" else [])]
        kept = {name: settings[name] for name in names}
    if isinstance(config, PartsRunConfig):
        kept["parts"] = {
            name: relevant_settings("model", part) for name, part in config.parts.items()
        }
    return kept


def _read_by_model(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without those that say nothing about a row's model.

    Those are of a run's own report and its updates, and of the decoder where nothing writes codes.
    """
    read = {k: v for k, v in settings.items() if k not in ("compare", "update")}
    ranks_by, weight = settings["ranking"]["rank_by"], settings["training"]["generative_weight"]
    if ranks_by != "dense" or weight > 0:
        return read
    unread = {"decoder", "num_decoder_layers", "normalize"}
    kept = {k: v for k, v in settings["recommender"].items() if k not in unread}
    return {**read, "recommender": kept}


def _agrees(stored: Any, current: Any, default: Any) -> bool:
    if not (isinstance(stored, dict) and isinstance(current, dict) and isinstance(default, dict)):
        return bool(stored == current)
    if stored.keys() - current.keys():
        return False
    return all(
        _agrees(stored[name], value, default.get(name))
        if name in stored
        else name in default and value == default[name]
        for name, value in current.items()
    )


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    buffer = BytesIO()
    small = {name: array.astype(np.uint8) for name, array in arrays.items()}
    for name, array in arrays.items():
        assert np.array_equal(small[name], array), f"{name} does not fit in a byte"
    np.savez_compressed(buffer, allow_pickle=False, **small)
    write_bytes(path, buffer.getvalue())


def _read_arrays(path: Path) -> Arrays:
    try:
        with np.load(BytesIO(read_bytes(path, max_bytes=MAX_BYTES)), allow_pickle=False) as file:
            return {name: np.asarray(file[name], np.uint8) for name in file.files}
    except (ValueError, BadZipFile, EOFError, OSError) as error:
        raise CorruptArtifactError(
            f"{path} is damaged ({error}); delete it and its .json, and the cell is made again"
        ) from None
