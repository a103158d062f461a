"""The protocol is the same for every model, honest about edge cases and refuses cheating."""

from dataclasses import dataclass, replace

import numpy as np
import orjson
import pytest
import torch
from jaxtyping import Bool, Float, Int
from small_datasets import make_dataset, random_dataset
from torch import Tensor

from bbqrec.data import Sequences
from bbqrec.errors import ConfigError, DataError, RequestError
from bbqrec.evaluation import (
    Evaluation,
    EvaluationConfig,
    count_repeat_targets,
    environment,
    evaluate,
    metric_values,
    quick_metrics,
    sample_cases,
    score_ranks,
)
from bbqrec.ranking import Histories, Ranking, top_items
from bbqrec.recommender import fit_popularity


@dataclass
class FixedScores:
    """Scores that do not depend on the history."""

    scores: Float[Tensor, " item"]

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        scores = self.scores.expand(histories.num_users, -1)
        return top_items(scores, histories, k, exclude_seen=exclude_seen, allowed=allowed)


@dataclass
class Repeating:
    """Answers every history with the same items, whatever was asked."""

    items: Int[Tensor, "rank"]

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        items = self.items.expand(histories.num_users, -1)
        return Ranking(items, torch.zeros(items.shape))


SMALL = EvaluationConfig(
    metrics=("recall@1", "recall@2", "ndcg@2", "mrr@2"),
    slice_metrics=("ndcg@2",),
    main_metric="ndcg@2",
    list_length=2,
    num_bootstrap=50,
    popularity_bands=2,
    history_edges=(2,),
    batch_size=2,
)
# Training counts: item 0 four times, item 1 twice, item 2 once, items 3 and 4 never.
ROWS = [[0, 1, 3, 1], [0, 2, 0, 3], [0, 1, 3, 0], [0, 4, 2]]


def test_a_small_table_by_hand() -> None:
    data = make_dataset(ROWS, num_items=5)
    model = FixedScores(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]))

    result = evaluate({"fixed": model}, data.test, data, SMALL)

    # Kept: everyone sees 0, 1. Filtered, the histories are {0,1,3}, {0,2}, {0,1,3}, {0,4}:
    # the lists are (2, 4), (1, 3), (2, 4), (1, 2), and two targets cannot be found.
    assert result.ranks["fixed"]["kept"].tolist() == [2, 0, 1, 0]
    assert result.ranks["fixed"]["filtered"].tolist() == [0, 2, 0, 2]
    assert result.num_repeat_targets == 2
    kept, filtered = (result.models["fixed"][setting] for setting in ("kept", "filtered"))
    assert {name: interval.mean for name, interval in kept.overall.metrics.items()} == {
        "recall@1": 0.25,
        "recall@2": 0.5,
        "ndcg@2": pytest.approx((1 + 1 / np.log2(3)) / 4),
        "mrr@2": pytest.approx((1 + 1 / 2) / 4),
    }
    assert kept.coverage == 2 / 5
    assert filtered.coverage == 4 / 5
    # Seven interactions and five items: information of an item is -log2((count + 1) / 12).
    assert kept.novelty_bits == pytest.approx(np.mean(-np.log2(np.array([5, 3]) / 12)))
    assert kept.filled == 1


def test_slices_partition_the_cases_and_set_cold_targets_apart() -> None:
    data = make_dataset(ROWS, num_items=5)

    result = evaluate({"popularity": fit_popularity(data)}, data.test, data, SMALL)

    slices = result.models["popularity"]["kept"].slices
    sizes = {kind: {x: s.num_cases for x, s in groups.items()} for kind, groups in slices.items()}
    assert sizes == {
        "target popularity": {"0 (cold)": 1, "1-2": 2, "3+": 1},
        "history length": {"0-2": 1, "3+": 3},
    }
    assert slices["target popularity"]["3+"].metrics["ndcg@2"].mean == 1
    assert slices["target popularity"]["0 (cold)"].metrics["ndcg@2"].mean == 0


def test_models_are_compared_pair_by_pair_on_identical_resamples() -> None:
    data = random_dataset(num_users=300, num_items=30, seed=0, follows=0.5)
    popularity, noise = fit_popularity(data), FixedScores(torch.arange(30.0))
    models = {"a": popularity, "same as a": popularity, "noise": noise}

    result = evaluate(models, data.test, data, reference="a")
    alone = evaluate({"noise": noise}, data.test, data)

    for setting in ("kept", "filtered"):
        a, same, other = (result.models[name][setting].overall for name in models)
        assert a.difference == {}
        for interval in same.difference.values():
            assert (interval.mean, interval.low, interval.high) == (0, 0, 0)
        for name, interval in other.difference.items():
            gap = other.metrics[name].mean - a.metrics[name].mean
            assert interval.mean == pytest.approx(gap, abs=1e-12)
            assert interval.low <= interval.mean <= interval.high
        for name, interval in alone.models["noise"][setting].overall.metrics.items():
            assert interval.low == pytest.approx(other.metrics[name].low, abs=1e-12)


def test_ranks_of_different_runs_can_be_compared_later() -> None:
    generator = np.random.default_rng(0)
    ranks = {name: generator.integers(0, 15, size=200) for name in ("new", "old")}

    scores = score_ranks(ranks, ("ndcg@10",), reference="old", seed=3)

    values = {name: metric_values(rank, "ndcg@10") for name, rank in ranks.items()}
    difference = scores["new"].difference["ndcg@10"]
    assert difference.mean == pytest.approx((values["new"] - values["old"]).mean())
    own = scores["new"].metrics["ndcg@10"]
    spread = (values["new"] - values["old"]).std() / values["new"].std()
    ratio = (difference.high - difference.low) / (own.high - own.low)
    assert ratio == pytest.approx(spread, rel=0.15)


def test_batches_do_not_change_a_result() -> None:
    data = random_dataset(num_users=41, num_items=25, seed=1)
    models = {"popularity": fit_popularity(data)}

    results = [
        evaluate(models, data.test, data, EvaluationConfig(batch_size=size)) for size in (1, 7, 99)
    ]

    for result in results[1:]:
        for setting in ("kept", "filtered"):
            one, other = (r.models["popularity"][setting] for r in (results[0], result))
            assert one.model_dump(exclude={"wall_s"}) == other.model_dump(exclude={"wall_s"})


def test_an_evaluation_survives_json() -> None:
    data = random_dataset(num_users=30, num_items=25, seed=1)
    models = {"popularity": fit_popularity(data), "zeros": FixedScores(torch.zeros(25))}

    result = evaluate(models, data.test, data, reference="zeros")
    text = orjson.dumps(result.to_json())

    assert Evaluation.parse(orjson.loads(text)).to_json() == result.to_json()
    assert b"null" not in text
    assert b"ranks" not in orjson.dumps(list(result.to_json()))


def test_quick_metrics_agree_with_the_full_protocol() -> None:
    data = random_dataset(num_users=90, num_items=25, seed=2)
    model = fit_popularity(data)

    result = evaluate({"popularity": model}, data.validation, data, split="validation")
    quick = quick_metrics(model, data.validation, exclude_seen=True, batch_size=7)

    full = result.models["popularity"]["filtered"].overall.metrics
    assert quick == {name: pytest.approx(full[name].mean) for name in ("ndcg@10", "recall@10")}


def test_a_sample_of_cases_is_fixed_by_its_seed() -> None:
    cases = random_dataset(num_users=50, num_items=25, seed=3).test

    sample, again, other = (sample_cases(cases, 20, seed) for seed in (1, 1, 2))

    assert sample.users.tolist() == again.users.tolist() != other.users.tolist()
    assert len(set(sample.users.tolist())) == 20
    for row, user in enumerate(sample.users.tolist()):
        assert sample.targets[row] == cases.targets[user]
        assert sample.histories.row(row).tolist() == cases.histories.row(user).tolist()
    assert sample_cases(cases, 50, 1) is cases


def test_repeat_targets_are_counted_once_per_case() -> None:
    data = make_dataset([[1, 1, 2, 1], [1, 2, 3], [2, 2, 2]], num_items=4)

    assert count_repeat_targets(data.test) == 2


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([0, 1, 2], "were asked for"),
        ([0, 0], "twice"),
        ([0, 5], "outside 0 to 4"),
        ([-2, 0], "outside 0 to 4"),
    ],
)
def test_an_answer_that_is_no_ranking_is_refused(items: list[int], message: str) -> None:
    data = make_dataset(ROWS, num_items=5)

    with pytest.raises(RequestError, match=f"'odd'.*{message}"):
        evaluate({"odd": Repeating(torch.tensor(items))}, data.test, data, SMALL)


def test_recommending_excluded_items_is_refused_and_empty_places_are_not() -> None:
    data = make_dataset(ROWS, num_items=5)

    with pytest.raises(RequestError, match="although they are excluded"):
        evaluate({"cheat": Repeating(torch.tensor([1, 2]))}, data.test, data, SMALL)

    empty = evaluate({"empty": Repeating(torch.tensor([-1, -1]))}, data.test, data, SMALL)
    assert empty.models["empty"]["filtered"].filled == 0
    assert empty.models["empty"]["filtered"].novelty_bits == 0


def test_wrong_requests_say_what_is_wrong() -> None:
    data = make_dataset(ROWS, num_items=5)
    model = fit_popularity(data)

    with pytest.raises(ConfigError, match="'SASRec' is not among"):
        evaluate({"popularity": model}, data.test, data, reference="SASRec")
    with pytest.raises(ConfigError, match="no model"):
        evaluate({}, data.test, data)
    with pytest.raises(DataError, match="has no cases"):
        evaluate({"popularity": model}, data.test.take(np.array([], dtype=np.int64)), data)
    with pytest.raises(ConfigError, match="main_metric"):
        EvaluationConfig.parse({"main_metric": "ndcg@7"})
    with pytest.raises(ConfigError, match="must increase"):
        EvaluationConfig.parse({"history_edges": [5, 5]})
    with pytest.raises(ConfigError, match="metrics"):
        EvaluationConfig.parse({"metrics": ["hits@7"]})


def test_a_dataset_without_training_still_evaluates() -> None:
    data = make_dataset([[0, 1], [2, 0]], num_items=3)
    data = replace(data, train=Sequences(np.zeros(0, np.int32), np.zeros(3, np.int64)))

    result = evaluate({"popularity": fit_popularity(data)}, data.test, data, SMALL)

    groups = result.models["popularity"]["kept"].slices["target popularity"]
    assert list(groups) == ["0 (cold)"]


def test_the_environment_names_versions_but_no_place() -> None:
    import socket

    found = environment()

    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    text = orjson.dumps(found).decode()
    assert socket.gethostname() not in text
    assert "/" not in text
