"""Training curves as SVG paths, and the learned similarity tables as colored cells."""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from bbqrec.report.metrics import display, nice_step

# Not curves: how the log counts, and what it repeats.
_NO_CURVE = ("epoch", "step", "score")
_NAMES = {"loss": "Loss, all terms", "grad_norm": "Gradient norm"}

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26


class Chart(NamedTuple):
    """One curve over epochs in a WIDTH x HEIGHT drawing; ticks are (coordinate, label).

    Args:
        points: what is drawn: (epoch counted from 1, value).
    """

    title: str
    points: list[tuple[int, float]]
    path: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    best: tuple[float, float]
    description: str


class HeatCell(NamedTuple):
    value: float
    strength: int
    """Percent of the color, 0 to 100."""


class HeatTable(NamedTuple):
    """The learned bias by bucket (row) and head (column)."""

    name: str
    num_heads: int
    rows: list[tuple[str, list[HeatCell]]]
    largest: float


def training_charts(log: list[dict[str, Any]], best_epoch: int) -> list[Chart]:
    """A chart for every logged number: validation metrics, then the loss and its terms."""
    names = [n for n in dict.fromkeys(n for row in log for n in row) if n not in _NO_CURVE]
    metrics = [name for name in names if "@" in name]
    losses = [name for name in names if "@" not in name and name not in _NAMES]
    order = [*sorted(metrics), "loss", *(losses if len(losses) > 1 else []), "grad_norm"]
    charts = []
    for name in (name for name in order if name in names):
        points = [(row["epoch"], float(row[name])) for row in log if name in row]
        title = f"Validation {display(name)}" if name in metrics else _NAMES.get(name)
        charts.append(_chart(title or f"Loss, {name.replace('_', ' ')}", points, best_epoch))
    return charts


def _chart(title: str, points: list[tuple[int, float]], best_epoch: int) -> Chart:
    values = [value for _, value in points]
    step = nice_step(max(max(values) - min(values), 1e-6 * abs(max(values)), 1e-9), 4)
    low, high = min(values) // step * step, -(-max(values) // step) * step
    if high <= low:
        high = low + step
    last = max(points[-1][0], 1)

    def x(epoch: int) -> float:
        return round(LEFT + epoch / last * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    stride = max(1, round(nice_step(float(last), 5)))
    best = next((value for epoch, value in points if epoch == best_epoch), values[-1])
    return Chart(
        title,
        [(epoch + 1, value) for epoch, value in points],
        "M" + "L".join(f"{x(epoch)} {y(value)}" for epoch, value in points),
        [(x(epoch - 1), str(epoch)) for epoch in _epoch_labels(points[-1][0] + 1, stride)],
        [
            (y(low + i * step), f"{low + i * step:.4g}")
            for i in range(round((high - low) / step) + 1)
        ],
        (x(best_epoch), y(best)),
        f"{title}: from {values[0]:.4g} in the first epoch to {best:.4g} in the best, "
        f"epoch {best_epoch + 1}, and {values[-1]:.4g} in the last.",
    )


def _epoch_labels(num_epochs: int, stride: int) -> list[int]:
    labels = [1, *range(stride, num_epochs + 1, stride)]
    return sorted({label for label in labels if label == 1 or stride == 1 or label >= stride})


def heat_table(name: str, table: Float[Tensor, "bucket head"], labels: list[str]) -> HeatTable:
    """Cells from cool (attention is lowered) through nothing to warm (raised)."""
    largest = float(table.abs().max())
    scale = 100 / largest if largest > 0 else 0.0
    rows = [
        (label, [HeatCell(value, round(abs(value) * scale)) for value in row])
        for label, row in zip(labels, table.tolist(), strict=True)
    ]
    return HeatTable(name, table.shape[1], rows, largest)
