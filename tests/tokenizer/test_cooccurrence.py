"""Co-occurrence vectors against a dense decomposition, and what they say of unknown items."""

import math
from collections import Counter

import pytest
import torch
from small_datasets import make_sequences

from bbqrec.tokenizer import cooccurrence_vectors


def random_rows(num_users: int, items: range) -> list[list[int]]:
    generator = torch.Generator().manual_seed(num_users)
    drawn = torch.randint(items.start, items.stop, (num_users, 9), generator=generator)
    return [row[: 2 + user % 8] for user, row in enumerate(drawn.tolist())]


def slow_information(rows: list[list[int]], num_items: int) -> torch.Tensor:
    """Positive pointwise mutual information of items at most five places apart."""
    counts: Counter[tuple[int, int]] = Counter()
    for row in rows:
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                if 0 < abs(i - j) <= 5 and a != b:
                    counts[a, b] += 1
    totals: Counter[int] = Counter()
    for (a, _), count in counts.items():
        totals[a] += count
    matrix = torch.zeros(num_items, num_items, dtype=torch.float64)
    for (a, b), count in counts.items():
        chance = totals[a] * totals[b] / totals.total()
        matrix[a, b] = max(0.0, math.log(count / chance))
    return matrix


def test_inner_products_are_those_of_a_dense_decomposition() -> None:
    rows = random_rows(40, range(20))

    vectors = cooccurrence_vectors(make_sequences(rows), 20, dim=30, seed=0)

    left, values, _ = torch.linalg.svd(slow_information(rows, 20))
    expected = left * values @ left.T
    torch.testing.assert_close(vectors @ vectors.T, expected.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("num_users", "dim"), [(50, 8), (50, 80), (3, 32)])
def test_items_without_pairs_get_exactly_zero(num_users: int, dim: int) -> None:
    rows = [*random_rows(num_users, range(10, 60)), [3]]  # alone in its history

    vectors = cooccurrence_vectors(make_sequences(rows), 60, dim=dim, seed=0)

    has_pairs = {item for row in rows if len(set(row)) > 1 for item in row}
    assert {item for item in range(60) if vectors[item].any()} <= has_pairs
    assert len(has_pairs) - int(vectors.any(1).sum()) <= 1
