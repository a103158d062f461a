"""Metrics agree with hand computation, with ir-measures, and keep their bounds."""

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bbqrec.errors import ConfigError
from bbqrec.evaluation import metric_values, target_ranks


def test_ranks_are_counted_from_one_and_empty_places_never_match() -> None:
    items = torch.tensor([[7, 3, 5], [3, 7, -1], [5, -1, -1], [-1, -1, -1]])

    ranks = target_ranks(items, torch.tensor([7, 7, 7, 7]))

    assert ranks.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("target", [-1, -2])
def test_no_negative_target_matches_an_empty_place(target: int) -> None:
    assert target_ranks(torch.tensor([[4, -1, -1]]), torch.tensor([target])).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall@1", [0.0, 1.0, 0.0, 0.0, 0.0]),
        ("recall@3", [0.0, 1.0, 1.0, 1.0, 0.0]),
        ("ndcg@3", [0.0, 1.0, 0.6309297535714575, 0.5, 0.0]),
        ("mrr@3", [0.0, 1.0, 1 / 2, 1 / 3, 0.0]),
    ],
)
def test_values_by_hand(name: str, expected: list[float]) -> None:
    values = metric_values(np.array([0, 1, 2, 3, 4]), name)

    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["recall", "recall@0", "recall@-1", "ndcg@1.5", "hit@3", "", "@5"])
def test_an_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no metric"):
        metric_values(np.array([1]), name)


def test_metrics_agree_with_ir_measures() -> None:
    generator = np.random.default_rng(0)
    num_cases, num_items, depth = 300, 60, 20
    items = np.stack([generator.permutation(num_items)[:depth] for _ in range(num_cases)])
    targets = generator.integers(num_items, size=num_cases)
    qrels = [ir_measures.Qrel(f"q{i}", f"d{target}", 1) for i, target in enumerate(targets)]
    run = [
        # Scores that follow the place: with tied scores every library would choose its own order.
        ir_measures.ScoredDoc(f"q{row}", f"d{item}", float(depth - place))
        for row in range(num_cases)
        for place, item in enumerate(items[row])
    ]
    theirs = {
        "recall": ir_measures.R,
        "ndcg": ir_measures.nDCG,
        "mrr": ir_measures.RR,
    }

    ranks = target_ranks(torch.from_numpy(items), torch.from_numpy(targets)).numpy()

    for name in ("recall@1", "recall@5", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@20"):
        kind, cutoff = name.split("@")
        measure = theirs[kind] @ int(cutoff)
        expected = ir_measures.calc_aggregate([measure], qrels, run)[measure]
        assert metric_values(ranks, name).mean() == pytest.approx(expected, abs=5e-5)


@given(ranks=st.lists(st.integers(0, 40), min_size=1, max_size=50), k=st.integers(1, 30))
def test_metrics_stay_in_bounds_grow_with_k_and_ignore_the_order_of_users(
    ranks: list[int], k: int
) -> None:
    rank = np.array(ranks)
    recall, ndcg, mrr = (metric_values(rank, f"{name}@{k}") for name in ("recall", "ndcg", "mrr"))

    assert (mrr >= 0).all()
    assert (mrr <= ndcg).all()
    assert (ndcg <= recall).all()
    assert (recall <= 1).all()
    assert (metric_values(rank, f"ndcg@{k + 1}") >= ndcg).all()
    np.testing.assert_allclose(metric_values(rank[::-1], f"ndcg@{k}").mean(), ndcg.mean())
