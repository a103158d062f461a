"""Windows are stretches of training histories, and batches say how likely they hold an item."""

import numpy as np
import pytest
import torch

from bbqrec.data import Sequences
from bbqrec.errors import DataError
from bbqrec.tokenizer import WindowBatch, WindowSampler


def histories(seed: int = 0, num_items: int = 50) -> Sequences:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 15, 40)
    items = np.concatenate([generator.permutation(num_items)[:n] for n in lengths])
    return Sequences(items.astype(np.int32), np.concatenate([[0], lengths.cumsum()]))


def sampler(train: Sequences, *, catalog_draws: int = 10, batch_size: int = 8) -> WindowSampler:
    return WindowSampler(
        train, 50, max_history=5, batch_size=batch_size, catalog_draws=catalog_draws, seed=3
    )


def windows(batch: WindowBatch) -> list[list[int]]:
    """The stretches of history in a batch, last target included."""
    found = []
    for row in range(len(batch.histories)):
        length = int(batch.is_valid[row].sum())
        places = torch.cat([batch.histories[row, :1], batch.targets[row, :length]])
        found.append(batch.items[places].tolist())
        assert torch.equal(batch.histories[row, 1:length], batch.targets[row, : length - 1])
    return found


def test_every_user_with_two_items_gives_one_stretch_of_its_history_an_epoch() -> None:
    train = histories()

    found = [window for batch in sampler(train).batches(0) for window in windows(batch)]

    rows = [train.row(user).tolist() for user in range(len(train)) if train.lengths[user] >= 2]
    assert len(found) == len(rows)
    assert all(len(window) <= 6 for window in found)
    for row in rows:
        size = min(6, len(row))
        stretches = [row[start : start + size] for start in range(len(row) - size + 1)]
        assert sum(window in stretches for window in found) >= 1


def test_epochs_repeat_exactly_and_differ_from_each_other() -> None:
    train = histories()

    first, again, other = (list(sampler(train).batches(epoch)) for epoch in (4, 4, 5))

    for left, right in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left[1:], right[1:], strict=True))
    assert [windows(b) for b in first] != [windows(b) for b in other]


def test_draws_covering_the_catalog_put_all_items_in_every_batch() -> None:
    for batch in sampler(histories(), catalog_draws=50).batches(0):
        assert torch.equal(batch.items, torch.arange(50))
        assert torch.equal(batch.log_inclusion, torch.zeros(50))
        assert sorted(batch.drawn.tolist()) == list(range(50))


def test_inclusion_is_how_often_batches_hold_an_item() -> None:
    train = histories()
    subject = sampler(train, batch_size=6)
    held, stated = torch.zeros(50), torch.zeros(50)
    num_batches = 0

    for epoch in range(300):
        for batch in subject.batches(epoch):
            held[batch.items] += 1
            stated[batch.items] = batch.log_inclusion.exp()
            num_batches += 1

    assert ((held / num_batches) - stated).abs().max() < 0.12
    assert ((held / num_batches) - stated).abs().mean() < 0.04


def test_histories_without_a_pair_are_refused() -> None:
    train = Sequences(np.array([1, 2], np.int32), np.array([0, 1, 2], np.int64))

    with pytest.raises(DataError, match="rq_vae"):
        sampler(train)
