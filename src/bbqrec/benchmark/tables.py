"""Finished cells -> NAME.md and NAME.html, every row against the reference."""

from datetime import UTC, datetime
from pathlib import Path

import orjson

from bbqrec.benchmark.collected import DataSetTables, collect
from bbqrec.benchmark.config import BenchmarkConfig
from bbqrec.benchmark.page import render_page
from bbqrec.errors import DataError
from bbqrec.evaluation import SETTING_TITLES, markdown_slices, markdown_table, signed_interval
from bbqrec.storage import read_bytes, write_bytes

METRICS = ("recall@10", "ndcg@10")
REVEALED = "revealed.jsonl"


def write_tables(
    config: BenchmarkConfig, *, name: str, command: str, out_dir: Path, final: bool
) -> tuple[Path, list[DataSetTables]]:
    """Write `out_dir`/NAME.md, and NAME.html beside it to look at, from the cells that are there.

    Args:
        final: show test results. Every such look is logged in cells/revealed.jsonl; all choices
            are made on validation.

    Raises DataError where not one cell is there.
    """
    split = "test" if final else "validation"
    collected = [collect(config, data, out_dir, split) for data in config.data]
    tables = [table for table in collected if table is not None]
    if not tables:
        raise DataError("no cell of this benchmark has been made yet; run it with --data")
    if final:
        _log_reveal(out_dir / "cells" / REVEALED, name, tables)
    path = out_dir / f"{name}.md"
    head = [
        f"# Benchmark: {name}",
        "",
        f"Written by `{command}` from the cells in `cells/`; do not edit.",
        *(["", config.about] if config.about else []),
        "",
        "All rows of a table: the same split, all items as candidates, ties broken by item number. "
        "A cell is the mean over users (and seeds; ± is their standard deviation) with its 95 % "
        f"bootstrap interval; differences to {config.reference} are paired user by user, "
        "and seed by seed where it has the seeds of the row.",
        *(
            []
            if final
            else ["", "**Validation** results: rows are chosen on them; `--final` shows the test."]
        ),
    ]
    body = "\n".join([*head, *(_markdown(config, table) for table in tables)])
    write_bytes(path, body.encode())
    page = render_page(config, tables, name=name, command=command)
    write_bytes(path.with_suffix(".html"), page.encode())
    return path, tables


def _markdown(config: BenchmarkConfig, table: DataSetTables) -> str:
    evaluation = table.evaluation
    parts = [
        f"\n## {table.data}",
        f"{evaluation.num_cases:,} users, {evaluation.num_items:,} items, {evaluation.split}.",
    ]
    for setting, title in SETTING_TITLES.items():
        parts += [f"{title[0].upper()}{title[1:]}:", _overall(table, setting)]
    parts += [_facts(config, table)]
    if codes := _codes(table):
        parts += [
            "Semantic IDs: how much the first level's codes tell of clusters by behavior (training "
            "co-occurrence) and by each modality (adjusted mutual information; 0 is chance).",
            codes,
        ]
    if table.missing:
        parts += ["Not made yet: " + "; ".join(map(str, table.missing)) + "."]
    for setting, title in SETTING_TITLES.items():
        slices = markdown_slices(evaluation, setting)
        parts += [f"<details><summary>Slices, {title}</summary>", slices, "</details>"]
    return "\n\n".join(parts) + "\n"


def _overall(table: DataSetTables, setting: str) -> str:
    evaluation = table.evaluation
    header = ["row", "seeds"]
    for metric in METRICS:
        header += [metric, f"against {evaluation.reference}"] if evaluation.reference else [metric]
    header += ["coverage"]
    results = {name: by_setting[setting] for name, by_setting in evaluation.models.items()}
    best = {m: max(r.overall.metrics[m].mean for r in results.values()) for m in METRICS}
    lines = []
    for row in table.rows:
        result = results[row.name]
        cells = [row.name, str(len(row.keys))]
        for metric in METRICS:
            interval = result.overall.metrics[metric]
            deviation = row.deviation(table.store, evaluation.split, setting, metric)
            mark = "**" if interval.mean == best[metric] else ""
            spread = "" if deviation is None else f" ± {deviation:.4f}"
            low_high = f"[{interval.low:.4f}, {interval.high:.4f}]"
            cells.append(f"{mark}{interval.mean:.4f}{mark}{spread} {low_high}")
            difference = result.overall.difference.get(metric)
            if evaluation.reference:
                cells.append("" if difference is None else signed_interval(difference))
        cells.append(f"{result.coverage:.3f}")
        lines.append(cells)
    return markdown_table(header, lines)


def _facts(config: BenchmarkConfig, table: DataSetTables) -> str:
    header = ["row", "what it is", "parameters", "tokenizer", "training", "users/s", "threads"]
    lines = []
    for row in table.rows:
        cell = row.cells[0]
        seconds = cell.facts.get("seconds", {})
        users_per_s = cell.lists[f"{table.evaluation.split}.filtered"].users_per_s
        lines.append(
            [
                row.name,
                config.rows[row.name].about,
                f"{cell.facts['num_parameters']:,}" if "num_parameters" in cell.facts else "",
                _minutes(seconds.get("tokenize")),
                _minutes(seconds.get("train")),
                f"{users_per_s:,.0f}",
                f"{cell.environment['threads']} x {cell.environment['cpu']}"
                if cell.environment["device"] == "cpu"
                else cell.environment["device"],
            ]
        )
    return markdown_table(header, lines)


def _codes(table: DataSetTables) -> str:
    """A line per row whose model reads or writes codes; empty where none does."""
    health = {
        row.name: row.cells[0].facts.get("semantic_ids", {})
        for row in table.rows
        if row.cells[0].settings.get("recommender", {}).get("use_codes")
    }
    known = {name: found["information"] for name, found in health.items() if "information" in found}
    if not known:
        return ""
    kinds = list(dict.fromkeys(kind for found in known.values() for kind in found))
    lines = [
        [
            name,
            *(f"{found[kind]:.2f}" if kind in found else "" for kind in kinds),
            f"{health[name]['collision_rate']:.1%}",
            " ".join(f"{value:.0f}" for value in health[name]["perplexity"]),
        ]
        for name, found in known.items()
    ]
    return markdown_table(["row", *kinds, "collisions before", "perplexity by level"], lines)


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} min"


def _log_reveal(path: Path, name: str, tables: list[DataSetTables]) -> None:
    entry = {
        "revealed": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmark": name,
        "cells": [str(key) for table in tables for row in table.rows for key in row.keys],
    }
    before = read_bytes(path) if path.is_file() else b""
    if any(orjson.loads(line)["cells"] == entry["cells"] for line in before.splitlines()):
        return  # the same look again
    write_bytes(path, before + orjson.dumps(entry) + b"\n")
