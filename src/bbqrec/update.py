"""A finished run and what came since -> its next version, beside it, switched to at the end.

Items keep their semantic IDs, new ones get free ones, the recommender goes on from its weights.
Everything is done in the next version's own folder, stage by stage as in `pipeline`; the run is
what it was until one small file says otherwise, so a kill at any moment leaves the old version.
"""

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bbqrec.bundle import TRAINED_ON_FILE, RunFolder, fingerprint
from bbqrec.data import Dataset, Found, PrepareConfig
from bbqrec.features import encode_more
from bbqrec.lineage import LINEAGE_FILE, PARTS, finished_versions, update_of, use_version
from bbqrec.new_items import NewItems, new_content
from bbqrec.news import News, read_news, settings_of, updatable
from bbqrec.prepared import set_aside
from bbqrec.recommend import Recommender
from bbqrec.recommender import (
    BEHAVIOR,
    TRANSITION,
    ItemTables,
    OnePassRecommender,
    RecommenderConfig,
    SequenceModel,
    build_recommender,
    catalog_from_weights,
    count_neighbors,
    take_out_transitions,
)
from bbqrec.report import write_report
from bbqrec.run_config import RunConfig
from bbqrec.source import source_fingerprint
from bbqrec.stage_keys import encode_key, evaluate_key, tokenize_key, train_key
from bbqrec.stages import (
    announce,
    check_size,
    evaluate_stage,
    write_model,
    write_tokens,
)
from bbqrec.storage import read_json, read_tensors, write_json, write_tensors
from bbqrec.training.recommender import fit_recommender
from bbqrec.training.tracking import tracked_by

logger = logging.getLogger(__name__)


class Updated(NamedTuple):
    """What came of it; `version` is None where nothing was new, and the run is as it was."""

    found: Found
    version: int | None


def update_run(
    root: Path,
    news: News,
    *,
    config: RunConfig | None = None,
    reading: PrepareConfig | None = None,
    device: str = "cpu",
    track: str = "none",
) -> Updated:
    """Make the next version of the run at `root` and let everybody use it.

    The same call continues after a kill; one that finds nothing new leaves the run as it is.

    Args:
        config: settings of the update; those of the run itself stay. None takes the run's.
        reading: how `news.source` is written, where that differs from the run's first data.
        track: where training's curves go, as `tracked_by` takes it, in the version's own folder.

    Raises:
        DataError: the new data break a rule.
        SemanticIdError: new items came, and the run's tokenizer has no semantic ID to give.
        CorruptArtifactError: the run is not finished, or damaged.
    """
    parent = updatable(root)
    with parent.locked():
        recommender = Recommender.load(parent)
        parent.verify("encode")
        settings = settings_of(parent, config)
        key = _key(parent, news, settings, reading or settings.prepare)
        last = finished_versions(root)[-1]
        done = RunFolder(root, last)
        made = update_of(done)
        if made is not None and made["key"] == key:  # cut short before the very last step
            if all(done.fault(stage) is None for stage in PARTS):
                use_version(root, last)
                return Updated(Found(**made["found"]), last)
            logger.info("version %d is damaged, making it once more beside it", last)
        run = RunFolder(root, last + 1)
        with tracked_by(track, run.directory, settings.model_dump(mode="json")):
            found = _grown(run, parent, news, settings, reading or settings.prepare, key)
            if not found.is_anything:
                shutil.rmtree(run.directory, ignore_errors=True)
                return Updated(found, None)
            logger.info("found %s", found.sentence())
            dataset = run.dataset()
            if (sentence := set_aside(run, dataset)) is not None:
                logger.warning("%s", sentence)
            write_json(run.config_path, settings.model_dump(mode="json"))
            check_size(dataset, settings)
            _encode(run, parent, settings, device)
            _tokenize(run, parent, recommender, settings)
            _train(run, parent, recommender, settings, device)
        if not run.is_current("evaluate", evaluate_key(run, settings)):
            evaluate_stage(run, settings, device)
        write_report(run)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        _sign(run)
        use_version(root, run.version)
        return Updated(found, run.version)


def _key(parent: RunFolder, news: News, config: RunConfig, reading: PrepareConfig) -> str:
    """What the next version is made of.

    What a server collects grows by the minute and is not in it: an update that was cut short goes
    on with what it had read, and the next one brings the rest.
    """
    return fingerprint(
        parent.model_version(),
        [
            None if news.source is None else source_fingerprint(news.source, parent),
            news.events_place,
            None if news.withdrawn is None else sorted(news.withdrawn),
        ],
        reading,
        config.prepare,
        config.update,
    )


def _grown(
    run: RunFolder,
    parent: RunFolder,
    news: News,
    config: RunConfig,
    reading: PrepareConfig,
    key: str,
) -> Found:
    about = update_of(run)
    if about is not None and about["key"] == key:
        found = Found(**about["found"])
        if found.is_anything and run.is_current("prepare", parent.manifest("prepare")["key"]):
            logger.info("going on with version %d, which was begun before", run.version)
            return found
    if run.directory.is_dir():
        shutil.rmtree(run.directory)  # begun with other data, and never finished
    held = parent.manifest("prepare")
    about = {
        "key": key,
        "parent": parent.version,
        "parent_identity": parent.model_version(),
        "data": None if news.source is None else str(news.source.resolve()),
        "events": _place_shown(news.events_place),
    }
    manifest = {"source": held.get("source"), "update": about}
    run.directory.mkdir(parents=True)
    with run.write_stage("prepare", held["key"], manifest) as directory:
        found = read_news(parent, news, config, reading, directory)
        about["found"] = found._asdict()
    return found


def _place_shown(place: str | None) -> str | None:
    """Without the password of a URL."""
    return "PostgreSQL" if place is not None and "://" in place else place


def _encode(run: RunFolder, parent: RunFolder, config: RunConfig, device: str) -> None:
    key = encode_key(run, config)
    if run.is_current("encode", key):
        return
    announce(run, "encode")
    dataset = run.dataset()
    with run.write_stage("encode", key) as directory:
        for known in parent.features(parent.dataset()):
            encode_more(
                known,
                parent.folder("encode"),
                run.folder("prepare"),
                dataset,
                config.encode.get(known.modality),
                directory,
                device=device,
            )


def _tokenize(
    run: RunFolder, parent: RunFolder, recommender: Recommender, config: RunConfig
) -> None:
    key = tokenize_key(run, config)
    if run.is_current("tokenize", key):
        return
    announce(run, "tokenize")
    dataset = run.dataset()
    old = parent.folder("tokenize")
    weights = read_tensors(old / "weights.safetensors")
    vectors = read_tensors(old / "item_vectors.safetensors")
    health = read_json(old / "health.json")
    known = parent.dataset()
    extended = _extended(run, parent, recommender, dataset)
    ids = extended.recommender.semantic_ids
    vectors = {
        name: torch.cat([table, extended.item_vectors[name]])
        if name in extended.item_vectors
        else table
        for name, table in vectors.items()
    }
    _, is_seen = parent.tokenized(known, parent.features(known))
    with run.write_stage("tokenize", key) as directory:
        write_tokens(directory, dataset, ids, vectors, weights, health)
        write_tensors(directory / TRAINED_ON_FILE, {"is_seen": is_seen})


class _Extended(NamedTuple):
    recommender: Recommender
    item_vectors: dict[str, Tensor]


def _extended(
    run: RunFolder, parent: RunFolder, recommender: Recommender, dataset: Dataset
) -> _Extended:
    """The parent's recommender, which knows the new items by their content."""
    num_known = recommender.dataset.num_items
    if num_known == dataset.num_items:
        return _Extended(recommender, {})
    content = new_content(run.features(dataset), num_known)
    new = slice(num_known, None)
    made, newcomers = NewItems(parent, recommender).take_in(
        dataset.item_ids[new], dataset.titles[new], content
    )
    return _Extended(made, newcomers.item_vectors)


def _train(
    run: RunFolder, parent: RunFolder, recommender: Recommender, config: RunConfig, device: str
) -> None:
    key = train_key(run, config)
    if run.is_current("train", key):
        return
    announce(run, "train")
    dataset = run.dataset()
    extended = _extended(run, parent, recommender, dataset).recommender
    model, tables = _refreshed(extended.model, dataset, config.recommender)
    training = config.training.model_copy(update=dict(config.update))
    checkpoints = run.checkpoints / f"train-{key[:16]}"
    aside: dict[str, float] = {}
    with run.write_stage("train", key, aside) as directory:
        fitted = fit_recommender(
            dataset,
            tables,
            config.recommender,
            training,
            config.ranking,
            seed=config.seed,
            device=device,
            work_dir=checkpoints,
            identity={"key": key},
            model=model,
        )
        # The first row, and epoch, is where it went on from.
        log = [{"epoch": 0, "step": 0, **fitted.fit.start}]
        log += [{**row, "epoch": row["epoch"] + 1} for row in fitted.fit.log]
        before = read_json(parent.folder("train") / "model.json")
        built_for = before.get("built_for", recommender.dataset.num_items)
        about = {"best_epoch": fitted.fit.best_epoch + 1, "built_for": built_for}
        write_model(directory, fitted, config, dataset, tables.semantic_ids, about)
        aside["peak_mb"] = max(fitted.fit.peak_mb)
        write_json(directory / "log.json", log)


def _refreshed(
    model: torch.nn.Module, dataset: Dataset, config: RecommenderConfig
) -> tuple[SequenceModel, ItemTables]:
    """The same weights over tables that know of the new interactions; and those tables."""
    state = model.state_dict()
    tables, edges = catalog_from_weights(state)
    neighbors = dict(tables.neighbors)
    if BEHAVIOR in neighbors:
        neighbors[BEHAVIOR] = count_neighbors(
            dataset.train, dataset.num_items, config.neighbors, neighbors[BEHAVIOR].edges
        )
    is_unseen = torch.from_numpy(dataset.popularity() == 0)
    tables = tables._replace(is_unseen=is_unseen, neighbors=neighbors)
    fresh = build_recommender(config, tables, edges)
    counted = ("catalog.is_unseen", "catalog.neighbor_")
    own = {name: x for name, x in fresh.state_dict().items() if name.startswith(counted)}
    fresh.load_state_dict({**state, **own})
    if TRANSITION in neighbors:  # found anew when the training is over
        assert isinstance(fresh, OnePassRecommender)
        take_out_transitions(fresh)
        kept = {kind: table for kind, table in neighbors.items() if kind != TRANSITION}
        tables = tables._replace(neighbors=kept)
    return fresh, tables


def _sign(run: RunFolder) -> None:
    """Say what the version is; with that it is finished."""
    about = update_of(run)
    assert about is not None
    del about["key"]
    model = read_json(run.folder("train") / "model.json")
    metrics = read_json(run.folder("evaluate") / "metrics.json")
    write_json(
        run.directory / LINEAGE_FILE,
        {
            "version": run.version,
            "identity": run.model_version(),
            "finished": run.manifest("evaluate")["finished"],
            **about,
            "epochs": len(read_json(run.folder("train") / "log.json")) - 1,
            "is_kept": model["best_epoch"] == 0,
            "changes": metrics.get("changes", {}),
        },
    )
