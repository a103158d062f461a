"""The tables of a benchmark as one HTML page to look at: sentences, dots with intervals, tables."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bbqrec.benchmark.cells import Cell
from bbqrec.benchmark.collected import DataSetTables, Row, choose_row
from bbqrec.benchmark.config import CONTROLS, SEEDED, BenchmarkConfig, slug
from bbqrec.evaluation import Interval
from bbqrec.report import (
    SETTINGS,
    Headline,
    Panel,
    difference_panels,
    display,
    headline,
    ordered,
    overall_panels,
    shown_metrics,
    slice_panels,
    template,
    verdict,
)

KINDS = {
    "model": "trained model",
    "shuffled": "trained model, every item with another's semantic ID",
    "warm_start": "trained model, its items' own vectors begun as another row's",
    "popularity": "the items with the most users first, for everybody alike",
    "item_knn": "items that occurred together with those of the history",
    "content_knn": "items whose content is like that of the history",
    "merged": "the answers of several rows joined",
}


class Choice(NamedTuple):
    """The row that validation chooses, beside the reference.

    Args:
        lines: setting of the history filter -> one line a metric.
        highest: the row with the highest mean on the split shown, where that is another one.
        deviations: row -> standard deviation over seeds, of trained rows; None for a single seed.
        within_seeds: the difference is no larger than one of them.
    """

    name: str
    num_candidates: int
    lines: dict[str, list[Headline]]
    highest: str | None
    deviations: dict[str, float | None]
    within_seeds: bool

    @property
    def main(self) -> Headline:
        return self.lines["filtered"][0]


class Multiples(NamedTuple):
    """Panels side by side that share their rows; `lines` are where a panel is ruled off.

    Args:
        lines: percentage of the reference's mean, or of 0 among differences; None without either.
    """

    caption: str
    panels: list[Panel]
    lines: list[float | None]
    is_signed: bool = False


class ScoreCell(NamedTuple):
    """A mean over users and seeds, and the paired difference to the reference if there is one."""

    interval: Interval
    deviation: float | None
    is_best: bool
    difference: Interval | None
    verdict: str | None


class ScoreRow(NamedTuple):
    name: str
    num_seeds: int
    cells: list[ScoreCell]
    coverage: float


class FactRow(NamedTuple):
    """What a row cost: means over its seeds; None where there is nothing to count."""

    name: str
    num_seeds: int
    num_parameters: int | None
    tokenize_s: float | None
    train_s: float | None
    users_per_s: float
    machine: str


class Section(NamedTuple):
    """All that the page says of one data set."""

    anchor: str
    table: DataSetTables
    num_interactions: int
    data_split: str
    choice: Choice | None
    overall: list[Multiples]
    differences: list[Multiples]
    slices: dict[str, list[Multiples]]
    scores: dict[str, list[ScoreRow]]
    facts: list[FactRow]
    metrics: list[str]
    confidence: str


def render_page(
    config: BenchmarkConfig, tables: list[DataSetTables], *, name: str, command: str
) -> str:
    """The page of these tables, in HTML that needs no other file and runs no script."""
    sections = [_section(config, table) for table in tables]
    finished = sorted(cell.finished[:10] for t in tables for row in t.rows for cell in row.cells)
    return template(Path(__file__).parent, "page.html").render(
        name=name,
        command=command,
        config=config,
        kinds=KINDS,
        settings=SETTINGS,
        split=tables[0].evaluation.split,
        sections=sections,
        rows={
            name: (row, _written(row.settings))
            for name, row in config.rows.items()
            if any(name == made.name for table in tables for made in table.rows)
        },
        finished=finished,
    )


def _section(config: BenchmarkConfig, table: DataSetTables) -> Section:
    evaluation = table.evaluation
    chosen = choose_row(table)
    kinds = {row.name: config.rows[row.name].kind for row in table.rows}
    metrics = shown_metrics(evaluation)
    return Section(
        anchor=slug(table.data),
        table=table,
        num_interactions=table.store.cases()["statistics"]["interactions"],
        data_split=config.run_config(table.rows[0].keys[0]).prepare.split.replace("_", " "),
        choice=_choice(table, chosen, kinds) if chosen and evaluation.reference else None,
        overall=_overall(table, chosen),
        differences=_differences(table, chosen) if chosen and evaluation.reference else [],
        slices=_slices(table, chosen),
        scores={setting: _scores(table, setting, metrics) for setting in SETTINGS},
        facts=[_facts(row, evaluation.split) for row in _in_order(table)],
        metrics=[display(metric) for metric in metrics],
        confidence=f"{evaluation.protocol['settings']['confidence']:.0%}".replace("%", "\u00a0%"),
    )


def _choice(table: DataSetTables, chosen: str, kinds: Mapping[str, str]) -> Choice:
    evaluation = table.evaluation
    lines = {setting: headline(evaluation, chosen, setting) for setting in SETTINGS}
    others = [
        name
        for name, _ in ordered(evaluation)
        if name != evaluation.reference and kinds[name] not in CONTROLS
    ]
    deviations = {
        row.name: row.deviation(table.store, evaluation.split, "filtered", evaluation.main_metric)
        for row in table.rows
        if row.name in (chosen, evaluation.reference) and kinds[row.name] in SEEDED
    }
    difference = abs(lines["filtered"][0].difference.mean)
    return Choice(
        chosen,
        len(others),
        lines,
        others[0] if others[0] != chosen else None,
        deviations,
        any(deviation is not None and deviation >= difference for deviation in deviations.values()),
    )


def _overall(table: DataSetTables, chosen: str | None) -> list[Multiples]:
    panels = overall_panels(table.evaluation, chosen or "")
    return [
        Multiples(title, group, _reference_lines(table, group))
        for title, group in _by_metric(panels).items()
    ]


def _differences(table: DataSetTables, chosen: str) -> list[Multiples]:
    panels = difference_panels(table.evaluation, chosen)
    return [
        Multiples(
            f"{title}, difference to {table.evaluation.reference}",
            group,
            [panel.zero for panel in group],
            is_signed=True,
        )
        for title, group in _by_metric(panels).items()
    ]


def _by_metric(panels: list[Panel]) -> dict[str, list[Panel]]:
    """Metric -> its panels, titled by the setting of the history filter instead."""
    groups: dict[str, list[Panel]] = {}
    for panel in panels:
        setting = panel._replace(title=panel.note, note="")
        groups.setdefault(panel.title, []).append(setting)
    return groups


def _slices(table: DataSetTables, chosen: str | None) -> dict[str, list[Multiples]]:
    """Kind of slice -> the main metric with history items removed first, then the rest."""
    evaluation = table.evaluation
    measured = next(iter(evaluation.models.values()))["filtered"].slices
    multiples: dict[str, list[Multiples]] = {kind: [] for kind in measured}
    for setting, note in SETTINGS.items():
        for metric in shown_metrics(evaluation):
            if metric not in evaluation.protocol["settings"]["slice_metrics"]:
                continue
            by_kind = slice_panels(evaluation, chosen or "", setting=setting, metric=metric)
            for kind, panels in by_kind.items():
                caption = f"{display(metric)} by {kind}, {note}"
                lines = _reference_lines(table, panels)
                multiples[kind].append(Multiples(caption, panels, lines))
    return {kind: group for kind, group in multiples.items() if group and group[0].panels}


def _reference_lines(table: DataSetTables, panels: list[Panel]) -> list[float | None]:
    reference = table.evaluation.reference
    return [
        next((dot.left for dot in panel.dots if dot.name == reference), None) for panel in panels
    ]


def _scores(table: DataSetTables, setting: str, metrics: list[str]) -> list[ScoreRow]:
    evaluation = table.evaluation
    results = {name: by_setting[setting] for name, by_setting in evaluation.models.items()}
    best = {m: max(r.overall.metrics[m].mean for r in results.values()) for m in metrics}
    rows = []
    for row in _in_order(table):
        overall = results[row.name].overall
        cells = []
        for metric in metrics:
            interval, difference = overall.metrics[metric], overall.difference.get(metric)
            cells.append(
                ScoreCell(
                    interval,
                    row.deviation(table.store, evaluation.split, setting, metric),
                    interval.mean == best[metric] > 0,
                    difference,
                    None if difference is None else verdict(difference),
                )
            )
        rows.append(ScoreRow(row.name, len(row.keys), cells, results[row.name].coverage))
    return rows


def _facts(row: Row, split: str) -> FactRow:
    facts = row.cells[0].facts
    return FactRow(
        row.name,
        len(row.keys),
        facts.get("num_parameters"),
        _mean_seconds(row.cells, "tokenize"),
        _mean_seconds(row.cells, "train"),
        statistics.fmean(cell.lists[f"{split}.filtered"].users_per_s for cell in row.cells),
        ", ".join(dict.fromkeys(_machine(cell.environment) for cell in row.cells)),
    )


def _mean_seconds(cells: list[Cell], stage: str) -> float | None:
    seconds = [cell.facts.get("seconds", {}).get(stage) for cell in cells]
    return statistics.fmean(seconds) if None not in seconds else None


def _machine(environment: dict[str, Any]) -> str:
    if environment["device"] != "cpu":
        return str(environment["device"])
    threads = environment["threads"]
    return f"{threads} {'thread' if threads == 1 else 'threads'} of {environment['cpu']}"


def _written(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`recommender.dropout = 0.3` and so on, as in the benchmark's file."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += _written(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name} = {orjson.dumps(value).decode()}")
    return lines


def _in_order(table: DataSetTables) -> list[Row]:
    """Best first, as in the panels."""
    rows = {row.name: row for row in table.rows}
    return [rows[name] for name, _ in ordered(table.evaluation)]
