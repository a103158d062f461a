"""Choose among ways to score items by what they put first on validation."""

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bbqrec.data import Cases, Dataset, Sequences
from bbqrec.progress import tracker

SCORED_AT_ONCE = 512


@runtime_checkable
class ItemScorer(Protocol):
    """A baseline quick enough to be tried with many settings."""

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Scores (history, item) of all items."""
        ...


S = TypeVar("S", bound=ItemScorer)


def best_on_validation(
    candidates: Iterable[S],
    dataset: Dataset,
    *,
    exclude_seen: bool,
    num_cases: int,
    seed: int,
    num_candidates: int,
    description: str,
) -> S:
    """The candidate with the highest NDCG@10 on a fixed sample of validation cases.

    The first of equally good ones wins. Test items are not read.
    """
    cases = dataset.validation
    if len(cases) > num_cases:
        rows = np.random.default_rng(seed).choice(len(cases), num_cases, replace=False)
        cases = cases.take(np.sort(rows))
    best: tuple[float, S] | None = None
    with tracker(description, num_candidates) as progress:
        for model in candidates:
            ndcg = _mean_ndcg(model, cases, exclude_seen=exclude_seen)
            if best is None or ndcg > best[0]:
                best = ndcg, model
            progress.advance(note=f"NDCG@10 {best[0]:.4f}")
    assert best is not None
    return best[1]


def _mean_ndcg(model: ItemScorer, cases: Cases, *, exclude_seen: bool) -> float:
    """NDCG@10 with one target: 1 / log2(1 + rank) when the rank is at most 10.

    Counts the items that come before the target, as `top_items` orders them, without sorting.
    """
    gains = 0.0
    for start in range(0, len(cases), SCORED_AT_ONCE):
        part = cases.take(np.arange(start, min(start + SCORED_AT_ONCE, len(cases))))
        scores = model.score(part.histories)  # (case, item)
        if exclude_seen:
            row = np.repeat(np.arange(len(part)), part.histories.lengths)
            scores[row, part.histories.items] = -np.inf
        target = part.targets[:, None]
        own = np.take_along_axis(scores, target, axis=1)
        num_better = (scores > own).sum(axis=1)
        num_equal_before = ((scores == own) & (np.arange(scores.shape[1]) < target)).sum(axis=1)
        rank = 1 + num_better + num_equal_before
        is_hit = (rank <= 10) & np.isfinite(own[:, 0])
        gains += float((is_hit / np.log2(1 + rank)).sum())
    return gains / max(1, len(cases))
