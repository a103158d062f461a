import pytest
import torch
from random_models import NUM_ROWS, new_session, random_ids

from bbqrec.decoding import PrefixIndex, score_every_item
from bbqrec.decoding.exhaustive import largest_extension


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


def test_the_floats_needed_are_those_of_the_widest_extension() -> None:
    ids = random_ids(100, (2, 3, 50), seed=0)
    index = PrefixIndex.build(ids)
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

    assert largest_extension(index) == widest
