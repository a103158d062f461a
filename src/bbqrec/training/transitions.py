"""How much a finished recommender is given of what a linear model says of what follows what."""

import logging
from typing import NamedTuple

from bbqrec.data import Cases, Dataset
from bbqrec.decoding import GenerativeRanker
from bbqrec.evaluation import quick_metrics
from bbqrec.ranking import Ranker
from bbqrec.recommender import (
    NeighborConfig,
    OnePassRecommender,
    find_transitions,
    join_transitions,
    take_out_transitions,
)

logger = logging.getLogger(__name__)

WEIGHTS = (5.0, 10.0, 20.0, 40.0)


class ChosenTransitions(NamedTuple):
    """How many times the regression counts, and validation's metrics with it, history removed."""

    weight: float
    metrics: dict[str, float]


def choose_transitions(
    model: OnePassRecommender,
    ranker: Ranker,
    dataset: Dataset,
    cases: Cases,
    settings: NeighborConfig,
) -> ChosenTransitions | None:
    """Join as much as ranks `cases` best: one of `WEIGHTS`, or nothing.

    Best is the mean of NDCG@10 with history items removed and left: transitions lift what is new
    to a user above repeats, which counts where people come back.

    Args:
        ranker: of `model`.

    Returns:
        None, with a warning, where the catalog is too large to solve, or where the ranker reads no
        score that transitions count in.
    """
    if isinstance(ranker, GenerativeRanker) and not model.walks_by_items:
        logger.warning(
            "what follows what counts in the dense score and on the tree, and this recommender "
            "ranks by codes alone: it goes without"
        )
        return None
    model.eval()
    found = find_transitions(dataset.train, dataset.num_items, settings)
    if found is None:
        return None

    def measure() -> tuple[float, dict[str, float]]:
        removed, left = (quick_metrics(ranker, cases, exclude_seen=e) for e in (True, False))
        return (removed["ndcg@10"] + left["ndcg@10"]) / 2, removed

    measured = {0.0: measure()}
    for weight in WEIGHTS:
        join_transitions(model, found, weight)
        measured[weight] = measure()
        take_out_transitions(model)
    best = max(measured, key=lambda weight: (measured[weight][0], -weight))
    if best:
        join_transitions(model, found, best)
    shown = ", ".join(f"{score:.4f} with {weight:g}" for weight, (score, _) in measured.items())
    logger.info("what follows what: ndcg@10, history removed and left, %s; %g is kept", shown, best)
    return ChosenTransitions(best, measured[best][1])
