"""Merged answers against a dictionary of probabilities."""

import math

import pytest
import torch
from random_models import RandomModel, random_ids
from torch import Tensor

from bbqrec.decoding import MergedRanker, RankingConfig, make_ranker
from bbqrec.errors import RequestError
from bbqrec.ranking import Histories, Ranker, Ranking

NUM_ITEMS = 90


def model_ranker(seed: int) -> Ranker:
    """A model with random semantic IDs and probabilities of its own."""
    ids = random_ids(NUM_ITEMS, (6, 5, 4), seed=seed, unique=True)
    model = RandomModel(ids, seed=seed)
    config = RankingConfig.parse({"rank_by": "generative", "beam_width": 8})
    return make_ranker(model, ids, config)


class Listed:
    """Answers everybody with the beginning of one list."""

    def __init__(self, items: list[int], probabilities: list[float]) -> None:
        self.items, self.scores = torch.tensor(items), torch.tensor(probabilities).log()

    def rank(
        self, histories: Histories, k: int, *, exclude_seen: bool, allowed: Tensor | None = None
    ) -> Ranking:
        shape = (histories.num_users, -1)
        return Ranking(self.items[:k].expand(shape), self.scores[:k].expand(shape))


def random_histories(num_users: int) -> Histories:
    generator = torch.Generator().manual_seed(num_users)
    offsets = torch.arange(num_users + 1) * 4
    return Histories(torch.randint(NUM_ITEMS, (4 * num_users,), generator=generator), offsets)


def slow_merge(lists: list[Ranking], user: int, k: int) -> list[tuple[int, float]]:
    probabilities: dict[int, float] = {}
    for ranking in lists:
        for item, score in zip(
            ranking.items[user].tolist(), ranking.scores[user].tolist(), strict=True
        ):
            if item >= 0:
                probabilities[item] = probabilities.get(item, 0.0) + math.exp(score) / len(lists)
    ordered = sorted(probabilities, key=lambda item: (-probabilities[item], item))
    return [(item, math.log(probabilities[item])) for item in ordered[:k]]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("share_allowed", [None, 0.5, 0.05])
@pytest.mark.parametrize("num_rankers", [1, 2, 3])
def test_merging_agrees_with_a_dictionary_of_probabilities(
    num_rankers: int, share_allowed: float | None, exclude_seen: bool
) -> None:
    rankers = tuple(model_ranker(seed) for seed in range(num_rankers))
    histories = random_histories(20)
    generator = torch.Generator().manual_seed(5)
    allowed = (
        None
        if share_allowed is None
        else torch.rand(NUM_ITEMS, generator=generator) < share_allowed
    )

    ranking = MergedRanker(rankers, NUM_ITEMS, list_length=15).rank(
        histories, 12, exclude_seen=exclude_seen, allowed=allowed
    )

    lists = [
        ranker.rank(histories, 15, exclude_seen=exclude_seen, allowed=allowed) for ranker in rankers
    ]
    for user in range(20):
        expected = slow_merge(lists, user, 12)
        num_found = len(expected)
        assert ranking.items[user].tolist() == [i for i, _ in expected] + [-1] * (12 - num_found)
        scores = torch.tensor([score for _, score in expected])
        torch.testing.assert_close(ranking.scores[user, :num_found], scores)
        assert (ranking.scores[user, num_found:] == -torch.inf).all()
    if exclude_seen:
        seen = histories.items.reshape(20, 4)
        assert not (ranking.items[:, :, None] == seen[:, None]).any()
    if allowed is not None:
        assert allowed[ranking.items[ranking.items >= 0]].all()


def test_equal_probabilities_are_ordered_by_item_number() -> None:
    merged = MergedRanker(
        (Listed([7, 2, 9, 4], [0.5, 0.25, 0.25, 0.0]), Listed([5, 9, 3, 2], [0.5, 0.25, 0.125, 0])),
        NUM_ITEMS,
        list_length=4,
    )

    ranking = merged.rank(random_histories(2), 7, exclude_seen=False)

    assert ranking.items.tolist() == [[5, 7, 9, 2, 3, -1, -1]] * 2
    expected = torch.tensor([0.25, 0.25, 0.25, 0.125, 0.0625, 0.0, 0.0])
    torch.testing.assert_close(ranking.scores.exp(), expected.expand(2, -1))


def test_lists_lengthen_to_what_is_asked_for_and_no_further_than_the_catalog() -> None:
    rankers = (model_ranker(0), model_ranker(1))
    histories = random_histories(5)

    short = MergedRanker(rankers, NUM_ITEMS, list_length=2).rank(histories, 20, exclude_seen=True)
    twenty = MergedRanker(rankers, NUM_ITEMS, list_length=20).rank(histories, 20, exclude_seen=True)
    everything = MergedRanker(rankers, NUM_ITEMS, list_length=500)

    assert torch.equal(short.items, twenty.items)
    assert (
        everything.rank(histories, 90, exclude_seen=False).items.sort().values.tolist()
        == [list(range(NUM_ITEMS))] * 5
    )
    assert isinstance(everything, Ranker)
    with pytest.raises(RequestError, match="91 items were asked for"):
        everything.rank(histories, 91, exclude_seen=False)
