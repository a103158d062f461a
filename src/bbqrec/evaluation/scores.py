"""Metrics with intervals, from the ranks of the targets."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bbqrec.config import Config
from bbqrec.evaluation.bootstrap import Intervals, bootstrap_intervals
from bbqrec.evaluation.metrics import metric_values


class Interval(Config):
    """A mean over cases and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


class Scores(Config):
    """Metrics of one model on one group of cases.

    Args:
        difference: this model's metric minus the reference's, paired case by case; empty for the
            reference itself and where there is none.
    """

    num_cases: int
    metrics: dict[str, Interval]
    difference: dict[str, Interval] = Field(default={})


def score_ranks(
    ranks: Mapping[str, NDArray[np.int64]],
    metrics: tuple[str, ...],
    *,
    reference: str | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Scores]:
    """Metrics with intervals for models whose target ranks (1-based, 0 absent) are known."""
    values = {name: rank_values(rank, metrics) for name, rank in ranks.items()}
    return score_values(
        values,
        {
            name: values[name] - values[reference]
            for name in values
            if reference is not None and name != reference
        },
        metrics,
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )


def rank_values(ranks: NDArray[np.int64], metrics: tuple[str, ...]) -> NDArray[np.float64]:
    """Every metric of every case: (case, metric)."""
    return np.stack([metric_values(ranks, metric) for metric in metrics], axis=1)


def score_values(
    values: Mapping[str, NDArray[np.float64]],
    differences: Mapping[str, NDArray[np.float64]],
    metrics: tuple[str, ...],
    *,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Scores]:
    """The same from values (case, metric), such as means of `rank_values` over seeds.

    Args:
        differences: to the reference, case by case, of the models that have one.
    """
    columns = [*values.values(), *differences.values()]
    intervals = bootstrap_intervals(
        np.concatenate(columns, axis=1),
        np.random.default_rng(seed),
        num_resamples=num_bootstrap,
        confidence=confidence,
    )
    blocks = [_block(intervals, metrics, index) for index in range(len(columns))]
    by_name = dict(zip(differences, blocks[len(values) :], strict=True))
    return {
        name: Scores(num_cases=len(values[name]), metrics=block, difference=by_name.get(name, {}))
        for name, block in zip(values, blocks, strict=False)
    }


def _block(intervals: Intervals, metrics: tuple[str, ...], index: int) -> dict[str, Interval]:
    start = index * len(metrics)
    return {
        metric: Interval(
            mean=float(intervals.mean[column]),
            low=float(intervals.low[column]),
            high=float(intervals.high[column]),
        )
        for column, metric in enumerate(metrics, start)
    }
