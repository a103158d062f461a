"""The drawn shop: what is planted can be found, and the oracle is as good as the law allows."""

import io
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor

from bbqrec.data import Oracle, draw_shop
from bbqrec.errors import DataError
from bbqrec.ranking import Histories, Ranker, top_items
from bbqrec.storage import read_json, read_tensors


class Shop(NamedTuple):
    directory: Path
    item_ids: list[str]
    truth: dict[str, Tensor]
    histories: list[list[int]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("shop")
    draw_shop(directory, seed=3, num_items=250, num_users=1500)
    item_ids = read_json(directory / "truth.json")["item_ids"]
    number_of = {item_id: item for item, item_id in enumerate(item_ids)}
    purchases = pl.read_parquet(directory / "interactions.parquet").sort("timestamp")
    by_user = purchases.group_by("user_id", maintain_order=True).agg("item_id")["item_id"]
    histories = [[number_of[item_id] for item_id in history] for history in by_user]
    truth = read_tensors(directory / "truth.safetensors")
    return Shop(directory, item_ids, truth, histories)


def ragged(histories: list[list[int]]) -> Histories:
    lengths = torch.tensor([0, *map(len, histories)])
    return Histories(torch.tensor(list(itertools.chain(*histories))), lengths.cumsum(0))


def test_the_same_seed_draws_the_same_shop_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        draw_shop(tmp_path / name, seed=seed, num_items=50, num_users=30)

    for table in ("interactions", "items", "images"):
        a, again, b = (
            pl.read_parquet(tmp_path / name / f"{table}.parquet") for name in ("a", "again", "b")
        )
        assert a.equals(again)
        assert not a.equals(b)


def test_a_shop_is_a_clean_dataset(shop: Shop) -> None:
    purchases = pl.read_parquet(shop.directory / "interactions.parquet")
    items = pl.read_parquet(shop.directory / "items.parquet")
    images = pl.read_parquet(shop.directory / "images.parquet")

    assert items["item_id"].n_unique() == items.height == 250
    assert images["item_id"].equals(items["item_id"])
    assert set(purchases["item_id"]) <= set(items["item_id"])
    assert purchases.select("user_id", "item_id").is_unique().all()
    assert purchases.select("user_id", "timestamp").is_unique().all()
    assert purchases.group_by("user_id").len()["len"].is_between(5, 25).all()
    with Image.open(io.BytesIO(images["bytes"][0])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (128, 128))


def test_shoppers_follow_taste_and_never_see_the_nuisance(shop: Shop) -> None:
    pairs = np.array([pair for history in shop.histories for pair in itertools.pairwise(history)])
    generator = np.random.default_rng(0)
    shuffled = np.stack([pairs[:, 0], generator.permutation(pairs[:, 1])], axis=1)

    def mean_difference(table: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
        distance = np.abs(table[pairs[:, 0]] - table[pairs[:, 1]])
        return distance.mean(), distance.std() / math.sqrt(len(pairs))

    taste = shop.truth["taste"].numpy()
    nuisances = np.concatenate(
        [shop.truth["picture_nuisance"].numpy(), shop.truth["text_nuisance"].numpy()], axis=1
    )

    for column in taste.T:  # of one shopper's neighboring purchases, tastes are alike
        near, error = mean_difference(column, pairs)
        assert near < mean_difference(column, shuffled)[0] - 10 * error
    # Neither taste nor popularity, and so nothing that moves a shopper, shows in the nuisance.
    both = np.corrcoef(np.concatenate([taste, nuisances], axis=1).T)[: taste.shape[1]]
    assert np.abs(both[:, taste.shape[1] :]).max() < 4 / math.sqrt(len(taste))
    weight = shop.truth["log_item"].exp().sum(0).log().numpy()
    fame = [abs(np.corrcoef(weight, column)[0, 1]) for column in nuisances.T]
    assert max(fame) < 4 / math.sqrt(len(taste))


def test_the_oracle_is_the_sum_over_all_paths_of_styles(shop: Shop) -> None:
    oracle = Oracle.load(shop.directory, shop.item_ids)
    history = shop.histories[0][:3]
    weight, kind = shop.truth["log_item"].exp().numpy(), shop.truth["kind"].numpy()
    style_after = shop.truth["log_style_after"].exp().numpy()
    kind_after = shop.truth["log_kind_after"].exp().numpy()

    def choice(style: int, bought: list[int]) -> np.ndarray:
        """The law as the module's docstring states it."""
        last = kind[bought[-1]] if bought else len(kind_after) - 1
        p = weight[style] * kind_after[last][kind]
        p[bought] = 0
        return p / p.sum()

    num_styles = len(weight)
    expected = np.zeros(len(kind))
    for path in itertools.product(range(num_styles), repeat=4):
        p = 1 / num_styles
        for step, style in enumerate(path[:3]):
            p *= choice(style, history[:step])[history[step]] * style_after[style, path[step + 1]]
        expected += p * choice(path[3], history)
    expected /= expected.sum()

    got = oracle.log_probabilities(ragged([history, shop.histories[1][:5]])).exp()[0]

    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-9)


def test_the_oracle_hits_as_often_as_it_says_and_far_more_often_than_popularity(shop: Shop) -> None:
    oracle = Oracle.load(shop.directory, shop.item_ids)
    histories = ragged([history[:-1] for history in shop.histories])
    targets = torch.tensor([history[-1] for history in shop.histories])
    popularity = torch.bincount(histories.items, minlength=250).float().expand(len(targets), -1)

    ranking = oracle.rank(histories, 10, exclude_seen=True)
    is_hit = (ranking.items == targets[:, None]).any(1).double()
    popular = top_items(popularity, histories, 10, exclude_seen=True)
    popular_recall = (popular.items == targets[:, None]).any(1).double().mean()

    promised = ranking.scores.exp().sum(1).double()
    error = (promised * (1 - promised)).sum().sqrt() / len(targets)
    assert abs(is_hit.mean() - promised.mean()) < 3 * error
    assert is_hit.mean() > 4 * popular_recall


def test_the_oracle_takes_items_in_any_order(shop: Shop) -> None:
    order = torch.randperm(250, generator=torch.Generator().manual_seed(0))
    reordered = Oracle.load(shop.directory, [shop.item_ids[item] for item in order])
    number_of = order.argsort()
    histories = ragged(shop.histories[:20])

    a = Oracle.load(shop.directory, shop.item_ids).rank(histories, 5, exclude_seen=True)
    b = reordered.rank(
        Histories(number_of[histories.items], histories.offsets), 5, exclude_seen=True
    )

    assert isinstance(reordered, Ranker)
    assert torch.equal(order[b.items], a.items)
    with pytest.raises(DataError, match="'SOFA-0001'"):
        Oracle.load(shop.directory, ["SOFA-0001"])


def test_too_small_a_shop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 50 items"):
        draw_shop(tmp_path, seed=0, num_items=10)
