"""How far a mean over users can be trusted: percentile bootstrap intervals.

Two models are compared through the interval of their difference, user by user, which is far
narrower than the two models' own intervals suggest.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS_AT_ONCE = 2_000_000


class Intervals(NamedTuple):
    """Means of columns and the ends of their intervals, each (column,)."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def bootstrap_intervals(
    values: NDArray[np.float64],
    generator: np.random.Generator,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> Intervals:
    """Percentile bootstrap (Efron, 1979) of the column means of `values` (case, column).

    All columns see the same resamples of the cases. For a paired comparison hand over the
    differences of two models: where they never differ, the interval is exactly [0, 0].
    """
    num_cases, num_columns = values.shape
    means = np.empty((num_resamples, num_columns))
    step = max(1, DRAWS_AT_ONCE // num_cases)
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        draws = generator.integers(num_cases, size=(size, num_cases))
        draws += np.arange(size)[:, None] * num_cases
        counts = np.bincount(draws.ravel(), minlength=size * num_cases)  # how often each case
        weights = counts.reshape(size, num_cases).astype(np.float64)
        means[start : start + size] = weights @ values / num_cases
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return Intervals(values.mean(axis=0), low, high)
