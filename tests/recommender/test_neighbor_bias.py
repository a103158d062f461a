"""Neighbors are those a plain search finds, and add what the table says for their age."""

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from small_catalogs import (
    NUM_ITEMS,
    ONE_PASS,
    RAGGED,
    random_histories,
    random_model,
    random_tables,
)

from bbqrec.data import Sequences
from bbqrec.recommender import (
    Neighbors,
    RecommenderConfig,
    catalog_from_weights,
    find_neighbors,
)
from bbqrec.recommender.config import NeighborConfig
from bbqrec.recommender.item_knn import ItemKnnConfig, count_pairs, similarities
from bbqrec.recommender.neighbor_bias import neighbor_gains, num_age_buckets, recent_items
from bbqrec.recommender.neighbors import nearest_by_content, with_newcomers
from bbqrec.recommender.tables import directions

TRAIN = Sequences(*random_histories())
FEW = NeighborConfig(num_neighbors=5, num_recent=4, num_buckets=3, num_folds=2)
CONFIG = ONE_PASS.model_copy(update={"neighbors": FEW})


def neighbors_of(config: RecommenderConfig = CONFIG) -> dict[str, Neighbors]:
    tables = random_tables()
    return find_neighbors(TRAIN, NUM_ITEMS, tables.content, tables.is_present, config)


def test_recent_items_come_latest_first() -> None:
    recent = recent_items(RAGGED, torch.tensor([0, 0, 1, 3]), torch.tensor([5, 2, 2, 0]), 4)

    assert recent.tolist() == [[20, 7, 1, 7], [7, 3, -1, -1], [6, 5, -1, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize("fold", [None, 0, 1])
def test_behavior_neighbors_are_those_of_item_knn_without_the_fold(fold: int | None) -> None:
    users = np.arange(len(TRAIN))
    part = TRAIN if fold is None else TRAIN.take(users[users % FEW.num_folds != fold])
    settings = ItemKnnConfig(num_neighbors=NUM_ITEMS)
    pairs = count_pairs(part, NUM_ITEMS, settings)
    popularity = np.bincount(part.items, minlength=NUM_ITEMS)
    expected = similarities(pairs, popularity, settings).toarray()

    found = neighbors_of()["behavior"]
    folds = None if fold is None else torch.full((NUM_ITEMS,), fold)
    items, buckets = found.of(torch.arange(NUM_ITEMS)[:, None], folds)

    for item in range(NUM_ITEMS):
        row = np.flatnonzero(expected[item])
        row = row[np.argsort(-expected[item][row], kind="stable")][: FEW.num_neighbors]
        bucket = buckets[item, 0].tolist()
        is_real = [b < FEW.num_buckets for b in bucket]
        assert sum(is_real) == len(row)
        np.testing.assert_allclose(expected[item][items[item, 0][: len(row)]], expected[item][row])
        assert bucket == sorted(bucket[: len(row)], reverse=True) + bucket[len(row) :]


def test_content_neighbors_are_the_highest_cosines() -> None:
    tables = random_tables()
    present = tables.is_present["text"]
    centered = (tables.content["text"] - tables.content["text"][present].mean(0)) * present[:, None]
    cosine = F.cosine_similarity(centered[:, None], centered[None], dim=-1)
    cosine.fill_diagonal_(0)

    found = neighbors_of()["text"]

    assert found.items.shape == (1, NUM_ITEMS + 1, FEW.num_neighbors)
    best = cosine.clamp(min=0).topk(FEW.num_neighbors, dim=1)
    chosen = cosine.gather(1, found.items[0, :-1].long())
    is_real = found.buckets[0, :-1] < FEW.num_buckets
    assert torch.equal(is_real, best.values > 0)
    torch.testing.assert_close(chosen[is_real], best.values[is_real])
    assert not is_real[~present].any()


def test_the_bias_is_a_sum_over_the_latest_items_and_their_neighbors() -> None:
    generator = torch.Generator().manual_seed(0)
    found = neighbors_of()
    is_unseen = torch.rand(NUM_ITEMS, generator=generator) < 0.3
    shape = (len(found), 2, num_age_buckets(FEW.num_recent), FEW.num_buckets)
    bias = torch.randn(shape, generator=generator)
    recent = torch.randint(-1, NUM_ITEMS, (9, FEW.num_recent), generator=generator)
    folds = torch.arange(9) % FEW.num_folds

    added = torch.zeros(9, NUM_ITEMS)
    for items, gained in neighbor_gains(bias, recent, found, is_unseen, folds):
        added.scatter_add_(1, items.flatten(1), gained.flatten(1))

    expected = torch.zeros(9, NUM_ITEMS)
    for kind, (name, neighbors) in enumerate(found.items()):
        for entry in range(9):
            fold = 1 + int(folds[entry]) if len(neighbors.items) > 1 else 0
            for age, item in enumerate(recent[entry].tolist(), start=1):
                for neighbor, bucket in zip(
                    neighbors.items[fold, item].tolist(),
                    neighbors.buckets[fold, item].tolist(),
                    strict=True,
                ):
                    is_hidden = name == "behavior" and (is_unseen[item] or is_unseen[neighbor])
                    if item >= 0 and bucket < FEW.num_buckets and not is_hidden:
                        table = bias[kind, int(is_unseen[neighbor])]
                        expected[entry, neighbor] += table[int(np.log2(age)), bucket]
    torch.testing.assert_close(added, expected)


def test_kinds_come_in_the_order_in_which_saved_weights_give_them_back() -> None:
    tables = random_tables()
    content = {"video": tables.content["text"], "audio": tables.content["image"]}
    present = {"video": tables.is_present["text"], "audio": tables.is_present["image"]}
    found = find_neighbors(TRAIN, NUM_ITEMS, content, present, CONFIG)
    model = random_model(
        CONFIG, tables._replace(content=content, is_present=present, neighbors=found)
    )

    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded, _ = catalog_from_weights(safetensors.torch.load(safetensors.torch.save(weights)))

    assert list(loaded.neighbors) == list(found) == ["audio", "behavior", "video"]


def test_a_user_alone_with_a_pair_does_not_see_it_in_training() -> None:
    lonely = Sequences(np.array([0, 1, 2, 3, 2, 3], np.int32), np.array([0, 2, 4, 6]))
    config = ONE_PASS.model_copy(update={"neighbors": FEW.model_copy(update={"num_folds": 3})})
    tables = random_tables()

    found = find_neighbors(lonely, NUM_ITEMS, {}, tables.is_present, config)["behavior"]
    _, buckets = found.of(torch.tensor([[0], [2]]), torch.tensor([0, 1]))
    _, known = found.of(torch.tensor([[0], [2]]), None)

    assert (buckets < FEW.num_buckets).any(2).tolist() == [[False], [True]]
    assert (known < FEW.num_buckets).any(2).all()


def test_content_of_very_many_items_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bbqrec.recommender.neighbors.MAX_COMPARED", NUM_ITEMS - 1)

    assert list(neighbors_of()) == ["behavior"]
    assert "behavior alone" in caplog.text


def test_newcomers_become_neighbors_by_content_alone() -> None:
    tables, found = random_tables(), neighbors_of()
    old, new = NUM_ITEMS - 3, 3
    units = directions(tables.content["text"], tables.is_present["text"])
    known = find_neighbors(
        Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64)),
        old,
        {"text": tables.content["text"][:old]},
        {"text": tables.is_present["text"][:old]},
        CONFIG,
    )

    table = known["text"]._replace(edges=found["text"].edges)
    by_content = with_newcomers(table, new, nearest_by_content(units, table.items.shape[2]))
    by_behavior = with_newcomers(known["behavior"], new, None)

    assert torch.equal(by_content.items, found["text"].items)
    assert torch.equal(by_content.buckets, found["text"].buckets)
    assert by_behavior.items.shape[1] == NUM_ITEMS + 1
    assert (by_behavior.buckets[:, old:] == FEW.num_buckets).all()


@pytest.mark.parametrize(("num_known", "num_items"), [(40, 41), (40, 60), (3, 30), (1, 2)])
def test_neighbors_of_newcomers_are_found_without_comparing_all_again(
    monkeypatch: pytest.MonkeyPatch, num_known: int, num_items: int
) -> None:
    monkeypatch.setattr("bbqrec.recommender.neighbors._MAX_COSINES", 7 * num_items)
    generator = torch.Generator().manual_seed(num_items)
    units = F.normalize(torch.randn(num_items, 3, generator=generator), dim=-1)
    units[num_known // 2] = 0  # an item without content

    known = nearest_by_content(units[:num_known], 10)
    found = nearest_by_content(units, 10, known)

    cosines = (units @ units.T).fill_diagonal_(0).clamp(min=0)
    expected = cosines.sort(dim=1, descending=True)
    width = min(10, num_items)
    torch.testing.assert_close(found.likeness, expected.values[:, :width])
    is_near = found.likeness > 0
    assert found.items[is_near].equal(expected.indices[:, :width][is_near])
    assert not found.items[~is_near].any()
