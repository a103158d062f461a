"""Write docs/results.md from finished runs: `python benchmarks/results.py runs/beauty runs/ml1m`.

Every number stands in a run's metrics.json; this only lays them out.
"""

import argparse
from pathlib import Path
from typing import Any

from bbqrec.evaluation import Evaluation, markdown_tables, score_ranks, signed_interval
from bbqrec.storage import read_json, read_tensors, write_bytes

HEAD = """# Results

Written by `python benchmarks/results.py {runs}` from the `metrics.json` of each run; every table
is one protocol (docs/method.md): leave-one-out by time, all items as candidates, both settings of
the history filter, 95 % bootstrap intervals over users, the difference to item-kNN as a paired
interval. item-kNN is tuned on validation, for each data set anew.
"""


def describe(run: Path, note: str) -> str:
    """One run: its command, what it ran on, and its tables."""
    metrics: dict[str, Any] = read_json(run / "metrics.json")
    health = read_json(run / "tokenizer" / "health.json")
    manifest = read_json(run / "evaluation" / "manifest.json")
    model = read_json(run / "recommender" / "model.json")
    about = metrics["environment"]
    wall = metrics["wall_s"]
    lines = [
        f"## {run.name}",
        f"`bbqrec run configs/{run.name}.toml --data DATA --out runs/{run.name}`",
        f"Seed {metrics['seed']}, finished {manifest['finished'][:10]}, {about_line(about)}.",
        f"Wall time in seconds{note}: "
        + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in wall.items())
        + f"; together {sum(wall.values()) / 60:.0f} minutes.",
        f"{model['num_parameters']:,} parameters; best epoch {model['best_epoch'] + 1}; item-kNN "
        + ", ".join(f"{name} {value}" for name, value in metrics["item_knn"].items())
        + ".",
        f"Semantic IDs: collision rate before reassignment {health['collision_rate']:.4f}, codes "
        f"used per level {health['codes_used']}, adjusted mutual information of the first level "
        + ", ".join(f"with {name} {value:.2f}" for name, value in health["information"].items())
        + ".",
    ]
    for split in ("test", "validation"):
        evaluation = Evaluation.parse(metrics[split])
        tables = markdown_tables(evaluation)
        lines += [f"### {run.name}: {split}", tables if split == "test" else brief(evaluation)]
    return "\n\n".join(lines)


def compare(runs: list[Path]) -> list[str]:
    """Runs on the same data against each other, user by user, on the test."""
    by_data: dict[str, list[Path]] = {}
    for run in runs:
        data = read_json(run / "metrics.json")["test"]["protocol"]["dataset"]
        by_data.setdefault(data, []).append(run)
    lines = []
    for first, *others in by_data.values():
        for other in others:
            lines += [f"## {first.name} against {other.name}", "| test | recall@10 | ndcg@10 |"]
            lines[-1] += "\n| --- | --- | --- |"
            for setting in ("kept", "filtered"):
                ranks = {
                    run.name: read_tensors(run / "evaluation" / "test_ranks.safetensors")[
                        f"BBQRec.{setting}"
                    ].numpy()
                    for run in (first, other)
                }
                found = score_ranks(ranks, ("recall@10", "ndcg@10"), reference=other.name)
                cells = map(signed_interval, found[first.name].difference.values())
                lines[-1] += f"\n| {setting} | {' | '.join(cells)} |"
    return lines


def about_line(about: dict[str, Any]) -> str:
    """The environment in a few words."""
    names = ("cpu", "device", "threads", "python", "torch")
    return ", ".join(f"{name} {about[name]}" for name in names if name in about)


def brief(evaluation: Evaluation) -> str:
    """Recall@10 and NDCG@10 of every model, both settings."""
    rows = ["| model | kept | filtered |", "| --- | --- | --- |"]
    for name, settings in evaluation.models.items():
        cells = []
        for setting in ("kept", "filtered"):
            found = settings[setting].overall.metrics
            cells.append(f"{found['recall@10'].mean:.4f} / {found['ndcg@10'].mean:.4f}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "Recall@10 / NDCG@10:\n\n" + "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--note", help="what else the machine did, said beside the wall times")
    arguments = parser.parse_args()
    note = f" ({arguments.note})" if arguments.note else ""
    names = " ".join(str(run) for run in arguments.runs)
    parts = [HEAD.format(runs=names), *(describe(run, note) for run in arguments.runs)]
    compared = "\n\n".join(compare(arguments.runs))
    write_bytes(arguments.out, ("\n".join(parts).rstrip() + "\n\n" + compared + "\n").encode())


if __name__ == "__main__":
    main()
