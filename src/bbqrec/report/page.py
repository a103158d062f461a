"""A finished run -> report.html: one file that needs nothing else and runs no script."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import torch

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, Found
from bbqrec.evaluation import Evaluation
from bbqrec.lineage import update_of
from bbqrec.recommend import Recommender
from bbqrec.report.codes import example_item, show_wall
from bbqrec.report.facts import coded, item_texts, learned, measured
from bbqrec.report.pictures import Pictures
from bbqrec.report.template import template
from bbqrec.report.users import sample_users
from bbqrec.storage import read_json, write_bytes

STAGES = ("prepare", "encode", "tokenize", "train", "evaluate")
SHOWN_CHANGES = ("recall@10", "ndcg@10")
NUM_HERO_CANDIDATES = 56  # twice what is shown: not every item has a picture


def write_report(run: RunFolder) -> None:
    """Write `report.html` into the run folder, from its finished stages.

    Raises:
        CorruptArtifactError: a stage is not finished, or a file of it is missing or damaged.
    """
    dataset = run.dataset()
    metrics = read_json(run.folder("evaluate") / "metrics.json")
    scores = measured(run)
    pictures = Pictures(run.folder("prepare"), dataset)
    content = {
        **_head(run, dataset, metrics, pictures),
        **scores,
        **_codes(run, dataset, pictures),
        **learned(run),
        "users": sample_users(run, Recommender.load(run), pictures),
        "list_depth": _depth(scores["evaluation"]),
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
        "update": _update(run, metrics),
        "command": command(run.root, [dataset.item_ids[item] for item in example[-2:]]),
        "hero": pictures.want(order[::step][:NUM_HERO_CANDIDATES]),
    }


def _update(run: RunFolder, metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Where this version comes from, and what it is worth beside the one before."""
    about = update_of(run)
    if about is None:
        return None
    changes = metrics.get("changes", {}).get("test", {})
    rows = []
    for setting, sides in sorted(changes.items()):
        for name in SHOWN_CHANGES:
            if name in sides["after"]["metrics"]:
                means = [sides[side]["metrics"][name]["mean"] for side in ("before", "after")]
                rows.append((setting, name, *means, sides["after"]["difference"][name]))
    return {
        "version": run.version,
        "parent": about["parent"],
        "parent_identity": about["parent_identity"],
        "found": Found(**about["found"]).sentence(),
        "sources": [place for place in (about["data"], about["events"]) if place],
        "rows": rows,
    }


def _by_code(run: RunFolder) -> list[int]:
    """All items in the order of their semantic IDs, so that neighbors are alike."""
    codes = run.semantic_ids().codes
    order = torch.arange(len(codes))
    for level in reversed(range(codes.shape[1])):
        order = order[codes[order, level].argsort(stable=True)]
    return [int(item) for item in order]


def _codes(run: RunFolder, dataset: Dataset, pictures: Pictures) -> dict[str, Any]:
    codes = coded(run)
    ids = codes["semantic_ids"]
    return {
        **codes,
        "example": example_item(ids, pictures),
        "wall_groups": show_wall(ids, item_texts(run, dataset), pictures),
    }


def _depth(evaluation: Evaluation) -> int:
    """How far down the lists the evaluation looked for the target."""
    names = evaluation.protocol["settings"]["metrics"]
    return max(int(name.partition("@")[2]) for name in names)
