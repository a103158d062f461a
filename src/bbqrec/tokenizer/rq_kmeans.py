"""RQ-k-means: principal components of content, then k-means level by level on residuals."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bbqrec.features import Features, standardize
from bbqrec.tokenizer.assignment import Assignment, assign
from bbqrec.tokenizer.config import TokenizerConfig
from bbqrec.tokenizer.kmeans import kmeans, lloyd, residual_kmeans

# Of `progressive_kmeans`: from an eighth of the components on, each time 1.4 times as many.
NARROW_STAGES = 6


def fit_rq_kmeans(
    features: list[Features], config: TokenizerConfig, *, seed: int
) -> tuple[Assignment, dict[str, Tensor], dict[str, Tensor]]:
    """Semantic IDs from content alone, item vectors ("fused"), and the fitted state."""
    vectors = _centered(features)
    components = principal_components(vectors, config.dim)
    latent = vectors @ components
    targets = latent[:, None].expand(-1, config.num_levels, -1)
    codebooks = residual_kmeans(
        targets,
        config.codebook_sizes,
        iterations=config.kmeans_iterations,
        generator=torch.Generator().manual_seed(seed),
        clustering=progressive_kmeans,
    )
    weights = {"components": components}
    weights |= {f"codebooks.{level}": codebook for level, codebook in enumerate(codebooks)}
    return assign(targets, codebooks), {"fused": latent}, weights


def progressive_kmeans(
    vectors: Float[Tensor, "row dim"],
    num_centers: int,
    *,
    iterations: int,
    generator: torch.Generator,
) -> Float[Tensor, "code dim"]:
    """k-means on an eighth of the principal components, then on ever more, at last on all.

    Rows are told apart first where they differ most, so that the end is less often a poor local
    optimum. After `ProgressiveDimClustering` in faiss, which has ten stages of as many iterations
    each, from the first component on.

    Args:
        iterations: on all components; the narrower stages share as many.
        generator: a CPU generator, as in `kmeans`.
    """
    num_rows, dim = vectors.shape
    if num_rows <= num_centers:  # each row has a center of its own
        return kmeans(vectors, num_centers, iterations=iterations, generator=generator)
    directions = principal_components(vectors - vectors.mean(0), dim)
    rotated = vectors @ directions
    starts = torch.randperm(num_rows, generator=generator)[:num_centers]
    centers = rotated[starts.to(vectors.device)]
    for stage in range(NARROW_STAGES + 1):
        width = math.ceil(dim * 2 ** ((stage - NARROW_STAGES) / 2))
        times = iterations if stage == NARROW_STAGES else math.ceil(iterations / NARROW_STAGES)
        centers = lloyd(rotated[:, :width].contiguous(), centers[:, :width], iterations=times)
        # Zero, which all centers share, in the components to come: rows keep their codes.
        centers = torch.nn.functional.pad(centers, (0, dim - width))
    return centers @ directions.T


def _centered(features: list[Features]) -> Float[Tensor, "item dim"]:
    """Features joined, each modality centered and of the same mean length; missing ones zero.

    Dimensions keep their relative scales, because principal components are about them.
    """
    return torch.cat([centered_like(f, f.vectors, f.is_present) for f in features], 1)


def centered_like(
    catalog: Features, vectors: Float[Tensor, "row dim"], is_present: Bool[Tensor, " row"]
) -> Float[Tensor, "row dim"]:
    """Any items' vectors of a modality, centered and scaled as the catalog's own are."""
    present = catalog.vectors[catalog.is_present]
    mean = present.mean(0)
    length = (present - mean).square().sum(-1).mean().sqrt().clamp(min=1e-12)
    return (vectors - mean) / length * is_present[:, None]


def side_by_side(
    features: list[Features],
) -> tuple[Float[Tensor, "item dim"], Float[Tensor, "item dim"]]:
    """Standardized features joined, and 1 where they are content rather than a missing modality.

    Missing features stay at 0, the catalog's mean; a loss weighted by the second result does not
    ask for them to be rebuilt.
    """
    vectors = [standardize(f) for f in features]
    weights = [
        f.is_present.float()[:, None].expand_as(table)
        for f, table in zip(features, vectors, strict=True)
    ]
    return torch.cat(vectors, 1), torch.cat(weights, 1)


def principal_components(vectors: Float[Tensor, "item in"], dim: int) -> Float[Tensor, "in dim"]:
    """The `dim` directions of largest variance of centered vectors, zero-padded if fewer."""
    doubled = vectors.double()
    _, directions = torch.linalg.eigh(doubled.T @ doubled)  # ascending
    largest = directions.flip(1)[:, :dim].float()
    return torch.nn.functional.pad(largest, (0, dim - largest.shape[1]))
