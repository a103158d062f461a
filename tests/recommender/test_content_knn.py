"""Content-kNN agrees with a loop over pairs, knows cold items and is chosen on validation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_datasets import make_dataset, random_dataset

from bbqrec.data import Cases, Dataset
from bbqrec.errors import FeatureError
from bbqrec.features import Features, standardize
from bbqrec.ranking import Ranker, top_items
from bbqrec.recommender import ContentKnnConfig, fit_content_knn, tune_content_knn


def make_features(num_items: int, *, seed: int) -> list[Features]:
    """Text and images of unequal scale and width; some items lack one of them, item 3 both."""
    generator = torch.Generator().manual_seed(seed)
    features = []
    for modality, dim, missing in (("image", 6, [3, 5, 8]), ("text", 4, [0, 3])):
        is_present = torch.ones(num_items, dtype=torch.bool)
        is_present[missing] = False
        vectors = dim * torch.randn(num_items, dim, generator=generator) + 3
        features.append(Features(modality, vectors * is_present[:, None], is_present, {}))
    return features


def slow_cosine(features: list[Features], a: int, b: int) -> float:
    products = {"ab": 0.0, "aa": 0.0, "bb": 0.0}
    for f in features:
        x = standardize(f)
        products["ab"] += float(x[a] @ x[b])  # zero where either lacks the modality
        products["aa"] += float(x[a] @ x[a])
        products["bb"] += float(x[b] @ x[b])
    norm = math.sqrt(products["aa"] * products["bb"])
    return products["ab"] / norm if norm else 0.0


@pytest.mark.parametrize("modalities", [None, ["text"], ["text", "image"]])
def test_scores_agree_with_a_loop_over_histories_and_items(modalities: list[str] | None) -> None:
    data = random_dataset(num_users=30, num_items=15, seed=3)
    features = make_features(15, seed=3)
    config = ContentKnnConfig.parse({"modalities": modalities, "history_length": 4, "decay": 1.5})

    scores = fit_content_knn(features, config).score(data.test.histories)

    used = [f for f in features if modalities is None or f.modality in modalities]
    cosines = [[slow_cosine(used, a, b) for b in range(15)] for a in range(15)]
    for case in range(len(data.test)):
        expected = np.zeros(15)
        latest = data.test.histories.row(case).tolist()[::-1][:4]
        for age, a in enumerate(latest):
            for b in range(15):
                expected[b] += math.exp(-age / 1.5) * cosines[a][b] * (a != b)
        np.testing.assert_allclose(scores[case], expected, rtol=1e-4, atol=1e-5)
    assert (np.abs(scores[:, 3]) < 1e-6).all()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_ranking_orders_the_scores_among_allowed_items(exclude_seen: bool) -> None:
    data = random_dataset(num_users=20, num_items=15, seed=1)
    histories = data.test.histories.to_histories()
    allowed = torch.arange(15) % 3 != 1
    model = fit_content_knn(make_features(15, seed=1), ContentKnnConfig())

    ranking = model.rank(histories, 15, exclude_seen=exclude_seen, allowed=allowed)

    scores = torch.from_numpy(model.score(data.test.histories))
    expected = top_items(scores, histories, 15, exclude_seen=exclude_seen, allowed=allowed)
    assert ranking.items.tolist() == expected.items.tolist()
    assert isinstance(model, Ranker)


def test_an_item_that_nobody_had_is_found_by_its_content() -> None:
    data = make_dataset([[0, 1, 0, 2], [1, 0, 1, 2]], num_items=5)
    vectors = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, 0.9]])
    features = [Features("text", vectors, torch.ones(5, dtype=torch.bool), {})]

    ranking = fit_content_knn(features, ContentKnnConfig(history_length=1)).rank(
        data.test.histories.to_histories(), 1, exclude_seen=True
    )

    assert ranking.items[0].tolist() == [4]  # after item 0; nobody ever had item 4


def shop_of_alike(seed: int) -> tuple[Dataset, list[Features]]:
    """The next item is one like the last by text; images are noise."""
    data = random_dataset(num_users=300, num_items=40, seed=seed, follows=0.8)
    angle = 2 * math.pi * torch.arange(40) / 40
    text = torch.stack([angle.sin(), angle.cos()], 1)
    is_present = torch.ones(40, dtype=torch.bool)
    noise = torch.randn(40, 8, generator=torch.Generator().manual_seed(seed))
    return data, [Features("image", noise, is_present, {}), Features("text", text, is_present, {})]


def test_tuning_reads_no_test_item_and_finds_the_modality_that_matters() -> None:
    data, features = shop_of_alike(seed=7)
    test = data.test
    blind = replace(data, test=Cases(test.users, test.histories, np.zeros_like(test.targets)))

    tuned = tune_content_knn(data, features, num_cases=200)
    blindly = tune_content_knn(blind, features, num_cases=200)

    assert tuned.config == blindly.config
    assert tuned.config.modalities == ("text",)
    assert tuned.config.history_length == 1


def test_features_that_are_not_there_are_named() -> None:
    features = make_features(15, seed=0)

    with pytest.raises(FeatureError, match="audio, but there are features for image, text only"):
        fit_content_knn(features, ContentKnnConfig(modalities=("audio",)))
    with pytest.raises(FeatureError, match="for nothing only"):
        fit_content_knn([], ContentKnnConfig())
