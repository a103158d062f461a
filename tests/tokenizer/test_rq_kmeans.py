"""RQ-k-means and its clustering on ever more components, against plain k-means and faiss."""

import faiss
import pytest
import torch
from torch import Tensor

from bbqrec.features import Features
from bbqrec.tokenizer import TokenizerConfig, fit_rq_kmeans, kmeans, nearest
from bbqrec.tokenizer.rq_kmeans import progressive_kmeans

DIM, NUM_CODES = 32, 64


def clustered(seed: int, num_rows: int = 3000) -> Tensor:
    """Three clusters to two codes, along directions of unequal variance."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(96, DIM, generator=generator)
    chosen = torch.randint(96, (num_rows,), generator=generator)
    rows = centers[chosen] + 0.4 * torch.randn(num_rows, DIM, generator=generator)
    mixing = torch.randn(DIM, DIM, generator=generator) * DIM**-0.5
    return rows @ mixing + 5


def error(vectors: Tensor, centers: Tensor) -> float:
    return float((vectors - centers[nearest(vectors, centers)]).square().sum(-1).mean())


def progressive(vectors: Tensor, num_centers: int = NUM_CODES, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return progressive_kmeans(vectors, num_centers, iterations=20, generator=generator)


def test_ever_more_components_leave_less_error_than_all_at_once() -> None:
    ours, plain = 0.0, 0.0

    for seed in range(4):
        vectors = clustered(seed)
        ours += error(vectors, progressive(vectors))
        generator = torch.Generator().manual_seed(seed)
        plain += error(vectors, kmeans(vectors, NUM_CODES, iterations=60, generator=generator))

    assert ours < 0.95 * plain


def test_error_is_as_small_as_that_of_faiss() -> None:
    vectors = clustered(seed=0)

    ours = error(vectors, progressive(vectors))

    reference = faiss.ProgressiveDimClustering(DIM, NUM_CODES)
    reference.train(
        len(vectors), faiss.swig_ptr(vectors.numpy()), faiss.ProgressiveDimIndexFactory()
    )
    centers = faiss.vector_to_array(reference.centroids).reshape(NUM_CODES, DIM)
    assert ours <= 1.05 * error(vectors, torch.from_numpy(centers))


def test_one_seed_gives_one_result() -> None:
    vectors = clustered(seed=0)

    first, again, other = (progressive(vectors, seed=seed) for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("num_rows", [1, 5, 8])
def test_where_every_row_has_a_center_they_are_those_of_plain_kmeans(num_rows: int) -> None:
    vectors = torch.randn(num_rows, 3)

    centers = progressive(vectors, 8)

    generator = torch.Generator().manual_seed(0)
    assert torch.equal(centers, kmeans(vectors, 8, iterations=20, generator=generator))


@pytest.mark.parametrize("dim", [1, 3, DIM])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_rows_without_variance_are_represented_exactly(dim: int, value: float) -> None:
    vectors = torch.full((40, dim), value)

    centers = progressive(vectors, 8)

    torch.testing.assert_close(centers, vectors[:8])


def test_items_without_features_get_the_codes_of_the_mean() -> None:
    vectors = clustered(seed=0, num_rows=300)
    is_present = torch.arange(300) % 3 > 0
    features = Features("text", vectors * is_present[:, None], is_present, {})
    config = TokenizerConfig(method="rq_kmeans", num_levels=2, codebook_size=32, dim=16)

    assignment, item_vectors, weights = fit_rq_kmeans([features], config, seed=0)

    mean = torch.zeros(1, 16)
    codes = []
    for level in range(2):
        codebook = weights[f"codebooks.{level}"]
        codes.append(nearest(mean, codebook).item())
        mean = mean - codebook[codes[-1]]
    assert (item_vectors["fused"][~is_present] == 0).all()
    assert assignment.wanted[~is_present].unique(dim=0).tolist() == [codes]
