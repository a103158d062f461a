"""Cells -> tables: means over seeds, intervals over users, every row against the reference."""

import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from bbqrec.benchmark.cells import Cell, CellStore, made_with
from bbqrec.benchmark.config import BenchmarkConfig, CellKey
from bbqrec.errors import DataError
from bbqrec.evaluation import (
    HISTORY_SETTINGS,
    SETTING_TITLES,
    Evaluation,
    EvaluationConfig,
    Interval,
    ModelResult,
    markdown_slices,
    rank_values,
    score_values,
)
from bbqrec.storage import read_bytes, write_bytes

METRICS = ("recall@10", "ndcg@10")
REVEALED = "revealed.jsonl"


class Row(NamedTuple):
    """The finished cells of one row on one data set, one per seed."""

    name: str
    keys: list[CellKey]
    cells: list[Cell]

    def deviation(self, store: CellStore, split: str, setting: str, metric: str) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        if len(self.keys) < 2:
            return None
        means = [
            float(rank_values(_ranks(store, key, split, setting), (metric,)).mean())
            for key in self.keys
        ]
        return statistics.stdev(means)


class DataSetTables(NamedTuple):
    """What the cells of one data set say on one split."""

    data: str
    store: CellStore
    rows: list[Row]
    missing: list[CellKey]
    evaluation: Evaluation


def write_tables(
    config: BenchmarkConfig, *, name: str, command: str, out_dir: Path, final: bool
) -> tuple[Path, list[DataSetTables]]:
    """Write `out_dir`/NAME.md from the cells that are there.

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
        f"bootstrap interval; differences to {config.reference} are paired user by user.",
        *(
            []
            if final
            else ["", "**Validation** results: rows are chosen on them; `--final` shows the test."]
        ),
    ]
    body = "\n".join([*head, *(_markdown(config, table) for table in tables)])
    write_bytes(path, body.encode())
    return path, tables


def collect(config: BenchmarkConfig, data: str, out_dir: Path, split: str) -> DataSetTables | None:
    """All finished cells of a data set as one evaluation; None where there are none."""
    store = CellStore(out_dir / "cells", data)
    by_row: dict[str, Row] = {}
    missing = []
    for key in config.cells():
        if key.data != data:
            continue
        cell = store.load(key)
        if cell is None or not made_with(cell, config.rows[key.row].kind, config.run_config(key)):
            missing.append(key)
            continue
        row = by_row.setdefault(key.row, Row(key.row, [], []))
        row.keys.append(key)
        row.cells.append(cell)
    rows = list(by_row.values())
    if not rows:
        return None
    settings = config.run_config(rows[0].keys[0]).evaluation
    cases = store.cases()
    for row in rows:
        for key, cell in zip(row.keys, row.cells, strict=True):
            if cell.dataset != cases["dataset"]:
                raise DataError(
                    f"the cell ({key}) was made on other data than the rest of {data}; delete it "
                    "and run the benchmark again"
                )
    reference = config.reference if config.reference in by_row else None
    evaluation = _evaluation(store, rows, split, settings, reference, cases)
    return DataSetTables(data, store, rows, missing, evaluation)


def _evaluation(
    store: CellStore,
    rows: list[Row],
    split: str,
    settings: EvaluationConfig,
    reference: str | None,
    cases: dict[str, Any],
) -> Evaluation:
    slices = store.slices(split)
    models: dict[str, dict[str, ModelResult]] = {row.name: {} for row in rows}
    num_cases = 0
    for setting in HISTORY_SETTINGS:
        ranks = {row.name: [_ranks(store, key, split, setting) for key in row.keys] for row in rows}
        num_cases = len(next(iter(ranks.values()))[0])

        def scores(
            chosen: NDArray[np.int64] | slice,
            metrics: tuple[str, ...],
            ranks: dict[str, list[NDArray[np.int64]]] = ranks,
        ) -> Any:
            values = {
                name: np.mean([rank_values(r[chosen], metrics) for r in of_seeds], axis=0)
                for name, of_seeds in ranks.items()
            }
            return score_values(
                values,
                metrics,
                reference=reference,
                num_bootstrap=settings.num_bootstrap,
                confidence=settings.confidence,
                seed=settings.seed,
            )

        overall = scores(slice(None), settings.metrics)
        by_slice = {
            kind: {
                label: scores(chosen, settings.slice_metrics) for label, chosen in groups.items()
            }
            for kind, groups in slices.items()
        }
        for row in rows:
            lists = [cell.lists[f"{split}.{setting}"] for cell in row.cells]
            models[row.name][setting] = ModelResult(
                overall=overall[row.name],
                slices={
                    kind: {label: by_row[row.name] for label, by_row in groups.items()}
                    for kind, groups in by_slice.items()
                },
                coverage=statistics.fmean(x.coverage for x in lists),
                novelty_bits=statistics.fmean(x.novelty_bits for x in lists),
                filled=statistics.fmean(x.filled for x in lists),
                wall_s=statistics.fmean(num_cases / x.users_per_s for x in lists),
            )
    return Evaluation(
        split=split,
        reference=reference,
        main_metric=settings.main_metric,
        protocol={"settings": settings.model_dump(mode="json")},
        num_cases=num_cases,
        num_items=cases["num_items"],
        num_repeat_targets=cases[split]["num_repeat_targets"],
        models=models,
    )


def _ranks(store: CellStore, key: CellKey, split: str, setting: str) -> NDArray[np.int64]:
    return store.ranks(key)[f"{split}.{setting}"].astype(np.int64)


def _markdown(config: BenchmarkConfig, table: DataSetTables) -> str:
    evaluation = table.evaluation
    parts = [
        f"\n## {table.data}",
        f"{evaluation.num_cases:,} users, {evaluation.num_items:,} items, {evaluation.split}.",
    ]
    for setting, title in SETTING_TITLES.items():
        parts += [f"{title[0].upper()}{title[1:]}:", _overall(table, setting)]
    parts += [_facts(config, table)]
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
        header += [metric, f"against {evaluation.reference}"]
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
            cells.append("" if difference is None else _signed(difference))
        cells.append(f"{result.coverage:.3f}")
        lines.append(cells)
    return _table(header, lines)


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
    return _table(header, lines)


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} min"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _table(header: list[str], lines: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, lines)])


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
