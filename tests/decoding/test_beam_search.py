import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import RandomSession, new_session, random_ids, slow_beam_search

from bbqrec.decoding import CodeScorer, PrefixIndex, beam_search, score_every_item
from bbqrec.ranking import Histories
from bbqrec.semantic_ids import SemanticIds


def histories(*rows: list[int]) -> Histories:
    lengths = torch.tensor([0, *map(len, rows)])
    flat = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return Histories(flat, lengths.cumsum(0))


@pytest.mark.parametrize(
    ("num_items", "codebook_sizes"),
    [(1, (1,)), (6, (6,)), (9, (4,)), (30, (6, 6)), (50, (6, 6, 6, 6)), (400, (300, 2, 3))],
)
def test_a_beam_as_wide_as_the_catalog_is_exhaustive(
    num_items: int, codebook_sizes: tuple[int, ...]
) -> None:
    ids = random_ids(num_items, codebook_sizes, seed=num_items)
    index = PrefixIndex.build(ids)

    ranking = beam_search(new_session(ids, batch=3, seed=1), index, beam_width=num_items)

    table = score_every_item(new_session(ids, batch=3, seed=1), index)
    expected = table.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(ranking.scores, expected.values, rtol=0, atol=0)
    assert ranking.items.tolist() == expected.indices.tolist()


@settings(deadline=None, max_examples=60)
@given(
    num_items=st.integers(1, 150),
    codebook_sizes=st.lists(st.sampled_from([1, 2, 3, 4, 5, 90]), min_size=1, max_size=4).map(
        tuple
    ),
    skew=st.sampled_from([1, 5]),
    seed=st.integers(0, 10_000),
    width=st.integers(1, 12),
    k=st.integers(1, 20),
    coarse=st.booleans(),
    share_excluded=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    share_allowed=st.sampled_from([0.0, 0.2, 1.0]),
    is_static=st.booleans(),
)
def test_the_search_equals_a_slow_search_one_user_at_a_time(
    num_items: int,
    codebook_sizes: tuple[int, ...],
    skew: int,
    seed: int,
    width: int,
    k: int,
    coarse: bool,
    share_excluded: float,
    share_allowed: float,
    is_static: bool,
) -> None:
    ids = random_ids(num_items, codebook_sizes, seed=seed, skew=skew)
    generator = torch.Generator().manual_seed(seed)
    is_excluded = torch.rand((3, num_items), generator=generator) < share_excluded
    allowed = torch.rand(num_items, generator=generator) < share_allowed
    excluded = histories(*(row.nonzero().squeeze(1).tolist() * 2 for row in is_excluded))
    session = new_session(ids, batch=3, seed=seed, coarse=coarse)
    slow = [RandomSession(session.tables, session.state[[user]]) for user in range(3)]
    index = PrefixIndex.build(ids).restrict(allowed)

    ranking = beam_search(
        session, index, beam_width=width, k=k, excluded=excluded, is_static=is_static
    )

    for user in range(3):
        candidates = (allowed & ~is_excluded[user]).nonzero().squeeze(1).tolist()
        expected = slow_beam_search(slow[user], ids.codes.tolist(), candidates, width, k)
        expected += [(-1, -torch.inf)] * (k - len(expected))
        assert ranking.items[user].tolist() == [item for item, _ in expected]
        assert ranking.scores[user].tolist() == pytest.approx([score for _, score in expected])


@pytest.mark.parametrize("way", ["allowed", "excluded"])
def test_one_beam_finds_the_only_item_left_below_the_unlikeliest_prefixes(way: str) -> None:
    ids = random_ids(300, (8, 8, 8), seed=3, unique=True)
    index = PrefixIndex.build(ids)
    table = score_every_item(new_session(ids, batch=4, seed=2), index)
    worst = int(table[0].argmin())
    others = [item for item in range(300) if item != worst]
    excluded = None
    if way == "allowed":
        index = index.restrict(torch.arange(300) == worst)
    else:
        excluded = histories(others, [], [worst], others)

    session = new_session(ids, batch=4, seed=2)
    ranking = beam_search(session, index, beam_width=1, k=2, excluded=excluded)

    answered = [0, 1, 2, 3] if way == "allowed" else [0, 3]
    assert ranking.items[answered].tolist() == [[worst, -1]] * len(answered)
    torch.testing.assert_close(ranking.scores[answered, 0], table[answered, worst])
    assert (ranking.scores[answered, 1] == -torch.inf).all()


def test_items_of_one_semantic_id_are_all_returned_in_item_order() -> None:
    ids = SemanticIds(torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1], [1, 0]]), (2, 2))
    tables = [torch.tensor([-2.0, -1.0]), torch.tensor([-1.0, -3.0])]
    session = RandomSession([t.expand(499, -1) for t in tables], torch.zeros((1, 1)).long())

    ranking = beam_search(session, PrefixIndex.build(ids), beam_width=2, k=5)

    assert ranking.items.tolist() == [[0, 2, 4, 3, 1]]
    assert ranking.scores.tolist() == [[-2.0, -2.0, -2.0, -4.0, -5.0]]


def test_equal_scores_are_ordered_by_item_number() -> None:
    ids = random_ids(200, (8, 8, 8), seed=5, unique=True)
    session = RandomSession([torch.full((499, 8), -2.0)] * 3, torch.zeros((2, 1)).long())

    ranking = beam_search(session, PrefixIndex.build(ids), beam_width=200)

    assert ranking.items.tolist() == [list(range(200))] * 2


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])  # 0/0 is a negative NaN on common processors
def test_a_score_that_is_not_a_number_is_never_pruned(sign: float, is_static: bool) -> None:
    ids = random_ids(64, (8, 8), seed=0, unique=True)
    session = RandomSession([torch.full((499, 8), -2.0)] * 2, torch.zeros((1, 1)).long())
    session.tables[0] = session.tables[0].clone()
    session.tables[0][:, 5] = sign * torch.nan

    ranking = beam_search(session, PrefixIndex.build(ids), beam_width=3, is_static=is_static)

    assert ranking.scores.isnan().all()
    assert (ids.codes[ranking.items[0], 0] == 5).all()


def test_any_object_with_the_two_methods_is_a_code_scorer() -> None:
    ids = random_ids(3, (2,), seed=0)

    assert isinstance(new_session(ids, batch=1, seed=0), CodeScorer)
    assert not isinstance(ids, CodeScorer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("coarse", [False, True])
def test_a_gpu_gives_the_ranking_of_the_cpu(coarse: bool) -> None:
    ids = random_ids(500, (8, 8, 8), seed=0)
    index = PrefixIndex.build(ids)
    seen = histories([1, 2, 3], [], list(range(0, 500, 2)))
    session = new_session(ids, batch=3, seed=0, coarse=coarse)
    tables, state = [table.cuda() for table in session.tables], session.state.cuda()

    expected = beam_search(session, index, beam_width=10, excluded=seen)
    ranking = beam_search(
        RandomSession(tables, state), index.to("cuda"), beam_width=10, excluded=seen.to("cuda")
    )

    assert ranking.items.tolist() == expected.items.tolist()
    torch.testing.assert_close(ranking.scores.cpu(), expected.scores)
