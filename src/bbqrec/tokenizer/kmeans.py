"""k-means with its heavy step as one matrix product, and level by level on residuals."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ROWS = 65536


def nearest(
    vectors: Float[Tensor, "row dim"], centers: Float[Tensor, "code dim"]
) -> Int[Tensor, " row"]:
    """The nearest center of every row, by ||c||^2 - 2 v.c (the term ||v||^2 decides nothing).

    In float32 even under autocast: near centers differ by less than bf16 can hold.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, centers = vectors.float(), centers.float()
        half_norms = centers.square().sum(-1) / 2
        chunks = [
            # Not argmin: the same indices, but it takes twice as long on a CPU.
            torch.addmm(half_norms, chunk, centers.T, alpha=-1).min(-1).indices
            for chunk in torch.split(vectors, CHUNK_ROWS)
        ]
    return torch.cat(chunks) if chunks else vectors.new_zeros(0, dtype=torch.long)


def kmeans(
    vectors: Float[Tensor, "row dim"],
    num_centers: int,
    *,
    iterations: int,
    generator: torch.Generator,
) -> Float[Tensor, "code dim"]:
    """Centers by Lloyd's algorithm, started from distinct random rows.

    With fewer rows than centers the surplus centers are rows repeated with a little noise.

    Args:
        generator: a CPU generator, so that every device starts from the same rows.
    """
    num_rows = len(vectors)
    order = torch.randperm(num_rows, generator=generator)
    centers = vectors[order[torch.arange(num_centers) % num_rows].to(vectors.device)].clone()
    surplus = max(0, num_centers - num_rows)
    noise = torch.randn(surplus, vectors.shape[1], generator=generator).to(vectors)
    spread = vectors.std(unbiased=False).clamp(min=1e-6)
    centers[num_centers - surplus :] += 0.01 * spread * noise
    return centers if surplus else lloyd(vectors, centers, iterations=iterations)


def lloyd(
    vectors: Float[Tensor, "row dim"], centers: Float[Tensor, "code dim"], *, iterations: int
) -> Float[Tensor, "code dim"]:
    """Every center to the mean of the rows nearest to it, again and again (Lloyd, 1982).

    An empty cluster restarts at one of the rows farthest from their centers. Needs as many rows
    as centers.
    """
    num_centers = len(centers)
    for _ in range(iterations):
        assigned = nearest(vectors, centers)
        # Not bincount, for which a GPU would wait in every iteration.
        counts = assigned.new_zeros(num_centers).index_add_(0, assigned, torch.ones_like(assigned))
        sums = torch.zeros_like(centers).index_add_(0, assigned, vectors)
        distances = (vectors - centers[assigned]).square().sum(-1)
        farthest = vectors[distances.topk(num_centers).indices]
        # The n-th empty cluster takes the n-th farthest row: no two restart at the same place.
        rank = (counts == 0).cumsum(0) - 1
        means = sums / counts.clamp(min=1)[:, None]
        centers = torch.where((counts == 0)[:, None], farthest[rank.clamp(min=0)], means)
    return centers


def residual_kmeans(
    targets: Float[Tensor, "row level dim"],
    sizes: tuple[int, ...],
    *,
    iterations: int,
    generator: torch.Generator,
    clustering: Callable[..., Tensor] = kmeans,
) -> list[Float[Tensor, "_ dim"]]:
    """Codebooks coarse to fine, each the k-means of what the levels before left unexplained.

    Level l explains `targets[:, l]` minus the code vectors of the levels before it.

    Args:
        clustering: `kmeans`, or what has its arguments and result.
    """
    explained = torch.zeros_like(targets[:, 0])
    codebooks = []
    for level, size in enumerate(sizes):
        residuals = targets[:, level] - explained
        codebook = clustering(residuals, size, iterations=iterations, generator=generator)
        explained = explained + codebook[nearest(residuals, codebook)]
        codebooks.append(codebook)
    return codebooks
