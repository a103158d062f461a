"""The stages in order, with cached results: raw data to recommendations in one call."""

import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bbqrec.bundle import RunFolder, fingerprint
from bbqrec.config import read_toml
from bbqrec.data import (
    Dataset,
    Oracle,
    draw_shop,
    prepare,
    read_semantic_ids,
    vectors_of,
    write_semantic_ids,
)
from bbqrec.decoding import make_ranker
from bbqrec.errors import ConfigError, DataError, FeatureError, StorageError
from bbqrec.evaluation import Evaluation, EvaluationConfig, environment, evaluate, score_ranks
from bbqrec.features import default_encoders, encode
from bbqrec.new_items import ranker_before
from bbqrec.prepared import prepared_sentence, set_aside
from bbqrec.ranking import Ranker
from bbqrec.recommend import Recommender
from bbqrec.recommender import SequenceModel, fit_popularity, tune_item_knn
from bbqrec.report import write_report
from bbqrec.run_config import RunConfig
from bbqrec.semantic_ids import SemanticIds
from bbqrec.source import source_fingerprint, source_to_prepare
from bbqrec.stage_keys import content_digests, encode_key, evaluate_key, tokenize_key, train_key
from bbqrec.storage import (
    new_directory,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
    write_tensors,
)
from bbqrec.training.recommender import StartVectors, fit_recommender
from bbqrec.training.tokenizer import fit_tokenizer
from bbqrec.training.tracking import tracked_by

logger = logging.getLogger(__name__)

VALIDATION_DEPTH = 10  # while training
BEFORE = "before the update"
TRUTH = ("truth.json", "truth.safetensors")
STAGES = ("prepare", "encode", "tokenize", "train", "evaluate", "report")


def choose_device(name: str) -> str:
    """`auto` is CUDA where there is one; asking for an absent CUDA is an error."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise ConfigError(f"--device {name}: there are cpu, cuda, cuda:NUMBER and auto")
    if name != "cpu" and torch.cuda.device_count() <= int(match[1] or 0):
        raise ConfigError(
            f"--device {name}: torch finds {torch.cuda.device_count() or 'no'} CUDA device; use "
            "--device cpu or auto"
        )
    return name


def run_stages(
    run: RunFolder,
    config: RunConfig,
    *,
    source: Path | None,
    device: str = "cpu",
    until: str = "report",
) -> None:
    """Bring every stage up to `until` up to date.

    Args:
        source: raw data or a dataset folder; None continues from the run's prepared data.

    Raises:
        BBQRecError: of the stage that cannot be done; earlier stages stay finished.
    """
    with run.locked():
        steps: dict[str, Callable[[], None]] = {
            "prepare": lambda: _prepare(run, config, source, until),
            "encode": lambda: _encode(run, config, device),
            "tokenize": lambda: _tokenize(run, config, device),
            "train": lambda: _train(run, config, device),
            "evaluate": lambda: evaluate_stage(run, config, device),
            "report": lambda: write_report(run),
        }
        for stage in STAGES[: STAGES.index(until) + 1]:
            steps[stage]()


def run_demo(out: Path, *, seed: int, device: str = "cpu", track: str = "none") -> None:
    """Draw the shop of `seed` into `out`/shop and run every stage on it, beside the oracle.

    Args:
        track: where training's curves go, as `tracked_by` takes it.
    """
    config = RunConfig.parse({**read_toml(find_config("demo")), "seed": seed}, source="demo.toml")
    shop = out / "shop"
    with tracked_by(track, out, config.model_dump(mode="json")):
        _draw(shop, seed)
        run_stages(RunFolder(out), config, source=shop, device=device)


def _draw(shop: Path, seed: int) -> None:
    drawn = shop / "drawn.json"
    if drawn.is_file() and read_json(drawn) == {"seed": seed}:
        return
    logger.info("drawing the shop of seed %d", seed)
    if shop.exists() and not drawn.is_file():
        raise StorageError(
            f"{shop} was not drawn by bbqrec and would be replaced; give another folder as "
            "--out, or move it away"
        )
    with new_directory(shop) as directory:
        draw_shop(directory, seed=seed)
        write_json(directory / "drawn.json", {"seed": seed})


def find_config(name: str) -> Path:
    """A settings file that comes with the package, in an installation or a checkout."""
    installed = Path(__file__).parent / "configs" / f"{name}.toml"
    checkout = Path(__file__).parents[2] / "configs" / f"{name}.toml"
    return installed if installed.is_file() else checkout


def _is_done(run: RunFolder, stage: str, key: str) -> bool:
    if run.is_current(stage, key):
        logger.info("%s: unchanged, kept", stage)
        return True
    announce(run, stage)
    return False


def announce(run: RunFolder, stage: str) -> None:
    if run.folder(stage).exists():
        logger.info("%s: out of date or damaged, doing it again ...", stage)
    else:
        logger.info("%s: not done yet, doing it now ...", stage)


def _prepare(run: RunFolder, config: RunConfig, source: Path | None, until: str) -> None:
    source = source_to_prepare(run, config.prepare, source)
    if source is None:
        logger.info("prepare: unchanged, kept")
    else:
        announce(run, "prepare")
        files = source_fingerprint(source, run)
        about = {"source": {"path": str(source.resolve()), "files": files}}
        key = fingerprint(files, config.prepare)
        with run.write_stage("prepare", key, about) as directory:
            prepare(source, directory, config.prepare)
            if (source / "drawn.json").is_file():  # what the oracle knows of a drawn shop
                for name in TRUTH:
                    shutil.copyfile(source / name, directory / name)
        dataset = run.dataset()
        logger.info("%s", prepared_sentence(dataset))
        if (sentence := set_aside(run, dataset)) is not None:
            logger.warning("%s", sentence)
    # Not before: settings under which nothing could be prepared are not those of this run.
    write_json(run.config_path, config.model_dump(mode="json"))
    if STAGES.index(until) >= STAGES.index("train"):
        check_size(run.dataset(), config)
        start_vectors(config, run.dataset())


def check_size(dataset: Dataset, config: RunConfig) -> None:
    """DataError where there is too little to train and evaluate, before hours are spent on it."""
    remedy = "lower prepare.min_item and prepare.min_user, or bring more data"
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


def start_vectors(config: RunConfig, dataset: Dataset) -> StartVectors | None:
    """What `item_vectors` names, for the recommender; FeatureError where it does not fit."""
    if config.item_vectors is None:
        return None
    path = Path(config.item_vectors)
    items, vectors, _ = vectors_of(path, dataset.item_ids)
    if vectors.shape[1] != config.recommender.d_model:
        raise FeatureError(
            f"{path} has vectors of {vectors.shape[1]} numbers, but items' own vectors have "
            f"recommender.d_model = {config.recommender.d_model}; make the two equal"
        )
    return StartVectors(torch.tensor(items), torch.from_numpy(vectors))


def _encode(run: RunFolder, config: RunConfig, device: str) -> None:
    data = run.folder("prepare")
    encoders = config.encode or default_encoders(data)
    key = encode_key(run, config)
    if not _is_done(run, "encode", key):
        with run.write_stage("encode", key) as directory:
            cache = run.checkpoints / "encode"
            encode(data, run.dataset(), encoders, directory, device=device, cache_dir=cache)


def _tokenize(run: RunFolder, config: RunConfig, device: str) -> None:
    key = tokenize_key(run, config)
    if _is_done(run, "tokenize", key):
        return
    dataset = run.dataset()
    if config.semantic_ids is not None:
        with run.write_stage("tokenize", key) as directory:
            ids = read_semantic_ids(Path(config.semantic_ids), dataset.item_ids)
            write_tokens(directory, dataset, ids, {}, {}, {"collision_rate": ids.collision_rate})
        return
    checkpoints = run.checkpoints / f"tokenize-{key[:16]}"
    with run.write_stage("tokenize", key) as directory:
        fitted = fit_tokenizer(
            run.features(dataset),
            dataset,
            config.tokenizer,
            seed=config.seed,
            device=device,
            work_dir=checkpoints,
        )
        write_tokens(directory, dataset, *fitted)
    shutil.rmtree(checkpoints, ignore_errors=True)


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


def _train(run: RunFolder, config: RunConfig, device: str) -> None:
    key = train_key(run, config)
    if _is_done(run, "train", key):
        return
    dataset = run.dataset()
    tables = run.item_tables(dataset, config.recommender)
    checkpoints = run.checkpoints / f"train-{key[:16]}"
    with run.write_stage("train", key) as directory:
        fitted = fit_recommender(
            dataset,
            tables,
            config.recommender,
            config.training,
            config.ranking,
            seed=config.seed,
            device=device,
            work_dir=checkpoints,
            identity={"key": key},
            start=start_vectors(config, dataset),
        )
        about = {"best_epoch": fitted.fit.best_epoch, "built_for": dataset.num_items}
        write_model(directory, fitted.model, config, dataset, tables.semantic_ids, about)
        write_json(directory / "log.json", fitted.fit.log)
    shutil.rmtree(checkpoints, ignore_errors=True)


def write_model(
    directory: Path,
    model: SequenceModel,
    config: RunConfig,
    dataset: Dataset,
    ids: SemanticIds,
    about: Mapping[str, Any],
) -> None:
    """The files of a trained recommender but its log."""
    model = model.cpu()
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
            "writes_codes": config.recommender.form == "paper"
            or config.training.generative_weight > 0,
            "environment": environment(),
            **about,
        },
    )


def evaluate_stage(run: RunFolder, config: RunConfig, device: str) -> None:
    """Measure the recommender beside the baselines and, after an update, the version before."""
    key = evaluate_key(run, config)
    if _is_done(run, "evaluate", key):
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
            "environment": environment(),
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
