"""Popularity ranks by training counts and by nothing else."""

import torch
from small_datasets import make_dataset

from bbqrec.ranking import Ranker
from bbqrec.recommender import fit_popularity

# Training counts: item 3 three times, items 1 and 2 twice, items 0 and 4 never.
ROWS = [[3, 1, 0, 0], [3, 2, 0, 0], [3, 1, 2, 0, 0], [4, 0]]


def test_the_most_frequent_items_of_training_come_first_and_ties_by_number() -> None:
    data = make_dataset(ROWS, num_items=5)

    model = fit_popularity(data)
    ranking = model.rank(data.test.histories.to_histories(), 5, exclude_seen=False)

    assert isinstance(model, Ranker)
    assert ranking.items.tolist() == [[3, 1, 2, 0, 4]] * 4
    assert ranking.scores[0].tolist() == [3.0, 2.0, 2.0, 0.0, 0.0]


def test_seen_and_forbidden_items_do_not_appear() -> None:
    data = make_dataset(ROWS, num_items=5)
    allowed = torch.tensor([False, True, True, True, True])

    ranking = fit_popularity(data).rank(
        data.test.histories.to_histories(), 3, exclude_seen=True, allowed=allowed
    )

    assert ranking.items.tolist() == [[2, 4, -1], [1, 4, -1], [4, -1, -1], [3, 1, 2]]
