"""What a run would cost: a few real steps are timed, the rest is multiplication."""

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, PrepareConfig, prepare
from bbqrec.features import Features, default_encoders, standardize
from bbqrec.news import News, read_news, settings_of, updatable
from bbqrec.pipeline import STAGES
from bbqrec.recommender import ItemTables
from bbqrec.run_config import RunConfig
from bbqrec.semantic_ids import SemanticIds
from bbqrec.source import source_to_prepare
from bbqrec.stage_keys import keep_version, kept_stages
from bbqrec.stages import check_size
from bbqrec.training.behavior_bound import BehaviorBoundRecipe
from bbqrec.training.loop import Recipe, num_epochs, num_steps, seconds_per_step
from bbqrec.training.memory import peak_memory_bytes
from bbqrec.training.recommender import make_recipe
from bbqrec.training.schedule import LoopConfig

LOCAL_DIMS = {"lexical": 256, "visual": 128}
PRETRAINED_DIM = 768
PRETRAINED_ITEMS_PER_S = 30.0
LOCAL_ITEMS_PER_S = 300.0


def estimate(
    run: RunFolder, config: RunConfig, *, source: Path | None, device: str = "cpu"
) -> tuple[dict[str, Any], Table]:
    """Seconds per stage, peak memory and disk of a run, and a table of them.

    Stages that the run keeps cost nothing. Data to prepare are prepared in a temporary folder to
    count them; features are random numbers of the right shape. Training times assume that every
    epoch is trained, so early stopping ends sooner. What the run would refuse is refused here.
    """
    keep_version(run, config)
    source = source_to_prepare(run, config.prepare, source)
    kept = kept_stages(run, config) if source is None else []
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        data = run.folder("prepare") if source is None else Path(folder)
        dataset = Dataset.load(data) if source is None else prepare(source, data, config.prepare)
        check_size(dataset, config)
        seconds = {"prepare": time.monotonic() - start}
        encoders = config.encode or default_encoders(data)
        disk = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    features = []
    for modality, encoder in encoders.items():
        dim = encoder.dim or LOCAL_DIMS.get(encoder.encoder, PRETRAINED_DIM)
        features.append(_random_features(modality, dataset.num_items, dim))
        rate = LOCAL_ITEMS_PER_S if encoder.encoder in LOCAL_DIMS else PRETRAINED_ITEMS_PER_S
        seconds["encode"] = seconds.get("encode", 0.0) + dataset.num_items / rate
    if config.tokenizer.method == "bbqrec" and "tokenize" not in kept:
        tokenizer = BehaviorBoundRecipe(
            features, dataset, config.tokenizer, seed=config.seed, device=torch.device(device)
        )
        seconds["tokenize"] = _training_time(
            tokenizer,
            LoopConfig(epochs=config.tokenizer.epochs, precision=config.tokenizer.precision),
            device,
        )
    cost = _recommender_cost(dataset, features, config, device)
    if "train" not in kept:
        seconds["train"] = cost.training_s
    # Validation and test, with the history kept and filtered.
    cases = 2 * (len(dataset.validation) + len(dataset.test))
    seconds["evaluate"] = cost.validation_s * cases / config.training.validation_users
    seconds = {
        stage: 0.0 if stage in kept else seconds[stage]
        for stage in STAGES
        if stage in kept or stage in seconds
    }
    disk += sum(f.vectors.numel() * 4 for f in features) + 10 * cost.weight_bytes
    return _values(seconds, kept, disk)


def estimate_update(
    root: Path, news: News, *, config: RunConfig, reading: PrepareConfig, device: str = "cpu"
) -> tuple[dict[str, Any], RenderableType]:
    """The same for an update, and what it would find; the run stays as it is.

    Raises:
        BBQRecError: as the update itself would.
    """
    parent = updatable(root)
    settings = settings_of(parent, config)
    known = parent.dataset()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        found = read_news(parent, news, settings, reading, Path(folder))
        sentence = f"found {found.sentence()}"
        if not found.is_anything:
            about = {"found": found._asdict(), "total_seconds": 0.0}
            return about, Text(f"{sentence}: nothing new, so {root} would stay as it is")
        dataset = Dataset.load(Path(folder))
        check_size(dataset, settings)
        seconds = {"prepare": time.monotonic() - start}
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    features = []
    num_new = dataset.num_items - known.num_items  # withdrawn ones, too
    for f in parent.features(known):
        rate = LOCAL_ITEMS_PER_S if f.identity["encoder"] in LOCAL_DIMS else PRETRAINED_ITEMS_PER_S
        seconds["encode"] = seconds.get("encode", 0.0) + num_new / rate
        features.append(_random_features(f.modality, dataset.num_items, f.dim))
    changes = {**dict(settings.update), "additions_after": 0.0}  # the model knows them already
    training = settings.training.model_copy(update=changes)
    settings = settings.model_copy(update={"training": training})
    cost = _recommender_cost(dataset, features, settings, device)
    seconds["train"] = cost.training_s
    # Validation and test, with the history kept and filtered, of the version before as well.
    cases = 4 * (len(dataset.validation) + len(dataset.test))
    seconds["evaluate"] = cost.validation_s * cases / training.validation_users
    disk += sum(f.vectors.numel() * 4 for f in features) + 10 * cost.weight_bytes
    values, table = _values(seconds, [], disk)
    return {"found": found._asdict(), **values}, Group(Text(sentence), table)


class _Cost(NamedTuple):
    """What training the recommender takes, and one validation."""

    training_s: float
    validation_s: float
    weight_bytes: int


def _recommender_cost(
    dataset: Dataset, features: list[Features], config: RunConfig, device: str
) -> _Cost:
    recipe = make_recipe(
        dataset,
        _random_tables(dataset, features, config),
        config.recommender,
        config.training,
        config.ranking,
        seed=config.seed,
        device=device,
    )
    start = time.monotonic()
    recipe.end_epoch(0)
    validation = time.monotonic() - start
    num_validations = num_epochs(recipe, config.training) / config.training.validate_every
    training = _training_time(recipe, config.training, device) + validation * num_validations
    weights = sum(p.numel() for p in recipe.model.parameters()) * 4
    return _Cost(training, validation, weights)


def _random_features(modality: str, num_items: int, dim: int) -> Features:
    present = torch.ones(num_items, dtype=torch.bool)
    return Features(modality, torch.randn(num_items, dim), present, {})


def _values(seconds: dict[str, float], kept: list[str], disk: int) -> tuple[dict[str, Any], Table]:
    values: dict[str, Any] = {
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "kept": kept,
        "total_seconds": round(sum(seconds.values()), 1),
        "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
        "disk_bytes": disk,
    }
    return values, _table(values)


def _training_time(recipe: Recipe[Any], config: LoopConfig, device: str) -> float:
    seconds = seconds_per_step(recipe, config, device=torch.device(device))
    return seconds * num_steps(recipe, config, 0) * num_epochs(recipe, config)


def _random_tables(dataset: Dataset, features: list[Features], config: RunConfig) -> ItemTables:
    sizes = config.tokenizer.codebook_sizes
    codes = torch.stack([torch.randint(size, (dataset.num_items,)) for size in sizes], 1)
    present = {f.modality: f.is_present for f in features}
    vectors = {f.modality: standardize(f) for f in features}
    unseen = torch.from_numpy(dataset.popularity() == 0)
    return ItemTables(SemanticIds(codes, sizes), vectors, present, vectors, present, unseen)


def _table(values: dict[str, Any]) -> Table:
    table = Table(title="estimate on this machine", title_justify="left")
    table.add_column("stage")
    table.add_column("time", justify="right")
    for stage, seconds in values["seconds"].items():
        table.add_row(stage, "kept" if stage in values["kept"] else f"{seconds:,.0f} s")
    table.add_section()
    total = values["total_seconds"]
    table.add_row("all", f"{total:,.0f} s" if total < 100 else f"{total / 60:,.1f} min")
    table.add_row("peak memory", f"{values['peak_memory_bytes'] / 2**30:.1f} GiB")
    table.add_row("disk", f"{values['disk_bytes'] / 2**20:,.0f} MiB")
    return table
