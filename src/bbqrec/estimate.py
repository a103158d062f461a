"""What a run would cost: a few real steps are timed, the rest is multiplication."""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, prepare
from bbqrec.features import Features, default_encoders, standardize
from bbqrec.pipeline import STAGES, check_size
from bbqrec.recommender import ItemTables
from bbqrec.run_config import RunConfig
from bbqrec.semantic_ids import SemanticIds
from bbqrec.source import source_to_prepare
from bbqrec.stage_keys import kept_stages
from bbqrec.training.behavior_bound import BehaviorBoundRecipe
from bbqrec.training.loop import LoopConfig, Recipe, num_epochs, seconds_per_step
from bbqrec.training.recommender import make_recipe

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
    epoch is trained, so early stopping ends sooner.
    """
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
        vectors = torch.randn(dataset.num_items, dim)
        present = torch.ones(dataset.num_items, dtype=torch.bool)
        features.append(Features(modality, vectors, present, {}))
        rate = LOCAL_ITEMS_PER_S if encoder.encoder in LOCAL_DIMS else PRETRAINED_ITEMS_PER_S
        seconds["encode"] = seconds.get("encode", 0.0) + dataset.num_items / rate
    if config.tokenizer.method == "bbqrec" and "tokenize" not in kept:
        tokenizer = BehaviorBoundRecipe(
            features, dataset, config.tokenizer, seed=config.seed, device=torch.device(device)
        )
        seconds["tokenize"] = _training_time(
            tokenizer, LoopConfig(epochs=config.tokenizer.epochs, precision="fp32"), device
        )
    tables = _random_tables(dataset, features, config)
    recommender = make_recipe(
        dataset,
        tables,
        config.recommender,
        config.training,
        config.ranking,
        seed=config.seed,
        device=device,
    )
    start = time.monotonic()
    recommender.end_epoch(0)
    validation = time.monotonic() - start
    if "train" not in kept:
        num_validations = num_epochs(recommender, config.training) / config.training.validate_every
        training = _training_time(recommender, config.training, device)
        seconds["train"] = training + validation * num_validations
    # Validation and test, with the history kept and filtered.
    cases = 2 * (len(dataset.validation) + len(dataset.test))
    seconds["evaluate"] = validation * cases / config.training.validation_users
    seconds = {
        stage: 0.0 if stage in kept else seconds[stage]
        for stage in STAGES
        if stage in kept or stage in seconds
    }
    weights = sum(p.numel() for p in recommender.model.parameters()) * 4
    disk += sum(f.vectors.numel() * 4 for f in features) + 10 * weights
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    values: dict[str, Any] = {
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "kept": kept,
        "total_seconds": round(sum(seconds.values()), 1),
        "peak_memory_bytes": peak,
        "disk_bytes": disk,
    }
    return values, _table(values)


def _training_time(recipe: Recipe[Any], config: LoopConfig, device: str) -> float:
    seconds = seconds_per_step(recipe, config, device=torch.device(device))
    return seconds * recipe.num_batches(0) * num_epochs(recipe, config)


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
    table.add_row("all", f"{values['total_seconds'] / 60:,.1f} min")
    table.add_row("peak memory", f"{values['peak_memory_bytes'] / 2**30:.1f} GiB")
    table.add_row("disk", f"{values['disk_bytes'] / 2**20:,.0f} MiB")
    return table
