"""Pictures of how search scales, drawn from what scaling.py and history.py measured."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbqrec.storage import write_bytes

COLORS = {"Hugging Face, trie": "#8a8f98", "exact": "#00897b", "fast": "#e64a19"}
LABELS = {
    "Hugging Face, trie": "Hugging Face T5 with a trie",
    "exact": "ours, the same model",
    "fast": "ours, preset fast",
}
MARKERS = {"Hugging Face, trie": "s", "exact": "o", "fast": "^"}
STYLE = {
    "svg.fonttype": "none",  # letters stay letters: small, and readable to machines
    "svg.hashsalt": "bbqrec",  # the same numbers draw the same file
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a6",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "text.color": "#24292f",
    "axes.labelcolor": "#24292f",
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
}
Rows = list[dict[str, Any]]


class Panel(NamedTuple):
    """One axis: rows whose column `key` holds the value, and what stands below it."""

    rows: Rows
    key: str
    label: str


def draw(folder: Path) -> list[Path]:
    """Write the pictures that the results in `folder` allow; their paths."""
    scaling, history = _read(folder / "scaling.jsonl"), _read(folder / "history.jsonl")
    if not (scaling and history):
        return []
    by_axis = {axis: [row for row in scaling if row["axis"] == axis] for axis in _AXES}
    panels = [Panel(by_axis[axis], "value", label) for axis, label in _AXES.items()]
    panels.append(Panel(history, "history", "items in the history (8 users, beams of 20)"))
    drawn = []
    for name, column, unit in (
        ("throughput", "users_per_s", "users per second"),
        ("memory", "working_mb", "megabytes that a call takes"),
    ):
        drawn.append(folder / f"{name}.svg")
        write_bytes(drawn[-1], _figure(panels, column, unit))
    return drawn


_AXES = {
    "items": "items in the catalog (32 users, beams of 20)",
    "beam": "width of the beam (8 users)",
    "batch": "users in a batch (beams of 20)",
}


def _read(path: Path) -> Rows:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def _figure(panels: list[Panel], column: str, unit: str) -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 6.2), layout="constrained")
        every = figure.subplots(2, 2, sharey=True)
        for axes, panel in zip(every.flat, panels, strict=True):
            _draw_panel(axes, panel, column)
        figure.supylabel(unit, fontsize=9)
        handles, labels = every[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        written = io.BytesIO()
        figure.savefig(written, format="svg", facecolor="white", metadata={"Date": None})
    return written.getvalue()


def _draw_panel(axes: Axes, panel: Panel, column: str) -> None:
    for name, color in COLORS.items():
        points = [
            (row[panel.key], row[column])
            for row in panel.rows
            if row["alternative"] == name and row.get(column)
        ]
        axes.plot(*zip(*points, strict=True), color=color, label=LABELS[name], marker=MARKERS[name])
    values = sorted({row[panel.key] for row in panel.rows})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(values, [_short(value) for value in values])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(panel.label)


def _short(value: int) -> str:
    """12 k, 10 M: what fits below a tick."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if value >= 10 * size or (value >= size and value % size == 0):
            return f"{value / size:.0f} {letter}"
    return str(value)
