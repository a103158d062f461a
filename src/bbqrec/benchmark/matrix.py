"""Make the cells of a benchmark that are not there yet."""

import logging
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bbqrec.benchmark.cells import SPLITS, Cell, CellStore, Lists, made_with, relevant_settings
from bbqrec.benchmark.config import BenchmarkConfig, CellKey, PartsRunConfig, slug
from bbqrec.benchmark.controls import keep_own_vectors, keep_shuffled
from bbqrec.bundle import STAGE_FOLDERS, RunFolder
from bbqrec.data import Dataset, draw_shop
from bbqrec.decoding import MergedRanker
from bbqrec.errors import BBQRecError, ConfigError, DataError, RunBusyError
from bbqrec.evaluation import Evaluation, environment, evaluate
from bbqrec.pipeline import run_stages
from bbqrec.ranking import Ranker
from bbqrec.recommend import Recommender
from bbqrec.recommender import fit_popularity, tune_content_knn, tune_item_knn
from bbqrec.run_config import RunConfig
from bbqrec.storage import new_directory, read_json

logger = logging.getLogger(__name__)

# What a stage depends on, in the settings of a run.
_SHARED = {
    "prepare": ("prepare",),
    "encode": ("prepare", "encode"),
    "tokenize": ("prepare", "encode", "tokenizer", "semantic_ids", "seed"),
}

# The last stage that a row needs of its run as its settings are.
_UNTIL = {"model": "train", "shuffled": "tokenize", "content_knn": "encode"}

Made = tuple[Ranker, dict[str, Any]]
"""A row's ranker and the facts that its cell keeps."""


def run_benchmark(
    config: BenchmarkConfig,
    *,
    data_dir: Path | None,
    out_dir: Path,
    work_dir: Path,
    device: str = "cpu",
    only: tuple[str, ...] = (),
    on: tuple[str, ...] = (),
) -> list[CellKey]:
    """Make what is missing below `out_dir`/cells; the cells that could not be made now.

    Run folders with the trained models stay in `work_dir`. A second process on the same folders
    makes other cells at the same time.

    Args:
        data_dir: where the data sets' folders are; None suffices where no cell is missing.
        only: rows to make; empty is all.
        on: data sets to make them on; empty is all.

    Raises:
        BBQRecError: settings of a cell are wrong, or its data cannot be used.
    """
    if unknown := set(only) - set(config.rows):
        raise ConfigError(
            f"this benchmark has no row {min(unknown)!r}; its rows are {', '.join(config.rows)}"
        )
    if unknown := set(on) - set(config.data):
        raise ConfigError(
            f"this benchmark has no data set {min(unknown)!r}; it has {', '.join(config.data)}"
        )
    keys = [
        key
        for key in config.cells()
        if (not only or key.row in only) and (not on or key.data in on)
    ]
    if not keys:
        raise ConfigError(f"no row of {', '.join(only)} is made on {', '.join(on)}; see its data")
    configs = {key: config.run_config(key) for key in keys}  # all checked before any is made
    missing = [key for key in keys if not _is_made(config, key, configs[key], out_dir)]
    logger.info("%d of %d cells are there already", len(keys) - len(missing), len(keys))
    # All before any is made: a folder that is missing shows at once, not after hours.
    names = sorted({key.data for key in missing}, key=lambda name: config.data[name].folder is None)
    sources = {name: _source(config, name, data_dir, work_dir) for name in names}
    skipped = []
    for number, key in enumerate(missing, start=1):
        if _is_made(config, key, configs[key], out_dir):  # by another process in the meantime
            continue
        logger.info("cell %d of %d: %s", number, len(missing), key)
        source = sources[key.data]
        run = RunFolder(work_dir / slug(key.data) / key.name)
        try:
            _make(config.rows[key.row].kind, key, configs[key], run, source, out_dir, device)
        except RunBusyError:
            logger.info("%s is being made by another process", key)
            skipped.append(key)
    return skipped


def _is_made(config: BenchmarkConfig, key: CellKey, settings: RunConfig, out_dir: Path) -> bool:
    cell = CellStore(out_dir / "cells", key.data).load(key)
    return cell is not None and made_with(cell, config.rows[key.row].kind, settings)


def _source(config: BenchmarkConfig, data: str, data_dir: Path | None, work_dir: Path) -> Path:
    data_set = config.data[data]
    if data_set.folder is not None:
        if data_dir is None:
            raise DataError(
                f"cells of {data} are missing and need its data; give the folder that holds "
                f"{data_set.folder} as --data"
            )
        source = data_dir / data_set.folder
        if not source.exists():
            raise DataError(f"{source} is missing; give the folder that holds it as --data")
        return source
    shop = work_dir / f"shop-{data_set.shop_seed}"
    if not shop.exists():
        with new_directory(shop) as directory:
            draw_shop(directory, seed=data_set.shop_seed)
    return shop


def _make(
    kind: str,
    key: CellKey,
    config: RunConfig,
    run: RunFolder,
    source: Path,
    out_dir: Path,
    device: str,
) -> None:
    def bring_up(wanted: RunFolder, settings: RunConfig, until: str) -> None:
        share_stages(wanted, settings)
        run_stages(wanted, settings, source=source, device=device, until=until)

    def parts() -> dict[str, RunFolder]:
        assert isinstance(config, PartsRunConfig)
        folders = {
            name: RunFolder(run.directory.with_name(key._replace(row=name).name))
            for name in config.parts
        }
        for name, folder in folders.items():
            bring_up(folder, config.parts[name], "train")
        return folders

    def control(changes: dict[str, str]) -> Made:
        controlled = RunFolder(run.directory.with_name(f"{run.directory.name}-control"))
        settings = RunConfig.model_validate(config.model_dump(exclude={"parts"}) | changes)
        bring_up(controlled, settings, "train")
        return _trained(controlled, device)

    bring_up(run, config, _UNTIL.get(kind, "prepare"))
    dataset = run.dataset()
    rankers: dict[str, Callable[[], Made]] = {
        "popularity": lambda: (fit_popularity(dataset), {}),
        "item_knn": lambda: _item_knn(dataset, config.seed),
        "content_knn": lambda: _content_knn(run, dataset, config.seed),
        "model": lambda: _trained(run, device),
        "shuffled": lambda: control({"semantic_ids": keep_shuffled(run, config.seed)}),
        "warm_start": lambda: control({"item_vectors": keep_own_vectors(run, *parts().values())}),
        "merged": lambda: _merged(config, dataset.num_items, parts(), device),
    }
    ranker, facts = rankers[kind]()
    evaluations = {
        split: evaluate(
            {key.row: ranker}, getattr(dataset, split), dataset, config.evaluation, split=split
        )
        for split in SPLITS
    }
    cell = Cell(
        row=key.row,
        kind=kind,
        seed=key.seed,
        dataset=dataset.fingerprint,
        settings=relevant_settings(kind, config),
        environment=environment(device),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=facts,
        lists={
            f"{split}.{setting}": _lists(evaluation, key.row, setting)
            for split, evaluation in evaluations.items()
            for setting in evaluation.models[key.row]
        },
    )
    store = CellStore(out_dir / "cells", key.data)
    store.save_cases(dataset, config.evaluation)
    store.save(key, cell, evaluations)


def _item_knn(dataset: Dataset, seed: int) -> Made:
    item_knn = tune_item_knn(dataset, seed=seed)
    return item_knn, {"chosen": item_knn.config.model_dump(mode="json")}


def _content_knn(run: RunFolder, dataset: Dataset, seed: int) -> Made:
    content_knn = tune_content_knn(dataset, run.features(dataset), seed=seed)
    return content_knn, {"chosen": content_knn.config.model_dump(mode="json")}


def _merged(config: RunConfig, num_items: int, of_parts: dict[str, RunFolder], device: str) -> Made:
    """Lists are as long as the widest beam of the parts; costs are the sums of theirs."""
    assert isinstance(config, PartsRunConfig)
    made = {name: _trained(folder, device) for name, folder in of_parts.items()}
    length = max(settings.ranking.beam_width for settings in config.parts.values())
    ranker = MergedRanker(tuple(ranker for ranker, _ in made.values()), num_items, length)
    parts = {name: facts for name, (_, facts) in made.items()}
    return ranker, {
        "num_parameters": sum(facts["num_parameters"] for facts in parts.values()),
        "seconds": {
            stage: sum(facts["seconds"][stage] for facts in parts.values())
            for stage in ("tokenize", "train")
        },
        "parts": parts,
    }


def _trained(run: RunFolder, device: str) -> Made:
    model = read_json(run.folder("train") / "model.json")
    health = read_json(run.folder("tokenize") / "health.json")
    facts = {
        "num_parameters": model["num_parameters"],
        "best_epoch": model["best_epoch"],
        "repeat_bias": model["repeat_bias"],
        "semantic_ids": health,
        "seconds": {s: run.manifest(s)["seconds"] for s in ("encode", "tokenize", "train")},
    }
    return Recommender.load(run, device=device).ranker, facts


def _lists(evaluation: Evaluation, name: str, setting: str) -> Lists:
    result = evaluation.models[name][setting]
    return Lists(
        coverage=result.coverage,
        novelty_bits=result.novelty_bits,
        filled=result.filled,
        users_per_s=round(evaluation.num_cases / max(result.wall_s, 1e-9), 1),
    )


def share_stages(run: RunFolder, config: RunConfig) -> None:
    """Take over stages that a neighboring run made of the same settings.

    Files are linked, not copied: a stage's files are replaced as a whole, never changed.
    """
    wanted = config.model_dump(mode="json")
    for stage, sections in _SHARED.items():
        if run.folder(stage).exists():
            continue
        for neighbor in sorted(run.directory.parent.glob("*/config.json")):
            other = RunFolder(neighbor.parent)
            try:
                made = read_json(neighbor)
                other.manifest(stage)
            except BBQRecError:
                continue
            if all(made.get(name) == wanted[name] for name in sections):
                with new_directory(run.folder(stage)) as directory:
                    shutil.copytree(
                        other.directory / STAGE_FOLDERS[stage],
                        directory,
                        copy_function=os.link,
                        dirs_exist_ok=True,
                    )
                break
