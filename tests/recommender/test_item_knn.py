"""Item-kNN agrees with an obvious slow version and reads nothing but training histories."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_datasets import make_dataset, random_dataset

from bbqrec.data import Cases, Dataset, Sequences
from bbqrec.recommender import ItemKnnConfig, fit_item_knn, tune_item_knn


def slow_similarities(data: Dataset, config: ItemKnnConfig) -> list[list[float]]:
    num_items = data.num_items
    popularity = data.popularity().tolist()
    pairs = [[0.0] * num_items for _ in range(num_items)]
    for user in range(data.num_users):
        row = data.train.row(user).tolist()
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                if 0 < abs(i - j) <= config.window and a != b:
                    direction = 1.0 if i < j else config.backward_weight
                    pairs[a][b] += direction * abs(i - j) ** -config.distance_power
    for a in range(num_items):
        for b in range(num_items):
            norm = math.sqrt(popularity[a] * popularity[b]) + config.shrinkage
            pairs[a][b] = pairs[a][b] / norm if pairs[a][b] else 0.0
        last = sorted(pairs[a], reverse=True)[: config.num_neighbors][-1]
        pairs[a] = [value if value >= last else 0.0 for value in pairs[a]]
    return pairs


@pytest.mark.parametrize(
    "config",
    [
        ItemKnnConfig(window=1, backward_weight=0.0, distance_power=0.0, shrinkage=0.0),
        ItemKnnConfig(window=3, backward_weight=1.0, decay=0.7, history_length=2),
        ItemKnnConfig(window=50, backward_weight=0.3, distance_power=1.0, num_neighbors=4),
    ],
)
def test_scores_agree_with_a_loop_over_users_and_pairs(config: ItemKnnConfig) -> None:
    data = random_dataset(num_users=60, num_items=15, seed=3)

    scores = fit_item_knn(data, config).score(data.test.histories)

    similarities = slow_similarities(data, config)
    popularity = data.popularity()
    for case in range(len(data.test)):
        row = data.test.histories.row(case).tolist()
        expected = 1e-6 * popularity / popularity.max()
        for age, item in enumerate(row[::-1][: config.history_length]):
            expected += math.exp(-age / config.decay) * np.array(similarities[item])
        np.testing.assert_allclose(scores[case], expected, rtol=1e-5, atol=1e-9)


def test_held_out_items_do_not_reach_the_model() -> None:
    data = random_dataset(num_users=80, num_items=20, seed=5)
    shuffled = np.random.default_rng(1).permutation(20).astype(np.int32)
    validation, test = data.validation, data.test
    known = Sequences(shuffled[test.histories.items], test.histories.offsets)
    changed = replace(
        data,
        validation=Cases(validation.users, validation.histories, shuffled[validation.targets]),
        test=Cases(test.users, known, shuffled[test.targets]),
    )

    model, other = fit_item_knn(data, ItemKnnConfig()), fit_item_knn(changed, ItemKnnConfig())

    assert (model.similarities != other.similarities).nnz == 0
    np.testing.assert_array_equal(model.popularity, other.popularity)


def test_tuning_reads_no_test_item_and_finds_the_planted_order() -> None:
    data = random_dataset(num_users=300, num_items=40, seed=7, follows=0.8)
    test = data.test
    blind = replace(data, test=Cases(test.users, test.histories, np.zeros_like(test.targets)))

    tuned = tune_item_knn(data, num_cases=200, exclude_seen=False)
    blindly = tune_item_knn(blind, num_cases=200, exclude_seen=False)

    assert tuned.config == blindly.config
    ranking = tuned.rank(data.test.histories.to_histories(), 1, exclude_seen=False)
    targets = torch.from_numpy(data.test.targets).long()
    assert float((ranking.items[:, 0] == targets).double().mean()) > 0.6


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_tuning_measures_what_a_ranking_shows(exclude_seen: bool) -> None:
    data = random_dataset(num_users=200, num_items=30, seed=9, follows=0.3)
    grid = {"windows": (3,), "backward_weights": (0.5,), "shrinkages": (0.0, 30.0)}
    memories = ((1, 1.0), (20, 20.0))

    tuned = tune_item_knn(
        data, exclude_seen=exclude_seen, num_cases=10**6, memories=memories, **grid
    )

    found = {}
    for shrinkage in (0.0, 30.0):
        for length, decay in memories:
            config = ItemKnnConfig(
                window=3, shrinkage=shrinkage, history_length=length, decay=decay
            )
            histories = data.validation.histories.to_histories()
            ranking = fit_item_knn(data, config).rank(histories, 10, exclude_seen=exclude_seen)
            is_hit = ranking.items.numpy() == data.validation.targets[:, None]
            found[config] = float((is_hit / np.log2(np.arange(2, 12))).sum())
    assert found[tuned.config] == pytest.approx(max(found.values()))


def test_items_never_seen_in_training_score_zero() -> None:
    data = random_dataset(num_users=30, num_items=10, seed=2)
    is_kept = data.train.items != 4
    offsets = np.concatenate([[0], is_kept.cumsum()])[data.train.offsets]
    data = replace(data, train=Sequences(data.train.items[is_kept], offsets))

    scores = fit_item_knn(data, ItemKnnConfig()).score(data.test.histories)

    assert (scores[:, 4] == 0).all()
    assert (np.delete(scores, 4, axis=1) > 0).all()


def test_histories_too_short_for_a_pair_leave_the_order_of_popularity() -> None:
    data = make_dataset([[2, 0, 0], [2, 0, 0], [1, 0, 0], [0, 0]], num_items=4)

    ranking = fit_item_knn(data, ItemKnnConfig()).rank(
        data.test.histories.to_histories(), 4, exclude_seen=False
    )

    assert ranking.items.tolist() == [[2, 1, 0, 3]] * 4
