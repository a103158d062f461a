"""Scores as a page shows them: sentences, tables, and dots with intervals on shared axes."""

import math
import re
from typing import NamedTuple

from bbqrec.evaluation import Evaluation, Interval, ModelResult

OURS = "BBQRec"
USUAL_METRICS = ("ndcg@10", "recall@10")
SETTINGS = {
    "filtered": "history items removed from the candidates",
    "kept": "history items kept among the candidates",
}
MEANINGS = {
    "ndcg": "credit for the item that came next: 1 at rank one, less further down",
    "recall": "share of users whose next item is in the list",
    "mrr": "mean of one over the rank of the item that came next",
}


class Headline(NamedTuple):
    """One metric of ours beside the reference's; `verdict` is better, worse or level."""

    metric: str
    meaning: str
    ours: Interval
    reference: Interval
    difference: Interval
    verdict: str


class Dot(NamedTuple):
    """A mean and its interval, also as percentages of the axis."""

    name: str
    is_ours: bool
    interval: Interval
    left: float
    low: float
    width: float


class Panel(NamedTuple):
    """Dots of all models on one axis that begins at 0; ticks are (percentage, label)."""

    title: str
    note: str
    ticks: list[tuple[float, str]]
    dots: list[Dot]


class Cell(NamedTuple):
    interval: Interval
    is_best: bool


class Row(NamedTuple):
    name: str
    is_ours: bool
    cells: list[Cell]
    coverage: float
    difference: Interval | None


class MetricTable(NamedTuple):
    caption: str
    metrics: list[str]
    rows: list[Row]


def display(metric: str) -> str:
    """`ndcg@10` as people write it."""
    name, _, cutoff = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'mrr') else name.capitalize()}@{cutoff}"


def headline(evaluation: Evaluation) -> list[Headline]:
    """BBQRec against the reference with history items removed, metric by metric."""
    ours = evaluation.models[OURS]["filtered"].overall
    reference = evaluation.models[str(evaluation.reference)]["filtered"].overall
    results = []
    for metric in _shown_metrics(evaluation):
        difference = ours.difference[metric]
        verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "level"
        results.append(
            Headline(
                display(metric),
                MEANINGS[metric.partition("@")[0]],
                ours.metrics[metric],
                reference.metrics[metric],
                difference,
                verdict,
            )
        )
    return results


def overall_panels(evaluation: Evaluation) -> list[Panel]:
    """The headline's metrics under both settings of the history filter, on one axis a metric."""
    panels = []
    for metric in _shown_metrics(evaluation):
        groups = [
            (
                display(metric),
                note,
                {name: by[setting].overall.metrics[metric] for name, by in _ordered(evaluation)},
            )
            for setting, note in SETTINGS.items()
        ]
        panels += _panels(groups)
    return panels


def slice_panels(evaluation: Evaluation) -> dict[str, list[Panel]]:
    """Kind of slice -> one panel a slice in the main metric, history items removed."""
    metric = evaluation.main_metric
    first = next(iter(evaluation.models.values()))["filtered"]
    return {
        kind: _panels(
            [
                (
                    label,
                    f"{scores.num_cases:,} {'user' if scores.num_cases == 1 else 'users'}",
                    {
                        name: by["filtered"].slices[kind][label].metrics[metric]
                        for name, by in _ordered(evaluation)
                    },
                )
                for label, scores in sorted(
                    groups.items(), key=lambda group: _first_number(group[0])
                )
                if scores.num_cases
            ]
        )
        for kind, groups in first.slices.items()
    }


def metric_tables(evaluation: Evaluation) -> list[MetricTable]:
    """Models by metrics, one table per setting of the history filter; the best mean is marked."""
    tables = []
    for setting, note in SETTINGS.items():
        results = {name: by[setting] for name, by in _ordered(evaluation)}
        metrics = list(evaluation.protocol["settings"]["metrics"])
        best = {
            metric: max(result.overall.metrics[metric].mean for result in results.values())
            for metric in metrics
        }
        rows = []
        for name, result in results.items():
            intervals = result.overall.metrics
            rows.append(
                Row(
                    name,
                    name == OURS,
                    [Cell(intervals[m], intervals[m].mean == best[m] > 0) for m in metrics],
                    result.coverage,
                    result.overall.difference.get(evaluation.main_metric),
                )
            )
        tables.append(MetricTable(note, [display(m) for m in metrics], rows))
    return tables


def _shown_metrics(evaluation: Evaluation) -> list[str]:
    """The main metric and another: NDCG@10 or recall@10, where the settings measure them."""
    measured = evaluation.models[OURS]["filtered"].overall.metrics
    names = dict.fromkeys((evaluation.main_metric, *USUAL_METRICS))
    return [name for name in names if name in measured][:2]


def _ordered(evaluation: Evaluation) -> list[tuple[str, dict[str, ModelResult]]]:
    """Models best first, so that tables and plots read from the top."""
    metric = evaluation.main_metric
    return sorted(
        evaluation.models.items(),
        key=lambda model: -model[1]["filtered"].overall.metrics[metric].mean,
    )


def _first_number(label: str) -> int:
    """Slices in the order of their numbers, which a JSON file does not keep."""
    digits = re.match(r"\d+", label)
    return int(digits.group()) if digits else 0


def _panels(groups: list[tuple[str, str, dict[str, Interval]]]) -> list[Panel]:
    """Panels that share one axis, so that they can be compared."""
    highest = max((i.high for _, _, dots in groups for i in dots.values()), default=0.0)
    step = nice_step(highest, 5)
    top = step * max(1, math.ceil(highest / step - 1e-9))
    ticks = [(100 * i * step / top, f"{i * step:g}") for i in range(round(top / step) + 1)]
    return [
        Panel(
            title,
            note,
            ticks,
            [
                Dot(
                    name,
                    name == OURS,
                    interval,
                    100 * interval.mean / top,
                    100 * interval.low / top,
                    100 * (interval.high - interval.low) / top,
                )
                for name, interval in dots.items()
            ],
        )
        for title, note, dots in groups
    ]


def nice_step(span: float, number: int) -> float:
    """1, 2 or 5 times a power of ten, such that at most `number` of them cover the span."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / number))
    return next(m * power for m in (1, 2, 5, 10) if m * power * number >= span * (1 - 1e-9))
