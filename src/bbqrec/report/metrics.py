"""Scores as a page shows them: sentences, tables, and dots with intervals on shared axes."""

import math
import re
from typing import NamedTuple

from bbqrec.evaluation import Evaluation, Interval, ModelResult

OURS = "BBQRec"
ORACLE = "oracle"  # who knows how a drawn shop was drawn: a bound, not a rival
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
    """One metric of a model beside the reference's; `verdict` is better, worse or level."""

    metric: str
    meaning: str
    score: Interval
    reference: Interval
    difference: Interval
    verdict: str


class Dot(NamedTuple):
    """A mean and its interval, also as percentages of the axis."""

    name: str
    is_highlighted: bool
    interval: Interval
    left: float
    low: float
    width: float


class Panel(NamedTuple):
    """Dots of all models on one axis that includes 0; ticks are (percentage, label)."""

    title: str
    note: str
    zero: float
    ticks: list[tuple[float, str]]
    dots: list[Dot]


class Cell(NamedTuple):
    interval: Interval
    is_best: bool


class Row(NamedTuple):
    name: str
    is_highlighted: bool
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


def verdict(difference: Interval) -> str:
    """better or worse where the whole interval lies on one side of 0, else level."""
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "level"


def headline(
    evaluation: Evaluation, highlighted: str = OURS, setting: str = "filtered"
) -> list[Headline]:
    """The highlighted model against the reference, metric by metric."""
    scores = evaluation.models[highlighted][setting].overall
    reference = evaluation.models[str(evaluation.reference)][setting].overall
    return [
        Headline(
            display(metric),
            MEANINGS[metric.partition("@")[0]],
            scores.metrics[metric],
            reference.metrics[metric],
            scores.difference[metric],
            verdict(scores.difference[metric]),
        )
        for metric in shown_metrics(evaluation)
    ]


def overall_panels(evaluation: Evaluation, highlighted: str = OURS) -> list[Panel]:
    """The headline's metrics under both settings of the history filter, on one axis a metric."""
    panels = []
    for metric in shown_metrics(evaluation):
        groups = [
            (
                display(metric),
                note,
                {name: by[setting].overall.metrics[metric] for name, by in ordered(evaluation)},
            )
            for setting, note in SETTINGS.items()
        ]
        panels += _panels(groups, highlighted)
    return panels


def difference_panels(evaluation: Evaluation, highlighted: str = OURS) -> list[Panel]:
    """The same for paired differences to the reference, which has no dot."""
    panels = []
    for metric in shown_metrics(evaluation):
        groups = []
        for setting, note in SETTINGS.items():
            scores = {name: by[setting].overall.difference for name, by in ordered(evaluation)}
            differences = {name: by[metric] for name, by in scores.items() if metric in by}
            groups.append((display(metric), note, differences))
        panels += _panels(groups, highlighted)
    return panels


def slice_panels(
    evaluation: Evaluation,
    highlighted: str = OURS,
    *,
    setting: str = "filtered",
    metric: str | None = None,
) -> dict[str, list[Panel]]:
    """Kind of slice -> one panel a slice, in the main metric where no other is given.

    A kind whose users are all in one slice is left out: it repeats the whole.
    """
    measured = metric or evaluation.main_metric
    first = next(iter(evaluation.models.values()))[setting]
    panels = {
        kind: _panels(
            [
                (
                    label,
                    f"{scores.num_cases:,} {'user' if scores.num_cases == 1 else 'users'}",
                    {
                        name: by[setting].slices[kind][label].metrics[measured]
                        for name, by in ordered(evaluation)
                    },
                )
                for label, scores in sorted(
                    groups.items(), key=lambda group: _first_number(group[0])
                )
                if scores.num_cases
            ],
            highlighted,
        )
        for kind, groups in first.slices.items()
    }
    return {kind: slices for kind, slices in panels.items() if len(slices) > 1}


def metric_tables(evaluation: Evaluation, highlighted: str = OURS) -> list[MetricTable]:
    """Models by metrics, one table per setting of the history filter; the best mean is marked."""
    tables = []
    for setting, note in SETTINGS.items():
        results = {name: by[setting] for name, by in ordered(evaluation)}
        metrics = list(evaluation.protocol["settings"]["metrics"])
        rivals = [result for name, result in results.items() if name != ORACLE]
        best = {
            metric: max(result.overall.metrics[metric].mean for result in rivals)
            for metric in metrics
        }
        rows = []
        for name, result in results.items():
            intervals = result.overall.metrics
            rows.append(
                Row(
                    name,
                    name == highlighted,
                    [
                        Cell(intervals[m], name != ORACLE and intervals[m].mean == best[m] > 0)
                        for m in metrics
                    ],
                    result.coverage,
                    result.overall.difference.get(evaluation.main_metric),
                )
            )
        tables.append(MetricTable(note, [display(m) for m in metrics], rows))
    return tables


def shown_metrics(evaluation: Evaluation) -> list[str]:
    """The main metric and another: NDCG@10 or recall@10, where the settings measure them."""
    measured = next(iter(evaluation.models.values()))["filtered"].overall.metrics
    names = dict.fromkeys((evaluation.main_metric, *USUAL_METRICS))
    return [name for name in names if name in measured][:2]


def ordered(evaluation: Evaluation) -> list[tuple[str, dict[str, ModelResult]]]:
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


def _panels(groups: list[tuple[str, str, dict[str, Interval]]], highlighted: str) -> list[Panel]:
    """Panels that share one axis, so that they can be compared."""
    ends = [end for _, _, dots in groups for i in dots.values() for end in (i.low, i.high)]
    lowest, highest = min([0.0, *ends]), max([0.0, *ends])
    step = nice_step(highest - lowest, 5)
    first, last = math.floor(lowest / step + 1e-9), math.ceil(highest / step - 1e-9)
    last = max(last, first + 1)

    def place(value: float) -> float:
        return 100 * (value / step - first) / (last - first)

    ticks = [(place(i * step), f"{i * step:g}".replace("-", "−")) for i in range(first, last + 1)]
    return [
        Panel(
            title,
            note,
            place(0.0),
            ticks,
            [
                Dot(
                    name,
                    name == highlighted,
                    interval,
                    place(interval.mean),
                    place(interval.low),
                    place(interval.high) - place(interval.low),
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
