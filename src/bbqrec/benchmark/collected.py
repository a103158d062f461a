"""Finished cells -> what they say together: means over seeds, intervals over users."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbqrec.benchmark.cells import Cell, CellStore, made_with
from bbqrec.benchmark.config import CONTROLS, SEEDED, BenchmarkConfig, CellKey
from bbqrec.errors import DataError
from bbqrec.evaluation import (
    HISTORY_SETTINGS,
    Evaluation,
    EvaluationConfig,
    ModelResult,
    rank_values,
    score_values,
)


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


def choose_row(table: DataSetTables) -> str | None:
    """The row that validation chooses, whatever split is shown; None beside a lone reference.

    Highest mean of the main metric, history items removed. Choosing on the split that is shown
    would pick the luckiest row and report its luck. Controls are there to be beaten, not to be
    chosen.
    """
    evaluation = table.evaluation
    means = {
        row.name: np.mean(
            [
                rank_values(
                    _ranks(table.store, key, "validation", "filtered"), (evaluation.main_metric,)
                ).mean()
                for key in row.keys
            ]
        )
        for row in table.rows
        if row.name != evaluation.reference and row.cells[0].kind not in CONTROLS
    }
    return max(means, key=lambda name: means[name]) if means else None


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
        ranks = {
            row.name: {key.seed: _ranks(store, key, split, setting) for key in row.keys}
            for row in rows
        }
        num_cases = len(next(iter(ranks[rows[0].name].values())))

        def scores(
            chosen: NDArray[np.int64] | slice,
            metrics: tuple[str, ...],
            ranks: dict[str, dict[int, NDArray[np.int64]]] = ranks,
        ) -> Any:
            of_rows = {
                name: {seed: rank_values(r[chosen], metrics) for seed, r in of_seeds.items()}
                for name, of_seeds in ranks.items()
            }
            return score_values(
                {name: _mean(values.values()) for name, values in of_rows.items()},
                {
                    row.name: _difference(row, of_rows[row.name], of_rows[reference])
                    for row in rows
                    if reference is not None and row.name != reference
                },
                metrics,
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


def _mean(values: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(list(values), axis=0)
    return mean


def _difference(
    row: Row,
    values: Mapping[int, NDArray[np.float64]],
    reference: Mapping[int, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """To the same seeds of the reference where it has them: a seed is luck that models share."""
    is_seeded = row.cells[0].kind in SEEDED
    seeds = values if is_seeded and values.keys() <= reference.keys() else reference
    return _mean(values.values()) - _mean(reference[seed] for seed in seeds)


def _ranks(store: CellStore, key: CellKey, split: str, setting: str) -> NDArray[np.int64]:
    return store.ranks(key)[f"{split}.{setting}"].astype(np.int64)
