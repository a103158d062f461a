"""A history is encoded once, however often and for whatever it is asked about."""

from pathlib import Path
from typing import Any

import pytest
import torch
from asking import Open, ids, recommended, take
from torch import Tensor

from bbqrec.recommend import Recommender
from bbqrec.recommender import OnePassRecommender
from bbqrec.serving.encoded import EncodedHistories


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many histories each call of the encoder read."""
    sizes: list[int] = []
    encode = OnePassRecommender._states_after

    def noted(model: OnePassRecommender, items: Tensor, lengths: Tensor) -> Tensor:
        sizes.append(len(items))
        return encode(model, items, lengths)

    monkeypatch.setattr(OnePassRecommender, "_states_after", noted)
    return sizes


@pytest.mark.parametrize("name", ["run", "wordy"])  # by generating, by the dense score
def test_only_what_is_new_is_encoded(
    name: str, opened: Open, request: pytest.FixtureRequest, encoded: list[int]
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    client, plain = opened(run_dir), Recommender.from_pretrained(run_dir)
    first_item, second, third = plain.dataset.item_ids[3:6]
    take(client, "ann", first_item, second)
    encoded.clear()

    first = ids(recommended(client, user_ids=["ann"], k=3)[0])
    assert encoded == [1]
    next_ones = ids(recommended(client, user_ids=["ann"], k=3, exclude=first)[0])
    more = ids(recommended(client, user_ids=["ann"], k=6)[0])
    assert encoded == [1]
    assert more == first + next_ones
    recommended(client, histories=[[first_item, second], [second], [second, first_item]], k=2)
    assert encoded == [1, 2]
    take(client, "ann", third)
    after = ids(recommended(client, user_ids=["ann"], k=6)[0])
    assert encoded == [1, 2, 1]

    expected = plain.recommend([[first_item, second], [first_item, second, third]], 6)
    assert [[item.item_id for item in answer.items] for answer in expected] == [more, after]


def test_rows_come_back_in_their_order_and_little_is_kept() -> None:
    asked: list[list[int]] = []

    def states(items: Tensor) -> Tensor:
        def encode(rows: Tensor) -> Tensor:
            asked.append(rows.tolist())
            return items[rows].sum(1, keepdim=True) + torch.tensor([0.25, 0.5])

        return remembered(items, encode)

    remembered, histories = EncodedHistories(2), torch.tensor([[1, 2, -1], [3, -1, -1], [1, 2, -1]])
    wide: Any = torch.nn.functional.pad(histories, (0, 2), value=-1)

    first, again = states(histories), states(wide)
    assert torch.equal(first, histories.sum(1, keepdim=True) + torch.tensor([0.25, 0.5]))
    assert torch.equal(again, first)  # of the same items, however padded
    states(torch.tensor([[4]]))
    states(histories)

    assert asked == [[2, 1], [0], [1]]  # the one used longest ago made room
