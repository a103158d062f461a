"""Transitions are those of a plain ridge regression, and count what they say they count."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_catalogs import (
    DEFAULT,
    HISTORIES,
    LENGTHS,
    NEAR_TREE,
    NUM_ITEMS,
    RAGGED,
    random_histories,
    random_model,
)
from small_datasets import make_sequences

from bbqrec.data import Sequences
from bbqrec.errors import ConfigError
from bbqrec.recommender import (
    NeighborConfig,
    OnePassRecommender,
    RecommenderConfig,
    Transitions,
    find_transitions,
    join_transitions,
    take_out_transitions,
    transitions,
)
from bbqrec.recommender.tree_walk import ScoredWalk

TRAIN = Sequences(*random_histories())
FEW = NeighborConfig(num_neighbors=7, num_recent=6, num_buckets=150)


def plain_ridge() -> NDArray[np.float64]:
    """Coefficients (latest item, next item), target by target and without sparse matrices."""
    inputs, wanted = [], []
    for user in range(len(TRAIN)):
        row = TRAIN.items[TRAIN.offsets[user] : TRAIN.offsets[user + 1]]
        for place in range(1, len(row)):
            x = np.zeros(NUM_ITEMS)
            for age, item in enumerate(row[:place][::-1][: FEW.num_recent]):
                x[item] += np.exp(-age / 4)
            inputs.append(x)
            wanted.append(np.eye(NUM_ITEMS)[row[place]])
    x, y = np.stack(inputs), np.stack(wanted)
    system = x.T @ x
    coefficients: NDArray[np.float64] = np.linalg.solve(
        system + np.diag(system).mean() * np.eye(NUM_ITEMS), x.T @ y
    )
    np.fill_diagonal(coefficients, 0)
    return coefficients


@pytest.fixture
def found() -> Transitions:
    return fitted(TRAIN)


def fitted(train: Sequences) -> Transitions:
    found = find_transitions(train, NUM_ITEMS, FEW)
    assert found is not None
    return found


def table_of(found: Transitions) -> NDArray[np.float64]:
    """Coefficients of the age 0 (item, follower) that the buckets stand for."""
    worth = torch.cat([found.gains[0], torch.zeros(1)])
    table = torch.zeros(NUM_ITEMS, NUM_ITEMS)
    items, buckets = found.neighbors.items[0, :-1].long(), found.neighbors.buckets[0, :-1].long()
    return table.scatter_add_(1, items, worth[buckets]).double().numpy()


def test_followers_are_the_largest_coefficients_of_a_plain_ridge(found: Transitions) -> None:
    expected = plain_ridge()
    order = np.argsort(-expected, axis=1)
    kept = np.zeros_like(expected)
    first = order[:, : FEW.num_neighbors]
    np.put_along_axis(kept, first, np.take_along_axis(expected, first, 1).clip(min=0), 1)

    table = table_of(found)

    assert (table > 0).sum() > NUM_ITEMS
    assert ((table > 0) == (kept > 1e-7)).all()
    is_kept = kept > np.quantile(kept[kept > 0], 0.02)  # the lowest bucket is open to below
    np.testing.assert_allclose(table[is_kept], kept[is_kept], rtol=0.05)


def test_older_events_count_as_the_mean_of_their_ages(found: Transitions) -> None:
    weights = np.exp(-np.arange(6) / 4)
    expected = [weights[0], weights[1:3].mean(), weights[3:6].mean()]

    strongest = int(found.gains[0].argmax())
    np.testing.assert_allclose(
        found.gains[:, strongest] / found.gains[0, strongest], np.array(expected), rtol=1e-5
    )


@pytest.mark.parametrize("config", [DEFAULT, NEAR_TREE], ids=["dense", "tree"])
def test_joined_they_add_their_sum_to_the_logits(
    config: RecommenderConfig, found: Transitions
) -> None:
    """And taken out again they leave the model as it was."""
    model = random_model(config.model_copy(update={"neighbors": FEW}))
    assert isinstance(model, OnePassRecommender)

    def scores() -> torch.Tensor:
        with torch.inference_mode():
            if config is NEAR_TREE:
                walk = model.begin(HISTORIES, LENGTHS).walk
                assert isinstance(walk, ScoredWalk)
                return walk.scores
            return model.dense_scores(RAGGED)

    before = scores()
    added = torch.zeros_like(before)
    worth = torch.cat([found.gains, torch.zeros(len(found.gains), 1)], 1)
    for row, length in enumerate(LENGTHS.tolist()):
        latest = HISTORIES[row, :length].flip(0).tolist()
        for age, item in enumerate(latest[: FEW.num_recent]):
            for follower, bucket in zip(
                found.neighbors.items[0, item].tolist(),
                found.neighbors.buckets[0, item].tolist(),
                strict=True,
            ):
                if follower not in latest and not model.catalog.is_unseen[follower]:
                    added[row, follower] += 3 * worth[(age + 1).bit_length() - 1, bucket]

    join_transitions(model, found, 3.0)
    after = scores()
    take_out_transitions(model)

    assert added.any()
    torch.testing.assert_close(after, (before + added).log_softmax(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores(), before, rtol=0, atol=0)


def test_without_neighbors_they_are_refused() -> None:
    with pytest.raises(ConfigError, match="transitions are neighbors"):
        NeighborConfig.parse({"enabled": False, "transitions": True})
    paper = {"form": "paper", "decoder": "transformer", "normalize": "vocabulary"}
    with pytest.raises(ConfigError, match="no transitions either"):
        RecommenderConfig.parse({**paper, "neighbors": {"transitions": True}})


@pytest.mark.parametrize("rows", [[], [[1], [2]], [[1, 1, 1]]], ids=["nobody", "one each", "one"])
def test_where_nothing_follows_they_say_nothing(rows: list[list[int]]) -> None:
    found = fitted(make_sequences(rows))

    assert not found.gains.any()
    assert (found.neighbors.buckets == FEW.num_buckets).all()


def test_a_catalog_too_large_to_solve_goes_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transitions, "MAX_SOLVED", NUM_ITEMS - 1)

    assert find_transitions(TRAIN, NUM_ITEMS, FEW) is None
    assert (
        "40 items are too many for a linear model of what follows what (39 at most)" in caplog.text
    )
