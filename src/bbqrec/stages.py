"""What stages of a run and of its updates share: when one is done, its files, its measure."""

import logging
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, Oracle, write_semantic_ids
from bbqrec.decoding import make_ranker
from bbqrec.errors import DataError
from bbqrec.evaluation import Evaluation, EvaluationConfig, environment, evaluate, score_ranks
from bbqrec.new_items import ranker_before
from bbqrec.ranking import Ranker
from bbqrec.recommend import Recommender
from bbqrec.recommender import fit_popularity, tune_item_knn
from bbqrec.run_config import RunConfig
from bbqrec.semantic_ids import SemanticIds
from bbqrec.stage_keys import content_digests, evaluate_key
from bbqrec.storage import read_bytes, write_bytes, write_json, write_tensors
from bbqrec.training.recommender import FittedRecommender

logger = logging.getLogger(__name__)

VALIDATION_DEPTH = 10  # while training
BEFORE = "before the update"
TRUTH = ("truth.json", "truth.safetensors")


def is_done(run: RunFolder, stage: str, key: str) -> bool:
    """Whether a stage may stay as it is; says so, or that and why it is done now."""
    if run.is_current(stage, key):
        logger.info("%s: unchanged, kept", stage)
        return True
    announce(run, stage)
    return False


def announce(run: RunFolder, stage: str) -> None:
    """Say that a stage is done now, and why it was not kept."""
    if not run.folder(stage).exists():
        logger.info("%s: not done yet, doing it now ...", stage)
    elif run.fault(stage) is not None:
        logger.info("%s: damaged, doing it again ...", stage)
    else:
        logger.info("%s: settings or data changed, doing it again ...", stage)


def check_size(dataset: Dataset, config: RunConfig) -> None:
    """DataError where there is too little to train and evaluate, before hours are spent on it."""
    options, remedy = config.prepare, "bring more data"
    if options.min_item > 1 or options.min_user > 1:
        remedy = f"lower prepare.min_item and prepare.min_user, or {remedy}"
    if dataset.num_items < VALIDATION_DEPTH:
        raise DataError(
            f"the prepared data hold {dataset.num_items} items, but training is validated on lists "
            f"of {VALIDATION_DEPTH}; {remedy}"
        )
    if dataset.num_items < config.evaluation.depth:
        raise DataError(
            f"the prepared data hold {dataset.num_items} items, but evaluation lists "
            f"{config.evaluation.depth}; {remedy}, or list fewer: "
            """--set 'evaluation.metrics=["recall@10","ndcg@10"]'"""
        )
    for name, cases in (("validation", dataset.validation), ("test", dataset.test)):
        if not len(cases):
            raise DataError(
                f"the prepared data hold no {name} case, so nothing can be evaluated: under "
                f"prepare.split = {config.prepare.split!r} no user has enough interactions (three "
                "for leave_one_out); bring more data or choose another split"
            )


def write_tokens(
    directory: Path,
    dataset: Dataset,
    ids: SemanticIds,
    item_vectors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    health: dict[str, Any],
) -> None:
    """The files of a finished tokenize stage."""
    ids.save(directory / "semantic_ids.safetensors")
    if find_spec("polars"):
        write_semantic_ids(directory / "semantic_ids.parquet", dataset.item_ids, ids)
    else:
        logger.warning("polars is not installed, so semantic_ids.parquet is not written")
    write_tensors(directory / "weights.safetensors", weights)
    write_tensors(directory / "item_vectors.safetensors", item_vectors)
    write_json(directory / "health.json", health)


def write_model(
    directory: Path,
    fitted: FittedRecommender,
    config: RunConfig,
    dataset: Dataset,
    ids: SemanticIds,
    about: Mapping[str, Any],
) -> None:
    """The files of a trained recommender but its log."""
    device = next(fitted.model.parameters()).device
    model, chosen = fitted.model.cpu(), fitted.transitions
    write_tensors(directory / "model.safetensors", model.state_dict())
    similarity = {name: table.detach() for name, table in model.similarity_tables().items()}
    write_tensors(directory / "similarity.safetensors", similarity)
    write_json(directory / "similarity.json", model.similarity_labels())
    write_tensors(directory / "neighbors.safetensors", model.learned_neighbors())
    write_json(
        directory / "model.json",
        {
            "recommender": config.recommender.model_dump(mode="json"),
            "ranking": config.ranking.model_dump(mode="json"),
            "catalog": dataset.catalog_fingerprint,
            "semantic_ids": ids.fingerprint,
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "repeat_bias": model.learned_repeats(),
            "transitions": None if chosen is None else chosen._asdict(),
            "writes_codes": config.recommender.form == "paper"
            or config.training.generative_weight > 0,
            "environment": environment(device),
            **about,
        },
    )


def evaluate_stage(run: RunFolder, config: RunConfig, device: str) -> None:
    """Measure the recommender beside the baselines and, after an update, the version before."""
    key = evaluate_key(run, config)
    if is_done(run, "evaluate", key):
        _copy_metrics(run)
        return
    dataset = run.dataset()
    recommender = Recommender.load(run, device=device)
    start = time.monotonic()
    with run.write_stage("evaluate", key) as directory:
        item_knn = tune_item_knn(dataset, seed=config.seed)
        rankers: dict[str, Ranker] = {
            "popularity": fit_popularity(dataset),
            "item-kNN": item_knn,
            "BBQRec": recommender.ranker,
        }
        for rank_by in config.compare:
            ranking = config.ranking.model_copy(update={"rank_by": rank_by})
            rankers[f"BBQRec, {rank_by}"] = make_ranker(
                recommender.model, recommender.semantic_ids, ranking, device=device
            )
        if (run.folder("prepare") / TRUTH[0]).is_file():
            rankers["oracle"] = Oracle.load(run.folder("prepare"), dataset.item_ids)
        before = ranker_before(run, dataset, device=device)
        if before is not None:
            rankers[BEFORE] = before
        metrics: dict[str, Any] = {
            "seed": config.seed,
            "environment": environment(device),
            "item_knn": item_knn.config.model_dump(mode="json"),
            "config": config.model_dump(mode="json"),
            "content": content_digests(run),
        }
        for split, cases in (("validation", dataset.validation), ("test", dataset.test)):
            evaluation = evaluate(
                rankers, cases, dataset, config.evaluation, reference="item-kNN", split=split
            )
            metrics[split] = evaluation.to_json()
            if before is not None:
                changes = metrics.setdefault("changes", {})
                changes[split] = _changes(evaluation, config.evaluation)
            write_tensors(
                directory / f"{split}_ranks.safetensors",
                {
                    f"{name}.{setting}": torch.from_numpy(ranks)
                    for name, by_setting in evaluation.ranks.items()
                    for setting, ranks in by_setting.items()
                },
            )
        metrics["wall_s"] = {
            stage: run.manifest(stage)["seconds"]
            for stage in ("prepare", "encode", "tokenize", "train")
        } | {"evaluate": round(time.monotonic() - start, 1)}
        write_json(directory / "metrics.json", metrics)
    _copy_metrics(run)


def _changes(evaluation: Evaluation, config: EvaluationConfig) -> dict[str, Any]:
    """Both versions' metrics on the same cases, and their paired difference."""
    scores = {
        setting: score_ranks(
            {"before": evaluation.ranks[BEFORE][setting], "after": ranks},
            config.metrics,
            reference="before",
            num_bootstrap=config.num_bootstrap,
            confidence=config.confidence,
            seed=config.seed,
        )
        for setting, ranks in evaluation.ranks["BBQRec"].items()
    }
    return {
        setting: {name: score.model_dump(mode="json") for name, score in by_name.items()}
        for setting, by_name in scores.items()
    }


def _copy_metrics(run: RunFolder) -> None:
    """Where people look for them; the stage's folder holds the original."""
    content = read_bytes(run.folder("evaluate") / "metrics.json")
    write_bytes(run.directory / "metrics.json", content)
