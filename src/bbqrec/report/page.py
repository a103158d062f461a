"""A finished run -> report.html: one file that needs nothing else and runs no script."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, load_texts
from bbqrec.evaluation import Evaluation
from bbqrec.recommend import Recommender
from bbqrec.recommender import AGE_LABELS
from bbqrec.report.codes import example_item, show_levels, show_wall
from bbqrec.report.curves import heat_table, training_charts
from bbqrec.report.metrics import headline, metric_tables, overall_panels, slice_panels
from bbqrec.report.pictures import Pictures
from bbqrec.report.template import template
from bbqrec.report.users import sample_users
from bbqrec.storage import read_json, read_tensors, write_bytes

STAGES = ("prepare", "encode", "tokenize", "train", "evaluate")
NUM_HERO_CANDIDATES = 56  # twice what is shown: not every item has a picture


def write_report(run: RunFolder) -> None:
    """Write `report.html` into the run folder, from its finished stages.

    Raises:
        CorruptArtifactError: a stage is not finished, or a file of it is missing or damaged.
    """
    dataset = run.dataset()
    metrics = read_json(run.folder("evaluate") / "metrics.json")
    source = f"{run.folder('evaluate')}/metrics.json"
    evaluation = Evaluation.parse(metrics["test"], source=source)
    pictures = Pictures(run.folder("prepare"), dataset)
    content = {
        **_head(run, dataset, metrics, pictures),
        **_measured(evaluation),
        **_codes(run, dataset, pictures),
        **_learned(run),
        "users": sample_users(run, Recommender.load(run), pictures),
        "list_depth": _depth(evaluation),
    }
    # Last, when every section has said which items it shows: files are read in one pass.
    pictures.load()
    html = template(Path(__file__).parent, "page.html").render(content, pictures=pictures)
    write_bytes(run.directory / "report.html", html.encode())


def command(directory: Path, item_ids: list[str]) -> str:
    """A shell line that recommends after `item_ids`, whatever is in them."""
    here = Path.cwd()
    path = directory.resolve()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    is_plain = all("," not in item_id and item_id == item_id.strip() for item_id in item_ids)
    is_plain = is_plain and not item_ids[0].startswith(("[", "-"))
    history = ",".join(item_ids) if is_plain else orjson.dumps(item_ids).decode()
    return shlex.join(["bbqrec", "recommend", str(shown), "--history", history])


def _head(
    run: RunFolder, dataset: Dataset, metrics: dict[str, Any], pictures: Pictures
) -> dict[str, Any]:
    finished = datetime.fromisoformat(run.manifest("evaluate")["finished"])
    order = _by_code(run)
    step = max(1, len(order) // NUM_HERO_CANDIDATES)
    example = dataset.test.histories.row(0) if len(dataset.test) else dataset.train.items
    return {
        "source": str(dataset.info["source"]),
        "dataset": dataset,
        "statistics": dataset.info["statistics"],
        "warnings": dataset.info["warnings"],
        "finished": f"{finished.day} {finished:%B %Y}",
        "seed": metrics["seed"],
        "environment": metrics["environment"],
        "model": read_json(run.folder("train") / "model.json"),
        "seconds": {stage: run.manifest(stage)["seconds"] for stage in STAGES},
        "command": command(run.directory, [dataset.item_ids[item] for item in example[-2:]]),
        "hero": pictures.want(order[::step][:NUM_HERO_CANDIDATES]),
    }


def _by_code(run: RunFolder) -> list[int]:
    """All items in the order of their semantic IDs, so that neighbors are alike."""
    codes = run.semantic_ids().codes
    order = torch.arange(len(codes))
    for level in reversed(range(codes.shape[1])):
        order = order[codes[order, level].argsort(stable=True)]
    return [int(item) for item in order]


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "headlines": headline(evaluation),
        "panels": overall_panels(evaluation),
        "tables": metric_tables(evaluation),
        "slices": slice_panels(evaluation),
        "confidence": f"{evaluation.protocol['settings']['confidence']:.0%}",
    }


def _codes(run: RunFolder, dataset: Dataset, pictures: Pictures) -> dict[str, Any]:
    ids = run.trained_semantic_ids()
    return {
        "semantic_ids": ids,
        "health": read_json(run.folder("tokenize") / "health.json"),
        "example": example_item(ids, pictures),
        "levels": show_levels(ids),
        "wall_groups": show_wall(ids, _texts(run, dataset), pictures),
    }


def _texts(run: RunFolder, dataset: Dataset) -> list[str]:
    """Title and text of every item."""
    texts = load_texts(run.folder("prepare"))
    return [f"{title}\n{text or ''}" for title, text in zip(dataset.titles, texts, strict=True)]


def _learned(run: RunFolder) -> dict[str, Any]:
    folder = run.folder("train")
    labels = read_json(folder / "similarity.json")
    tables = read_tensors(folder / "similarity.safetensors") if labels else {}
    model = read_json(folder / "model.json")
    best_epoch = model["best_epoch"]
    # Where nothing was learned, nobody in training had an item that long ago.
    repeats = {age: value for age, value in model["repeat_bias"].items() if value}
    neighbors = read_tensors(folder / "neighbors.safetensors")
    return {
        "charts": training_charts(read_json(folder / "log.json"), best_epoch),
        "best_epoch": best_epoch + 1,
        "heat_tables": [heat_table(name, tables[name], labels[name]) for name in sorted(tables)],
        "repeats": repeats
        and heat_table("repeats", torch.tensor(list(repeats.values()))[:, None], list(repeats)),
        "neighbors": [
            heat_table(name, _learned_ages(table).T, _likeness(table.shape[1]))
            for name, table in neighbors.items()
        ],
        "ages": AGE_LABELS,
    }


def _learned_ages(table: Tensor) -> Tensor:
    """Without the ages of which nothing was learned: no history is that long."""
    is_learned = table.any(1).nonzero()
    return table[: int(is_learned.max()) + 1 if len(is_learned) else 1]


def _likeness(num_buckets: int) -> list[str]:
    labels = [str(number) for number in range(1, num_buckets + 1)]
    return ["1, least alike", *labels[1:-1], f"{num_buckets}, most alike"]


def _depth(evaluation: Evaluation) -> int:
    """How far down the lists the evaluation looked for the target."""
    names = evaluation.protocol["settings"]["metrics"]
    return max(int(name.partition("@")[2]) for name in names)
