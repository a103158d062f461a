import pytest
import torch
from random_models import RandomModel, random_ids
from torch import nn

from bbqrec.decoding import PrefixIndex, RankingConfig, beam_search, make_ranker
from bbqrec.errors import ConfigError, RequestError, TrainingDivergedError
from bbqrec.ranking import Histories, Ranker, Ranking, top_items
from bbqrec.semantic_ids import SemanticIds

IDS = random_ids(120, (6, 6, 6), seed=0)
WAYS = ["generative", "dense", "both"]


def random_histories(num_users: int, *, longest: int = 12, num_items: int = 120) -> Histories:
    generator = torch.Generator().manual_seed(num_users)
    lengths = torch.randint(0, longest + 1, (num_users,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Histories(torch.randint(num_items, (int(offsets[-1]),), generator=generator), offsets)


def full_table(model: RandomModel, histories: Histories, rank_by: str) -> torch.Tensor:
    """Every user's score of every item, straight from the model."""
    model.eval()
    items, lengths = histories.latest(model.max_history)
    every_item = torch.arange(len(model.ids)).expand(histories.num_users, -1)
    generative = model.score_items(items, lengths, every_item)
    dense = model.dense_scores(histories)
    return {"generative": generative, "dense": dense, "both": dense + 0.5 * generative}[rank_by]


def wide(rank_by: str, **changes: object) -> RankingConfig:
    values = {
        "rank_by": rank_by,
        "beam_width": 120,
        "num_candidates": 120,
        "generative_weight": 0.5,
    }
    return RankingConfig.parse({**values, **changes})


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("share_allowed", [None, 0.5, 0.02])
@pytest.mark.parametrize(
    "config", [*map(wide, WAYS), wide("generative", exhaustive=True)], ids=[*WAYS, "exhaustive"]
)
def test_a_ranker_agrees_with_a_full_table_of_scores(
    config: RankingConfig, share_allowed: float | None, exclude_seen: bool, coarse: bool
) -> None:
    model = RandomModel(IDS, coarse=coarse)
    histories = random_histories(23)
    generator = torch.Generator().manual_seed(1)
    allowed = (
        None if share_allowed is None else torch.rand(120, generator=generator) < share_allowed
    )
    ranker = make_ranker(model, IDS, config)

    ranking = ranker.rank(histories, 10, exclude_seen=exclude_seen, allowed=allowed)

    table = full_table(model, histories, config.rank_by)
    expected = top_items(table, histories, 10, exclude_seen=exclude_seen, allowed=allowed)
    assert ranking.items.tolist() == expected.items.tolist()
    torch.testing.assert_close(ranking.scores, expected.scores)
    assert isinstance(ranker, Ranker)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("rank_by", WAYS)
def test_results_do_not_depend_on_the_batch_size(rank_by: str, coarse: bool) -> None:
    model = RandomModel(IDS, coarse=coarse)
    histories = random_histories(70)
    rankings = []

    for batch_size in (1, 7, 64):
        config = RankingConfig.parse(
            {"rank_by": rank_by, "beam_width": 5, "num_candidates": 20, "batch_size": batch_size}
        )
        ranker = make_ranker(model, IDS, config)
        rankings.append(ranker.rank(histories, 8, exclude_seen=True))

    for ranking in rankings[1:]:
        assert torch.equal(ranking.items, rankings[0].items)
        torch.testing.assert_close(ranking.scores, rankings[0].scores)


def test_histories_of_like_length_share_a_batch() -> None:
    model = RandomModel(IDS, max_history=12)
    histories = random_histories(64)

    make_ranker(model, IDS, wide("dense", batch_size=8)).rank(histories, 5, exclude_seen=False)

    padded = sum(users * width for users, width in model.batches)
    assert padded < 1.2 * len(histories.items) + 8


@pytest.mark.parametrize("rank_by", WAYS)
def test_items_seen_before_the_models_window_are_left_out_too(rank_by: str) -> None:
    model = RandomModel(IDS, max_history=2)
    ranker = make_ranker(model, IDS, wide(rank_by))
    latest = torch.tensor([3, 5])
    best = int(ranker.rank(Histories(latest, torch.tensor([0, 2])), 1, exclude_seen=True).items)
    longer = Histories(torch.tensor([best, 9, 3, 5]), torch.tensor([0, 4]))

    kept = ranker.rank(longer, 120, exclude_seen=False)
    filtered = ranker.rank(longer, 120, exclude_seen=True)

    assert best in kept.items[0].tolist()
    assert sorted(filtered.items[0].tolist()) == sorted(
        [*(set(range(120)) - {best, 9, 3, 5}), -1, -1, -1, -1]
    )


def test_only_the_dense_short_list_is_ranked_by_both_scores() -> None:
    model, histories = RandomModel(IDS), random_histories(9)

    ranking = make_ranker(model, IDS, wide("both", num_candidates=15)).rank(
        histories, 10, exclude_seen=True
    )

    dense, both = (full_table(model, histories, rank_by) for rank_by in ("dense", "both"))
    short_list = top_items(dense, histories, 15, exclude_seen=True).items
    for user, candidates in enumerate(short_list.tolist()):
        expected = sorted(candidates, key=both[user].neg().tolist().__getitem__)[:10]
        assert ranking.items[user].tolist() == expected


def test_a_narrow_beam_widens_to_the_number_of_items_asked_for() -> None:
    model, histories = RandomModel(IDS), random_histories(5)

    narrow = make_ranker(model, IDS, wide("generative", beam_width=2))
    twenty = make_ranker(model, IDS, wide("generative", beam_width=20))

    assert torch.equal(
        narrow.rank(histories, 20, exclude_seen=True).items,
        twenty.rank(histories, 20, exclude_seen=True).items,
    )


@pytest.mark.parametrize("rank_by", WAYS)
def test_the_smallest_catalog_and_no_users_are_ordinary(rank_by: str) -> None:
    ids = SemanticIds(torch.zeros((1, 1), dtype=torch.int64), (1,))
    ranker = make_ranker(RandomModel(ids), ids, wide(rank_by))
    one_empty = Histories(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    nobody = Histories(torch.zeros(0, dtype=torch.int64), torch.tensor([0]))

    assert ranker.rank(one_empty, 1, exclude_seen=True).items.tolist() == [[0]]
    assert ranker.rank(nobody, 1, exclude_seen=True).items.shape == (0, 1)


def test_the_model_is_left_in_the_mode_it_was_in() -> None:
    model = RandomModel(IDS).train()

    make_ranker(model, IDS, wide("dense")).rank(random_histories(3), 1, exclude_seen=False)

    assert model.training


@pytest.mark.parametrize("rank_by", WAYS)
def test_a_request_that_cannot_be_answered_is_refused(rank_by: str) -> None:
    ranker = make_ranker(RandomModel(IDS), IDS, wide(rank_by))
    histories = random_histories(4)
    unknown = Histories(torch.tensor([1, 2, 120]), torch.tensor([0, 2, 3]))

    for k in (0, 121):
        with pytest.raises(RequestError, match=f"{k} items were asked for.*120 items"):
            ranker.rank(histories, k, exclude_seen=True)
    with pytest.raises(RequestError, match=r"history 1 holds item 120.*0 to 119"):
        ranker.rank(unknown, 5, exclude_seen=True)
    with pytest.raises(RequestError, match=r"shape \(119,\).*120 items"):
        ranker.rank(histories, 5, exclude_seen=True, allowed=torch.ones(119, dtype=torch.bool))


def test_a_ranking_by_a_score_the_model_lacks_is_refused() -> None:
    class OnlyGenerates(nn.Module):
        max_history = 3
        begin = RandomModel.begin
        score_items = RandomModel.score_items

    model = OnlyGenerates()

    make_ranker(model, IDS, wide("generative"))
    for rank_by in ("dense", "both"):
        with pytest.raises(ConfigError, match=f"'{rank_by}', but OnlyGenerates"):
            make_ranker(model, IDS, wide(rank_by))


@pytest.mark.parametrize("rank_by", WAYS)
def test_scores_that_are_not_numbers_are_reported_not_ranked(rank_by: str) -> None:
    model = RandomModel(IDS)
    model.code_tables = [table * torch.nan for table in model.code_tables]
    model.item_table = model.item_table * torch.nan

    with pytest.raises(TrainingDivergedError, match="NaN"):
        make_ranker(model, IDS, wide(rank_by)).rank(random_histories(3), 5, exclude_seen=False)


@pytest.mark.parametrize("num_allowed", [1, 20, 21])
def test_no_search_is_made_for_no_more_items_than_beams(
    num_allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, histories = RandomModel(IDS, coarse=True), random_histories(9)
    allowed = torch.arange(120) % 120 < num_allowed
    ranker = make_ranker(model, IDS, wide("generative", beam_width=20))
    searches: list[int] = []

    def search(session: object, *arguments: object, **named: object) -> Ranking:
        searches.append(1)
        return beam_search(session, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("bbqrec.decoding.rankers.beam_search", search)
    found = ranker.rank(histories, 10, exclude_seen=True, allowed=allowed)

    assert bool(searches) == (num_allowed > 20)
    monkeypatch.setattr("bbqrec.decoding.rankers.is_faster", lambda *_: False)
    expected = ranker.rank(histories, 10, exclude_seen=True, allowed=allowed)
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)


def test_exhaustive_ranking_keeps_its_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = PrefixIndex.build(IDS).levels[-1].num_nodes * 6
    monkeypatch.setattr("bbqrec.decoding.rankers.MAX_EXHAUSTIVE_FLOATS", 3 * largest)
    model = RandomModel(IDS)

    config = wide("generative", exhaustive=True)
    make_ranker(model, IDS, config).rank(random_histories(20), 5, exclude_seen=True)

    assert max(users for users, _ in model.batches) == 3
