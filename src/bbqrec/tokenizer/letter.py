"""What LETTER keeps beside its RQ-VAE: which codes of a level are near each other."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.tokenizer.kmeans import kmeans, nearest


class CodeGroups(nn.Module):
    """Groups of near code vectors, level by level, as of the last `refresh`.

    A buffer, so that a checkpoint within an epoch holds the groups that the epoch began with.
    """

    numbers: Int[Tensor, " code"]

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("numbers", torch.zeros(sum(sizes), dtype=torch.long))

    @torch.no_grad()
    def refresh(
        self,
        codebooks: Iterable[Float[Tensor, "_ dim"]],
        num_groups: int,
        *,
        iterations: int,
        seed: int,
    ) -> None:
        """Cluster each codebook by k-means into `num_groups`, at most half as many as codes."""
        generator = torch.Generator().manual_seed(seed)
        for numbers, codebook in zip(self.levels(), codebooks, strict=True):
            fitting = min(num_groups, len(codebook) // 2)
            centers = kmeans(codebook, fitting, iterations=iterations, generator=generator)
            numbers.copy_(nearest(codebook, centers))

    def levels(self) -> tuple[Int[Tensor, " _"], ...]:
        """The group of every code, one tensor per level."""
        return torch.split(self.numbers, list(self.sizes))
