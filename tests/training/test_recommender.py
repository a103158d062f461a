"""What training a recommender learns from data whose law is known, and what its batches hold."""

import numpy as np
import pytest
import small_catalogs as catalogs
import torch
from small_datasets import make_dataset, make_sequences

from bbqrec.data import Dataset
from bbqrec.decoding import RankingConfig, make_ranker
from bbqrec.errors import ConfigError
from bbqrec.evaluation import quick_metrics
from bbqrec.recommender import (
    ItemTables,
    NeighborConfig,
    Neighbors,
    OnePassRecommender,
    RecommenderConfig,
    SequenceModel,
    find_neighbors,
    find_transitions,
    join_transitions,
    transitions,
)
from bbqrec.semantic_ids import SemanticIds
from bbqrec.training import recommender as recipes
from bbqrec.training import transitions as training_transitions
from bbqrec.training.loop import FitResult, fit
from bbqrec.training.recommender import (
    FittedRecommender,
    RecommenderRecipe,
    TrainingConfig,
    fit_recommender,
    make_recipe,
)
from bbqrec.training.schedule import learning_rate_share
from bbqrec.training.windows import cut_prefixes, cut_windows

NUM_ITEMS = 30
NARROW = RecommenderConfig(d_model=16, num_heads=1, head_dim=8, d_ff=16, max_history=8)
CODES_OFF = TrainingConfig(
    epochs=6, batch_size=16, learning_rate=0.01, warmup_steps=5, generative_weight=0.0
)
BARELY = CODES_OFF.model_copy(update={"epochs": 1, "learning_rate": 1e-4})


def random_tables() -> ItemTables:
    codes = torch.randint(8, (NUM_ITEMS, 2), generator=torch.Generator().manual_seed(0))
    return ItemTables(
        SemanticIds(codes, (8, 8)), {}, {}, {}, {}, torch.zeros(NUM_ITEMS, dtype=torch.bool)
    )


def shoppers(*, come_back: bool) -> Dataset:
    """Random items, none twice; or the item of two events ago again, half of the time."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(150):
        row = rng.permutation(NUM_ITEMS)[:14].tolist()
        for place in range(2, len(row)):
            if come_back and rng.random() < 0.5:
                row[place] = row[place - 2]
        rows.append(row)
    return make_dataset(rows, NUM_ITEMS)


def learned_repeats(dataset: Dataset) -> dict[str, float]:
    fitted = fit_recommender(
        dataset, random_tables(), NARROW, CODES_OFF, RankingConfig(rank_by="dense"), seed=0
    )
    return fitted.model.learned_repeats()


def test_whether_people_come_back_is_learned() -> None:
    never = learned_repeats(shoppers(come_back=False))
    often = learned_repeats(shoppers(come_back=True))

    assert max(never[age] for age in ("1", "2 to 3", "4 to 7")) < -1
    assert often["2 to 3"] > 0.5
    assert often["1"] < -1


def walkers(num_users: int = 60) -> Dataset:
    """Everyone walks the catalog in order, so what follows what is known."""
    rows = [[(start + step) % NUM_ITEMS for step in range(6)] for start in range(num_users)]
    return make_dataset(rows, NUM_ITEMS)


def returners() -> Dataset:
    """Four times in five one of the latest four items again, else one of five that follow."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(150):
        row = [int(rng.integers(NUM_ITEMS))]
        for _ in range(11):
            if rng.random() < 0.8:
                row.append(int(rng.choice(row[-4:])))
            else:
                row.append(int((row[-1] + rng.integers(1, 6)) % NUM_ITEMS))
        rows.append(row)
    return make_dataset(rows, NUM_ITEMS)


def fit_near(
    dataset: Dataset,
    training: TrainingConfig = BARELY,
    *,
    transitions: bool = True,
    ranking: str = "dense",
) -> FittedRecommender:
    config = NARROW.model_copy(update={"neighbors": NeighborConfig(transitions=transitions)})
    found = find_neighbors(dataset.train, NUM_ITEMS, {}, {}, config)
    tables = random_tables()._replace(neighbors=found)
    by = RankingConfig.parse({"rank_by": ranking})
    return fit_recommender(dataset, tables, config, training, by, seed=0)


def ndcg(model: SequenceModel, dataset: Dataset, *, exclude_seen: bool = True) -> float:
    ranker = make_ranker(model, random_tables().semantic_ids, RankingConfig(rank_by="dense"))
    return quick_metrics(ranker, dataset.validation, exclude_seen=exclude_seen)["ndcg@10"]


def test_a_finished_model_is_given_the_transitions_that_help() -> None:
    dataset = walkers()
    without, given = (fit_near(dataset, transitions=wanted) for wanted in (False, True))

    assert given.transitions is not None
    assert given.transitions.weight > 0
    assert given.transitions.metrics["ndcg@10"] == ndcg(given.model, dataset)
    assert ndcg(given.model, dataset) > ndcg(without.model, dataset) + 0.3
    assert "transition" in given.model.learned_neighbors()
    assert set(without.model.learned_neighbors()) == {"behavior"}


def test_transitions_that_cost_more_among_repeats_than_they_gain_are_not_given() -> None:
    dataset = returners()
    fitted = fit_near(dataset, CODES_OFF.model_copy(update={"epochs": 4}))
    assert isinstance(fitted.model, OnePassRecommender)
    removed, left = (ndcg(fitted.model, dataset, exclude_seen=e) for e in (True, False))
    assert fitted.transitions is not None
    assert fitted.transitions.weight == 0

    found = find_transitions(dataset.train, NUM_ITEMS, NeighborConfig())
    assert found is not None
    join_transitions(fitted.model, found, training_transitions.WEIGHTS[-1])

    assert ndcg(fitted.model, dataset) > removed  # alone, this would have chosen them
    assert ndcg(fitted.model, dataset, exclude_seen=False) < left - 0.01


@pytest.mark.parametrize("ranking", ["dense", "generative"])
def test_what_cannot_use_transitions_goes_without_and_says_so(
    ranking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if ranking == "dense":
        monkeypatch.setattr(transitions, "MAX_SOLVED", NUM_ITEMS - 1)

    fitted = fit_near(walkers(), ranking=ranking)

    assert fitted.transitions is None
    assert set(fitted.model.learned_neighbors()) == {"behavior"}
    why = {"dense": "30 items are too many", "generative": "ranks by codes alone"}[ranking]
    assert why in caplog.text


def test_windows_cover_every_target_once() -> None:
    sequences = shoppers(come_back=False).train

    starts, lengths = cut_windows(sequences, 5, "all", np.random.default_rng(1))

    entries = np.concatenate(
        [np.arange(s, s + n) + 1 for s, n in zip(starts, lengths, strict=True)]
    )
    firsts = set(sequences.offsets[:-1].tolist())
    assert sorted(entries.tolist()) == [e for e in range(len(sequences.items)) if e not in firsts]
    assert lengths.max() == 5


@pytest.mark.parametrize("windows", ["all", "random", "last"])
def test_prefixes_end_before_their_target(windows: str) -> None:
    sequences = make_sequences([[1, 2, 3, 4, 5, 6, 7, 8], [9], [2, 4]])
    targets: set[int] = set()

    for seed in range(40):
        rng = np.random.default_rng(seed)
        starts, lengths = cut_prefixes(sequences, 3, windows, rng)
        targets |= set((starts + lengths).tolist())
        for start, length in zip(starts, lengths, strict=True):
            row = sequences.offsets.searchsorted(start, "right") - 1
            begin, end = sequences.offsets[row : row + 2]
            assert length == min(3, start + length - begin)
            assert start + length < end
        assert len(starts) == (8 - 1 + 2 - 1 if windows == "all" else 2)

    firsts = set(sequences.offsets[:-1].tolist())
    some = {7, 10} if windows == "last" else set(range(len(sequences.items))) - firsts
    assert targets == some


def test_sampled_negatives_never_hold_the_target_and_learn_the_same_order() -> None:
    """Everyone walks the catalog in order, so the next item is known."""
    rows = [[(start + step) % NUM_ITEMS for step in range(10)] for start in range(NUM_ITEMS)] * 4
    dataset = make_dataset(rows, NUM_ITEMS)
    config = NARROW.model_copy(update={"dense_score": "dot", "repeat_bias": False, "dropout": 0.0})
    config = config.model_copy(update={"neighbors": NeighborConfig(enabled=False)})
    training = CODES_OFF.model_copy(update={"num_negatives": 8, "epochs": 40})

    fitted = fit_recommender(
        dataset, random_tables(), config, training, RankingConfig(rank_by="dense"), seed=0
    )

    assert fitted.fit.log[-1]["recall@10"] > 0.95
    with pytest.raises(ConfigError, match="repeats and neighbors are worth"):
        make_recipe(
            dataset, random_tables(), NARROW, training, RankingConfig(rank_by="dense"), seed=0
        )


def test_a_walk_by_all_items_learns_what_it_will_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some entries at a time, with gradients in closed form."""
    config = catalogs.NEAR_TREE.model_copy(update={"dropout": 0.0, "item_dropout": 0.0})
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30, size=n).tolist() for n in rng.integers(5, 12, size=40)]
    monkeypatch.setitem(recipes.MAX_LOGITS, "cpu", 7 * catalogs.NUM_ITEMS)
    recipe = make_recipe(
        make_dataset(rows, catalogs.NUM_ITEMS),
        catalogs.tables_for(config),
        config,
        TrainingConfig(batch_size=16, generative_weight=1.0, dense_weight=0.0),
        RankingConfig(rank_by="generative"),
        seed=0,
    )
    model = recipe.model
    assert isinstance(model, OnePassRecommender)
    torch.nn.init.normal_(model.neighbor_bias)
    for name, known in recipe._neighbors.items():  # training reads others, which a search does not
        recipe._neighbors[name] = known._replace(items=known.items[:1], buckets=known.buckets[:1])
    recipe._is_unseen = torch.zeros_like(recipe._is_unseen)
    batch = next(recipe.batches(0))

    loss = recipe.losses(batch)["generative"]

    entries = (batch.targets >= 0).nonzero().tolist()
    expected = []
    for row, place in entries:
        items = batch.items[row : row + 1, : place + 1]
        session = model.begin(items, torch.tensor([place + 1]))
        expected.append(-session.walk.scores[0, batch.targets[row, place]])
    by_hand = torch.stack(expected).mean() / 3  # levels
    torch.testing.assert_close(loss, by_hand)
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, weights.values(), allow_unused=True)
    wanted = torch.autograd.grad(by_hand, weights.values(), allow_unused=True)
    for name, value, other in zip(weights, found, wanted, strict=True):
        assert (value is None) == (other is None), name
        if value is not None:
            torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-3, msg=name)


def fit_here(recipe: RecommenderRecipe, training: TrainingConfig) -> FitResult:
    cpu = torch.device("cpu")
    return fit(recipe, training, device=cpu, work_dir=None, identity={}, description="test")


@pytest.mark.parametrize("form", ["default", "own"])
def test_what_joins_the_vectors_is_learned_when_they_have_had_their_share(form: str) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30, size=n).tolist() for n in rng.integers(5, 12, size=40)]
    config = catalogs.FORMS[form]
    dataset, tables = make_dataset(rows, catalogs.NUM_ITEMS), catalogs.tables_for(config)
    ranking = RankingConfig(rank_by="dense")
    training = TrainingConfig(batch_size=16, epochs=4, additions_after=0.5)

    def learned_by_epoch(model: SequenceModel | None) -> list[float]:
        recipe = make_recipe(dataset, tables, config, training, ranking, seed=0, model=model)
        assert isinstance(recipe.model, OnePassRecommender)
        before, found = recipe.end_epoch, []
        late = [recipe.model.neighbor_bias, recipe.model.repeat_bias]
        if config.item_start == "own":
            own = recipe.model.item_vectors
            late += [own.code_vectors, own.unseen_vector, *own.projections.parameters()]
        start = [part.detach().clone() for part in late]

        def end_epoch(epoch: int) -> dict[str, float]:
            moved = [
                float((now.detach() - then).abs().max())
                for now, then in zip(late, start, strict=True)
            ]
            assert len({value > 0 for value in moved}) == 1, "all of them, or none"
            found.append(max(moved))
            return before(epoch)

        recipe.end_epoch = end_epoch  # type: ignore[method-assign]
        fit_here(recipe, training)
        trained.append(recipe.model)
        return found

    trained: list[SequenceModel] = []
    first = learned_by_epoch(None)
    assert first[:2] == [0, 0]
    assert 0 < first[2] < first[3]
    assert learned_by_epoch(trained[0])[0] > 0, "who goes on knows them already"


def small_recipe(config: RecommenderConfig, training: TrainingConfig) -> RecommenderRecipe:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30, size=n).tolist() for n in rng.integers(5, 12, size=20)]
    dataset, tables = make_dataset(rows, catalogs.NUM_ITEMS), catalogs.tables_for(config)
    return make_recipe(dataset, tables, config, training, RankingConfig(rank_by="dense"), seed=0)


@pytest.mark.parametrize("form", ["default", "own"])
def test_what_has_not_begun_is_left_out_and_changes_nothing(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = catalogs.FORMS[form].model_copy(update={"dropout": 0.0, "item_dropout": 0.0})
    recipe = small_recipe(config, TrainingConfig(batch_size=20, additions_after=0.5))
    assert isinstance(recipe.model, OnePassRecommender)
    (batch,) = recipe.batches(0)
    read: list[str] = []
    neighbors_of, draw_unseen = Neighbors.of, recipe.model.draw_unseen
    monkeypatch.setattr(
        Neighbors, "of", lambda *args: read.append("neighbors") or neighbors_of(*args)
    )
    monkeypatch.setattr(recipe.model, "draw_unseen", lambda: read.append("unseen") or draw_unseen())
    for projection in recipe.model.item_vectors.projections.values():
        projection.register_forward_hook(lambda *_: read.append("content"))

    every = {name: loss.item() for name, loss in recipe.losses(batch).items()}
    assert set(read) == {"neighbors", "unseen", "content"}
    read.clear()
    for group in recipe.optimizers["main"].param_groups:
        group["lr"] *= group["begins_at"] == 0
    before = {name: loss.item() for name, loss in recipe.losses(batch).items()}

    assert set(read) == (set() if form == "own" else {"unseen", "content"})
    assert before == pytest.approx(every, rel=1e-6)
    recipe.end_epoch(3)
    assert not recipe.model.item_vectors.is_own_alone


def test_content_joins_without_a_leap() -> None:
    config = catalogs.FORMS["own"].model_copy(update={"item_dropout": 0.5})
    recipe = small_recipe(config, TrainingConfig(batch_size=20, generative_weight=0.0))
    (batch,) = recipe.batches(0)

    sum(recipe.losses(batch).values()).backward()

    norms = torch.stack([p.grad.norm() for p in recipe.model.parameters() if p.grad is not None])
    assert norms.norm() < 1000  # zero vectors of unseen items would make it tens of thousands


@pytest.mark.parametrize("after", [0.0, 0.4, 0.6])
@pytest.mark.parametrize("low", [0.1, 1.0])
def test_tables_that_begin_late_come_as_far(after: float, low: float) -> None:
    training = TrainingConfig(additions_after=after, final_learning_rate=low)
    groups = small_recipe(catalogs.DEFAULT, training).optimizers["main"].param_groups
    scale = max(group["lr_scale"] for group in groups)

    def rates(begin: float) -> float:
        return sum(learning_rate_share(n, 500, training, after=begin) for n in range(500))

    assert scale * rates(after) == pytest.approx(10 * rates(0.0), rel=0.02)


def test_no_epoch_without_what_joins_late_counts_as_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = TrainingConfig(batch_size=20, epochs=5, additions_after=0.5)
    recipe = small_recipe(catalogs.FORMS["own"], training)
    falling = iter([0.9, 0.8, 0.7, 0.6, 0.5])
    monkeypatch.setattr(recipes, "quick_metrics", lambda *_, **__: {"ndcg@10": next(falling)})

    assert fit_here(recipe, training).best_epoch == 2  # in its midst additions began
