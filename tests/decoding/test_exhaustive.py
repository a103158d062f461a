import pytest
import torch
from random_models import NUM_ROWS, RandomSession, new_session, random_ids

from bbqrec.decoding import PrefixIndex, score_every_item
from bbqrec.decoding.exhaustive import EDGES_PER_BEAM, is_faster, largest_extension
from bbqrec.semantic_ids import SemanticIds


@pytest.mark.parametrize("codebook_sizes", [(7,), (3, 300), (4, 4, 4)])
def test_an_item_scores_the_sum_of_its_codes_given_what_came_before(
    codebook_sizes: tuple[int, ...],
) -> None:
    ids = random_ids(40, codebook_sizes, seed=1)
    allowed = torch.arange(40) % 3 > 0
    session = new_session(ids, batch=2, seed=4)
    starts = session.state[:, 0].tolist()

    scores = score_every_item(session, PrefixIndex.build(ids).restrict(allowed))

    for user, start in enumerate(starts):
        for item, codes in enumerate(ids.codes.tolist()):
            state, expected = start, 0.0
            for table, code in zip(session.tables, codes, strict=True):
                expected += float(table[state % NUM_ROWS, code])
                state = (state * 31 + code + 1) % 1_000_003
            expected = expected if allowed[item] else -torch.inf
            assert scores[user, item].item() == pytest.approx(expected)


@pytest.mark.parametrize("num_allowed", [1, 7, 100])
def test_the_floats_needed_are_those_of_the_widest_extension(num_allowed: int) -> None:
    ids = random_ids(100, (2, 7, 50), seed=0)
    index = PrefixIndex.build(ids).restrict(torch.arange(100) < num_allowed)
    widest = 0

    class Watching:
        def __init__(self) -> None:
            self.session = new_session(ids, batch=1, seed=0)

        def first(self) -> torch.Tensor:
            return self.session.first()

        def extend(self, parents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            nonlocal widest
            log_probs = self.session.extend(parents, codes)
            widest = max(widest, log_probs.numel())
            return log_probs

    score_every_item(Watching(), index)

    assert widest == len({tuple(codes[:2]) for codes in ids.codes[:num_allowed].tolist()}) * 50
    assert largest_extension(index) >= widest
    if num_allowed > 3:
        assert largest_extension(index) == widest


class ScoresAll(RandomSession):
    """A session that has the scores of all items at hand; slowly made, as ever."""

    ids: SemanticIds
    knows_every_item = False

    def every_item(self) -> torch.Tensor:
        plain = RandomSession(self.tables, self.state)
        return score_every_item(plain, PrefixIndex.build(self.ids))


def test_a_session_that_scores_all_items_by_itself_is_asked_for_that() -> None:
    ids = random_ids(60, (4, 4, 4), seed=2)
    plain = new_session(ids, batch=3, seed=1)
    session = ScoresAll(plain.tables, plain.state)
    session.ids = ids
    index = PrefixIndex.build(ids).restrict(torch.arange(60) % 3 > 0)

    scores = score_every_item(session, index)

    assert session.level == 0  # nothing was extended
    assert torch.equal(scores, score_every_item(plain, index))


def test_enumeration_is_for_few_items_and_for_sessions_that_score_all_of_a_small_catalog() -> None:
    ids = random_ids(5000, (40, 40, 40), seed=0, unique=True)
    index = PrefixIndex.build(ids)
    num_edges = sum(level.num_edges for level in index.levels)
    plain = new_session(ids, batch=1, seed=1)
    session = ScoresAll(plain.tables, plain.state)

    assert not is_faster(plain, index, 4999)
    assert is_faster(plain, index, 5000)
    assert is_faster(plain, index.restrict(torch.arange(5000) < 9), 9)
    assert not is_faster(session, index, num_edges // EDGES_PER_BEAM)
    assert is_faster(session, index, num_edges // EDGES_PER_BEAM + 1)
    session.knows_every_item = True
    assert is_faster(session, index, 1)


def test_who_knows_all_scores_is_asked_for_them_however_few_may_be_found() -> None:
    ids = random_ids(5000, (40, 40, 40), seed=0, unique=True)
    whole = PrefixIndex.build(ids)
    few = whole.restrict(torch.arange(5000) < 1)
    assert sum(level.num_edges for level in whole.levels) > EDGES_PER_BEAM
    levels = []
    for knows_every_item in (False, True):
        plain = new_session(ids, batch=2, seed=1)
        session = ScoresAll(plain.tables, plain.state)
        session.ids, session.knows_every_item = ids, knows_every_item

        scores = score_every_item(session, few)

        levels.append(session.level)
        expected = score_every_item(new_session(ids, batch=2, seed=1), few)
        torch.testing.assert_close(scores, expected)
    assert levels == [2, 0]  # one was extended, the other was not
