"""k-means against faiss, and its corner cases."""

from itertools import pairwise

import faiss
import numpy as np
import torch

from bbqrec.tokenizer import kmeans, nearest, residual_kmeans


def clustered(num_rows: int, dim: int, num_clusters: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_clusters, dim, generator=generator)
    chosen = torch.randint(num_clusters, (num_rows,), generator=generator)
    return centers[chosen] + 0.3 * torch.randn(num_rows, dim, generator=generator)


def test_error_is_as_small_as_that_of_faiss() -> None:
    vectors = clustered(4000, 16, 60, seed=0)

    centers = kmeans(vectors, 64, iterations=20, generator=torch.Generator().manual_seed(0))

    ours = (vectors - centers[nearest(vectors, centers)]).square().sum(-1).mean()
    theirs = faiss.Kmeans(16, 64, niter=20, seed=1)
    theirs.train(vectors.numpy())
    distances, _ = theirs.index.search(vectors.numpy(), 1)
    assert ours <= 1.05 * np.mean(distances)


def test_nearest_agrees_with_all_distances() -> None:
    vectors, centers = torch.randn(300, 5), torch.randn(40, 5)

    found = nearest(vectors, centers)

    assert torch.equal(found, torch.cdist(vectors, centers).argmin(1))


def test_no_cluster_stays_empty_while_rows_differ() -> None:
    vectors = torch.cat([torch.zeros(500, 2), torch.randn(20, 2) + 5])

    centers = kmeans(vectors, 12, iterations=30, generator=torch.Generator().manual_seed(1))

    assert len(nearest(vectors, centers).unique()) >= 11  # 500 equal rows may start several


def test_fewer_rows_than_centers_are_all_represented_exactly() -> None:
    vectors = torch.randn(5, 3)

    centers = kmeans(vectors, 8, iterations=5, generator=torch.Generator().manual_seed(0))

    assert centers.shape == (8, 3)
    assert torch.equal(centers[nearest(vectors, centers)], vectors)


def test_levels_have_their_own_sizes_and_explain_more_and_more() -> None:
    vectors = clustered(1000, 6, 30, seed=3)
    targets = vectors[:, None].expand(-1, 3, -1)

    books = residual_kmeans(targets, (16, 8, 4), iterations=10, generator=torch.Generator())

    assert [len(book) for book in books] == [16, 8, 4]
    residual, errors = vectors, [vectors.square().sum()]
    for book in books:
        residual = residual - book[nearest(residual, book)]
        errors.append(residual.square().sum())
    assert all(later < earlier for earlier, later in pairwise(errors))
