"""What is known of a finished run: the facts that the report and the server's page both show."""

from typing import Any

import torch
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset, load_texts
from bbqrec.evaluation import Evaluation
from bbqrec.recommender import AGE_LABELS
from bbqrec.report.buckets import neighbor_buckets, similarity_buckets
from bbqrec.report.codes import show_levels
from bbqrec.report.curves import HeatTable, heat_table, training_charts
from bbqrec.report.metrics import headline, metric_tables, overall_panels, slice_panels
from bbqrec.storage import read_json, read_tensors

# Borders of buckets of likeness, among the weights of a model.
SIMILARITY_EDGES = "catalog.edges."
NEIGHBOR_EDGES = "catalog.neighbor_edges."


def measured(run: RunFolder) -> dict[str, Any]:
    """Metrics with intervals on the test split, overall and by slice.

    Raises CorruptArtifactError where the run was not evaluated.
    """
    run.manifest("evaluate")
    path = run.folder("evaluate") / "metrics.json"
    evaluation = Evaluation.parse(read_json(path)["test"], source=str(path))
    return {
        "evaluation": evaluation,
        "headlines": headline(evaluation),
        "panels": overall_panels(evaluation),
        "tables": metric_tables(evaluation),
        "slices": slice_panels(evaluation),
        "confidence": f"{evaluation.protocol['settings']['confidence']:.0%}",
    }


def coded(run: RunFolder) -> dict[str, Any]:
    """The semantic IDs: how their codes are used, and their health."""
    ids = run.trained_semantic_ids()
    return {
        "semantic_ids": ids,
        "levels": show_levels(ids),
        "health": read_json(run.folder("tokenize") / "health.json"),
    }


def item_texts(run: RunFolder, dataset: Dataset) -> list[str]:
    """Title and text of every item."""
    texts = load_texts(run.folder("prepare"))
    return [f"{title}\n{text or ''}" for title, text in zip(dataset.titles, texts, strict=True)]


def learned(run: RunFolder) -> dict[str, Any]:
    """Training curves, and what the recommender's small tables came to say."""
    folder = run.folder("train")
    labels = read_json(folder / "similarity.json")
    tables = read_tensors(folder / "similarity.safetensors") if labels else {}
    model = read_json(folder / "model.json")
    best_epoch = model["best_epoch"]
    # Where nothing was learned, nobody in training had an item that long ago.
    repeats = {age: value for age, value in model["repeat_bias"].items() if value}
    neighbors = read_tensors(folder / "neighbors.safetensors")
    weights = folder / "model.safetensors"
    edges = read_tensors(weights, prefix=SIMILARITY_EDGES)
    edges |= read_tensors(weights, prefix=NEIGHBOR_EDGES)
    return {
        "charts": training_charts(read_json(folder / "log.json"), best_epoch),
        "best_epoch": best_epoch + 1,
        "heat_tables": [
            _similarity(name, tables[name], labels[name], edges[SIMILARITY_EDGES + name])
            for name in sorted(tables)
        ],
        "repeats": repeats
        and heat_table("repeats", torch.tensor(list(repeats.values()))[:, None], list(repeats)),
        "neighbors": [_neighbors(name, table, edges) for name, table in neighbors.items()],
        "ages": AGE_LABELS,
    }


def _similarity(name: str, table: Tensor, labels: list[str], edges: Tensor) -> HeatTable:
    rows, shown = similarity_buckets(labels, edges)
    return heat_table(name, table[rows], shown)


def _neighbors(name: str, table: Tensor, edges: dict[str, Tensor]) -> HeatTable:
    modality, _, _ = name.partition(",")  # a table for unseen items has the same buckets
    rows, shown = neighbor_buckets(table.shape[1], edges.get(NEIGHBOR_EDGES + modality))
    return heat_table(name, _learned_ages(table).T[rows], shown)


def _learned_ages(table: Tensor) -> Tensor:
    """Without the ages of which nothing was learned: no history is that long."""
    is_learned = table.any(1).nonzero()
    return table[: int(is_learned.max()) + 1 if len(is_learned) else 1]
