"""Approximate a vector by a sum of code vectors, one per level, coarse to fine."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.tokenizer.kmeans import nearest, residual_kmeans

KMEANS_ROWS = 65536


class Quantized(NamedTuple):
    """Codes chosen for a batch, with what each level saw and what it answered."""

    codes: Int[Tensor, "batch level"]
    vectors: Float[Tensor, "batch level dim"]
    residuals: Float[Tensor, "batch level dim"]

    @property
    def sums(self) -> Float[Tensor, "batch dim"]:
        """The approximation: all levels' code vectors added."""
        return self.vectors.sum(1)


class ResidualQuantizer(nn.Module):
    """Codebooks of all levels; level l explains its target minus the levels before it.

    In float32 whatever the targets come in: rounded residuals would choose other codes.

    One target for all levels is plain residual quantization. Different targets let a level answer
    to another stream (layouts `id_last` and `cascade`).
    """

    idle_steps: Int[Tensor, " code"]

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.randn(size, dim) * dim**-0.5) for size in sizes
        )
        # Steps since each code was last chosen, all levels in a row.
        self.register_buffer("idle_steps", torch.zeros(sum(sizes), dtype=torch.long))

    def forward(self, targets: Float[Tensor, "batch level dim"]) -> Quantized:
        codes, vectors, residuals = [], [], []
        targets = targets.float()
        explained = torch.zeros_like(targets[:, 0])
        for level, codebook in enumerate(self.codebooks):  # (code, dim)
            residual = targets[:, level] - explained
            code = nearest(residual.detach(), codebook.detach())  # (batch,)
            vector = codebook[code]  # (batch, dim)
            codes.append(code)
            vectors.append(vector)
            residuals.append(residual)
            # Detach: subtracting a straight-through vector here would cancel the residual's
            # gradient, and no level after the first would ever train the encoder.
            explained = explained + vector.detach()
        return Quantized(torch.stack(codes, 1), torch.stack(vectors, 1), torch.stack(residuals, 1))

    @torch.no_grad()
    def start(self, targets: Float[Tensor, "row level dim"], *, iterations: int, seed: int) -> None:
        """Set the codebooks by k-means, level by level, on at most `KMEANS_ROWS` random rows."""
        if not len(targets):
            return
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(targets), generator=generator)[:KMEANS_ROWS]
        sample = targets[rows.to(targets.device)].to(self.idle_steps.device)
        codebooks = residual_kmeans(sample, self.sizes, iterations=iterations, generator=generator)
        for parameter, codebook in zip(self.codebooks, codebooks, strict=True):
            parameter.copy_(codebook)
        self.idle_steps.zero_()

    @torch.no_grad()
    def revive(self, quantized: Quantized, is_used: Bool[Tensor, " batch"], *, after: int) -> None:
        """Count the steps that codes went unchosen; replace those that reached `after`.

        The replacement is the residual of a random row that counts, so that it is chosen soon.
        Without host synchronization: every code draws a row, only dead ones take it.
        """
        weights = is_used.float() + 1e-12  # never all zero
        for level, (codebook, idle) in enumerate(
            zip(self.codebooks, torch.split(self.idle_steps, list(self.sizes)), strict=True)
        ):
            chosen = torch.zeros_like(idle).index_add_(
                0, quantized.codes[:, level], is_used.to(idle.dtype)
            )
            idle.copy_(torch.where(chosen > 0, 0, idle + 1))
            is_dead = idle >= after
            rows = torch.multinomial(weights, len(codebook), replacement=True)
            replacement = quantized.residuals[rows, level]
            codebook.copy_(torch.where(is_dead[:, None], replacement, codebook))
            idle.masked_fill_(is_dead, 0)


def straight_through(
    vectors: Float[Tensor, "*batch dim"], quantized: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch dim"]:
    """The quantized values with the gradient of `vectors`; taken once, on the sum of levels."""
    return vectors + (quantized - vectors).detach()
