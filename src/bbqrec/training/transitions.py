"""How much a finished recommender is given of what a linear model says of what follows what."""

import logging

from bbqrec.data import Cases, Dataset
from bbqrec.evaluation import quick_metrics
from bbqrec.ranking import Ranker
from bbqrec.recommender import (
    MAX_SOLVED,
    NeighborConfig,
    OnePassRecommender,
    find_transitions,
    join_transitions,
    take_out_transitions,
)

logger = logging.getLogger(__name__)

WEIGHTS = (5.0, 10.0, 20.0, 40.0)


def choose_transitions(
    model: OnePassRecommender,
    ranker: Ranker,
    dataset: Dataset,
    cases: Cases,
    settings: NeighborConfig,
) -> float:
    """Join what ranks `cases` best, and say how much that was: one of `WEIGHTS`, or nothing.

    Args:
        ranker: of `model`.
    """
    if dataset.num_items > MAX_SOLVED:
        logger.warning(
            "%d items are too many for a linear model of what follows what (%d at most): the "
            "recommender goes without",
            dataset.num_items,
            MAX_SOLVED,
        )
        return 0.0
    model.eval()
    found = find_transitions(dataset.train, dataset.num_items, settings)
    scores = {0.0: quick_metrics(ranker, cases, exclude_seen=True)["ndcg@10"]}
    for weight in WEIGHTS:
        join_transitions(model, found, weight)
        scores[weight] = quick_metrics(ranker, cases, exclude_seen=True)["ndcg@10"]
        take_out_transitions(model)
    best = max(scores, key=lambda weight: (scores[weight], -weight))
    if best:
        join_transitions(model, found, best)
    shown = ", ".join(f"{score:.4f} with {weight:g}" for weight, score in scores.items())
    logger.info("what follows what: ndcg@10 %s; %g is kept", shown, best)
    return best
