"""Evaluations for the eye: tables for the terminal, and the same ones in Markdown."""

import re
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from bbqrec.errors import ConfigError
from bbqrec.evaluation.results import Evaluation, ModelResult
from bbqrec.evaluation.scores import Interval

SETTING_TITLES = {
    "filtered": "history items removed from the candidates",
    "kept": "history items kept among the candidates",
}


class _Cell(NamedTuple):
    text: str
    is_best: bool = False


class _Grid(NamedTuple):
    """A table before it has a form; the first column names the row."""

    title: str
    header: list[str]
    rows: list[list[_Cell]]


def overall_table(
    evaluation: Evaluation, setting: str, *, metrics: tuple[str, ...] | None = None
) -> Table:
    """Models by metrics under one setting of the history filter; the best mean is bold.

    Made for 80 columns: the main metric has its bootstrap interval, and so has the paired
    difference to the reference in a last column; of other metrics the mean is shown.

    Args:
        metrics: columns; None takes all.
    """
    return _rich(_brief(evaluation, setting, metrics))


def slice_table(
    evaluation: Evaluation, setting: str, kind: str, *, metric: str | None = None
) -> Table:
    """Models by the slices of one kind, for example `target popularity`, in the main metric."""
    return _rich(_slices(evaluation, setting, kind, metric or evaluation.main_metric))


def markdown_tables(evaluation: Evaluation) -> str:
    """Every table of an evaluation in Markdown: overall, then each kind of slice."""
    tables = []
    for setting in SETTING_TITLES:
        tables += [_markdown(_overall(evaluation, setting))]
        tables += [markdown_slices(evaluation, setting)]
    repeats = evaluation.num_repeat_targets
    note = f"{repeats} of {evaluation.num_cases} targets are items of their own history."
    return "\n\n".join([*tables, note]) + "\n"


def markdown_slices(evaluation: Evaluation, setting: str) -> str:
    """A Markdown table for each kind of slice and each metric of the slices."""
    first = next(iter(evaluation.models.values()))[setting]
    return "\n\n".join(
        _markdown(_slices(evaluation, setting, kind, metric))
        for kind, groups in first.slices.items()
        for metric in next(iter(groups.values())).metrics
    )


def _brief(evaluation: Evaluation, setting: str, metrics: tuple[str, ...] | None) -> _Grid:
    results = {name: by_setting[setting] for name, by_setting in evaluation.models.items()}
    main = evaluation.main_metric
    names = metrics or tuple(next(iter(results.values())).overall.metrics)
    columns = []
    for name in names:
        cells = _column([_measured(result, name) for result in results.values()])
        short = [_without_zeros(c.text if name == main else c.text.split(" ")[0]) for c in cells]
        columns.append([c._replace(text=text) for c, text in zip(cells, short, strict=True)])
    header = ["model", *names]
    if evaluation.reference is not None:
        header.append(f"{main} against {evaluation.reference}")
        differences = [result.overall.difference.get(main) for result in results.values()]
        columns.append(
            [_Cell(_without_zeros(signed_interval(d)) if d else "") for d in differences]
        )
    return _grid(_title(evaluation, setting), header, list(results), columns)


def _without_zeros(text: str) -> str:
    """`.3498 [.3372, .3625]`: scores lie within 1."""
    return re.sub(r"\b0\.", ".", text)


def _measured(result: ModelResult, metric: str) -> Interval:
    known = result.overall.metrics
    if metric not in known:
        raise ConfigError(f"{metric} was not measured; measured are {', '.join(known)}")
    return known[metric]


def _title(evaluation: Evaluation, setting: str) -> str:
    return f"{evaluation.split}, {evaluation.num_cases:,} users, {SETTING_TITLES[setting]}"


def _overall(evaluation: Evaluation, setting: str) -> _Grid:
    results = {name: by_setting[setting] for name, by_setting in evaluation.models.items()}
    names = tuple(next(iter(results.values())).overall.metrics)
    columns = [
        _column([result.overall.metrics[name] for result in results.values()]) for name in names
    ]
    header = ["model", *names, "coverage", "novelty (bits)"]
    columns.append([_Cell(f"{result.coverage:.3f}") for result in results.values()])
    columns.append([_Cell(f"{result.novelty_bits:.2f}") for result in results.values()])
    if evaluation.reference is not None:
        main = evaluation.main_metric
        header.append(f"{main} against {evaluation.reference}")
        differences = [result.overall.difference.get(main) for result in results.values()]
        columns.append([_Cell(signed_interval(d) if d else "") for d in differences])
    return _grid(_title(evaluation, setting), header, list(results), columns)


def _slices(evaluation: Evaluation, setting: str, kind: str, metric: str) -> _Grid:
    results = {name: models[setting].slices[kind] for name, models in evaluation.models.items()}
    groups = next(iter(results.values()))
    header = ["model", *(f"{label} ({group.num_cases})" for label, group in groups.items())]
    columns = [
        _column([result[label].metrics[metric] for result in results.values()]) for label in groups
    ]
    title = f"{metric} by {kind} (users), {SETTING_TITLES[setting]}"
    return _grid(title, header, list(results), columns)


def _grid(title: str, header: list[str], names: list[str], columns: list[list[_Cell]]) -> _Grid:
    rows = [
        [_Cell(name), *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)
    ]
    return _Grid(title, header, rows)


def _column(intervals: list[Interval]) -> list[_Cell]:
    best = max(interval.mean for interval in intervals)
    return [
        _Cell(f"{i.mean:.4f} [{i.low:.4f}, {i.high:.4f}]", is_best=i.mean == best and best > 0)
        for i in intervals
    ]


def signed_interval(interval: Interval) -> str:
    """`+0.0106 [+0.0085, +0.0127]`."""
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _rich(grid: _Grid) -> Table:
    # Text, not str: rich would read the brackets of an interval as markup.
    table = Table(title=Text(grid.title), title_justify="left")
    for index, name in enumerate(grid.header):
        table.add_column(Text(name), justify="left" if index == 0 else "right")
    for row in grid.rows:
        table.add_row(*(Text(cell.text, style="bold" if cell.is_best else "") for cell in row))
    return table


def _markdown(grid: _Grid) -> str:
    rows = [[f"**{c.text}**" if c.is_best else c.text for c in row] for row in grid.rows]
    return f"{grid.title}:\n\n{markdown_table(grid.header, rows)}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Cells as a Markdown table; the first column names the row, the others are numbers."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| --- |" + " ---: |" * (len(header) - 1)
    return "\n".join([line(header), rule, *map(line, rows)])
