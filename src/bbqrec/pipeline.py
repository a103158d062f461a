"""The stages in order, with cached results: raw data to recommendations in one call."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from bbqrec.bundle import RunFolder, fingerprint
from bbqrec.config import read_toml
from bbqrec.data import (
    Dataset,
    draw_shop,
    prepare,
    read_semantic_ids,
    vectors_of,
)
from bbqrec.errors import ConfigError, FeatureError, StorageError
from bbqrec.features import default_encoders, encode
from bbqrec.prepared import prepared_sentence, set_aside
from bbqrec.report import write_report
from bbqrec.run_config import RunConfig
from bbqrec.source import source_fingerprint, source_to_prepare
from bbqrec.stage_keys import encode_key, keep_version, tokenize_key, train_key
from bbqrec.stages import (
    TRUTH,
    announce,
    check_size,
    evaluate_stage,
    is_done,
    write_model,
    write_tokens,
)
from bbqrec.storage import (
    new_directory,
    read_json,
    write_json,
)
from bbqrec.training.recommender import StartVectors, fit_recommender
from bbqrec.training.tokenizer import fit_tokenizer
from bbqrec.training.tracking import tracked_by

logger = logging.getLogger(__name__)

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
        BBQRecError: of the stage that cannot be done; earlier stages stay finished. What would
            do a stage of an updated version again is refused before any.
    """
    with run.locked():
        keep_version(run, config)
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
    keep_version(RunFolder(out), config)  # before the shop it was made from is drawn anew
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
    if not is_done(run, "encode", key):
        with run.write_stage("encode", key) as directory:
            cache = run.checkpoints / "encode"
            encode(data, run.dataset(), encoders, directory, device=device, cache_dir=cache)


def _tokenize(run: RunFolder, config: RunConfig, device: str) -> None:
    key = tokenize_key(run, config)
    if is_done(run, "tokenize", key):
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


def _train(run: RunFolder, config: RunConfig, device: str) -> None:
    key = train_key(run, config)
    if is_done(run, "train", key):
        return
    dataset = run.dataset()
    tables = run.item_tables(dataset, config.recommender)
    checkpoints = run.checkpoints / f"train-{key[:16]}"
    # Beside the model, not in it: the files of a repeated training are the same, byte by byte.
    aside: dict[str, float] = {}
    with run.write_stage("train", key, aside) as directory:
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
        write_model(directory, fitted, config, dataset, tables.semantic_ids, about)
        aside["peak_mb"] = max(fitted.fit.peak_mb)
        write_json(directory / "log.json", fitted.fit.log)
    shutil.rmtree(checkpoints, ignore_errors=True)
