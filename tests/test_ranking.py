"""Ranking a full table of scores, and batches of unequal histories."""

import pytest
import torch

from bbqrec.ranking import Histories, top_items


def random_histories(num_users: int, num_items: int, generator: torch.Generator) -> Histories:
    lengths = torch.randint(0, 6, (num_users,), generator=generator)
    items = torch.randint(num_items, (int(lengths.sum()),), generator=generator)
    return Histories(items, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)))


@pytest.mark.parametrize("num_distinct", [2, 5, 10_000])
@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_top_items_is_a_full_sort_by_score_then_item_number(
    num_distinct: int, k: int, exclude_seen: bool
) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = torch.randint(num_distinct, (20, 30), generator=generator).float()
    histories = random_histories(20, 30, generator)
    allowed = torch.rand(30, generator=generator) < 0.8

    found = top_items(scores, histories, k, exclude_seen=exclude_seen, allowed=allowed)

    for user in range(20):
        seen = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
        candidates = [
            item for item in range(30) if allowed[item] and not (exclude_seen and item in seen)
        ]
        expected = sorted(candidates, key=lambda item: (-scores[user, item].item(), item))[:k]
        assert found.items[user].tolist() == expected + [-1] * (k - len(expected))
        assert found.scores[user, : len(expected)].tolist() == scores[user, expected].tolist()
        assert (found.scores[user, len(expected) :] == -torch.inf).all()


def test_no_users_have_no_ranking() -> None:
    nobody = Histories(torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long))

    found = top_items(torch.zeros(0, 5), nobody, 3, exclude_seen=True)

    assert found.items.shape == (0, 3)


def test_the_latest_items_are_left_aligned_in_order() -> None:
    histories = Histories(torch.arange(6), torch.tensor([0, 4, 4, 6]))

    items, lengths = histories.latest(3)

    assert items.tolist() == [[1, 2, 3], [-1, -1, -1], [4, 5, -1]]
    assert lengths.tolist() == [3, 0, 2]
