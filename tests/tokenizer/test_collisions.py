"""Reassignment ends with distinct tuples, moves as little as it can, or says that it cannot."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bbqrec.errors import SemanticIdError
from bbqrec.tokenizer import assign, join_parts, resolve_collisions


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    fill=st.floats(0.05, 1.0),
    spread=st.sampled_from([0.0, 0.1, 3.0]),
    seed=st.integers(0, 1000),
)
def test_all_tuples_are_distinct_however_full_the_space_is(
    sizes: list[int], fill: float, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_items = max(1, round(fill * torch.tensor(sizes).prod().item()))
    codebooks = [torch.randn(size, 3, generator=generator) for size in sizes]
    vectors = spread * torch.randn(num_items, 3, generator=generator)

    result = assign(vectors[:, None].expand(-1, len(sizes), -1), codebooks)

    assert len(result.semantic_ids.codes.unique(dim=0)) == num_items
    counts = result.wanted.unique(dim=0, return_counts=True)[1]
    moved = (result.wanted != result.semantic_ids.codes).any(1)
    assert moved.sum() == (counts - 1).sum()  # one of each group keeps its tuple


def test_the_nearest_keeps_its_tuple_and_the_next_takes_the_nearest_free_last_code() -> None:
    codebooks = [torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [1.0], [-2.0]])]
    vectors = torch.tensor([[0.3], [0.1], [0.4]])  # all want (0, 0); item 1 is nearest

    result = assign(vectors[:, None].expand(-1, 2, -1), codebooks)

    assert result.wanted.tolist() == [[0, 0]] * 3
    # Item 0 is nearer its last code than item 2 and chooses first: code 1, at distance 0.7.
    assert result.semantic_ids.codes.tolist() == [[0, 1], [0, 0], [0, 2]]


def test_an_earlier_code_changes_only_when_the_prefix_is_full() -> None:
    codebooks = [torch.tensor([[0.0], [10.0], [4.0]]), torch.tensor([[0.0], [1.0]])]
    vectors = torch.zeros(4, 1)

    codes = assign(vectors[:, None].expand(-1, 2, -1), codebooks).semantic_ids.codes

    assert codes.tolist() == [[0, 0], [0, 1], [2, 0], [2, 1]]


def test_more_items_than_tuples_are_refused() -> None:
    codebooks = [torch.randn(2, 3), torch.randn(2, 3)]

    with pytest.raises(SemanticIdError, match=r"5 items .*4 tuples"):
        resolve_collisions(torch.zeros(5, 2, dtype=torch.long), torch.randn(5, 2, 3), codebooks)


def test_parts_joined_are_quantized_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    books = [[torch.randn(4, 3) for _ in range(2)] for _ in range(2)]
    vectors = torch.randn(2, 9, 3)
    targets = vectors.transpose(0, 1)[:, :, None].expand(-1, -1, 2, -1)

    joined = assign(*join_parts(targets, books))

    alone = [
        assign(vectors[part][:, None].expand(-1, 2, -1), books[part]).wanted for part in range(2)
    ]
    assert torch.equal(joined.wanted, torch.cat(alone, 1))


def test_identical_items_fill_the_whole_space() -> None:
    codebooks = [torch.randn(3, 2), torch.randn(3, 2), torch.randn(3, 2)]

    codes = assign(torch.ones(27, 3, 2), codebooks).semantic_ids.codes

    assert sorted(map(tuple, codes.tolist())) == list(itertools.product(range(3), repeat=3))
