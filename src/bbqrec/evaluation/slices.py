"""Groups of cases that deserve their own numbers: rare or cold targets, short histories."""

import numpy as np
from numpy.typing import NDArray

from bbqrec.data import Cases, Dataset

Slices = dict[str, dict[str, NDArray[np.int64]]]


def slice_cases(
    cases: Cases, dataset: Dataset, *, popularity_bands: int, history_edges: tuple[int, ...]
) -> Slices:
    """Rows of `cases` by kind of slice, then by label; groups without a case are left out.

    - `target popularity`: training counts of the target, in bands that hold about equally many
      of the items seen in training; items never seen there are `0 (cold)`.
    - `history length`: how many items the history has; `history_edges` are the bands' last
      lengths.
    """
    popularity = dataset.popularity()
    trained = popularity[popularity > 0]
    shares = np.arange(1, popularity_bands) / popularity_bands
    edges: list[int] = []
    if len(trained):
        edges = np.unique(np.quantile(trained, shares, method="higher")).astype(int).tolist()
    counts = popularity[cases.targets]
    cold = {"0 (cold)": np.flatnonzero(counts == 0)}
    by_popularity = cold | _bands(counts, 1, edges)
    by_length = _bands(cases.histories.lengths, 0, list(history_edges))
    slices = {"target popularity": by_popularity, "history length": by_length}
    return {
        kind: {label: rows for label, rows in groups.items() if len(rows)}
        for kind, groups in slices.items()
    }


def _bands(
    values: NDArray[np.int64], lowest: int, edges: list[int]
) -> dict[str, NDArray[np.int64]]:
    """Rows whose value lies in [lowest, edges[0]], (edges[0], edges[1]], ... and beyond."""
    groups = {}
    start = lowest
    for edge in edges:
        label = f"{start}-{edge}" if start < edge else f"{edge}"
        groups[label] = np.flatnonzero((values >= start) & (values <= edge))
        start = edge + 1
    groups[f"{start}+"] = np.flatnonzero(values >= start)
    return groups
