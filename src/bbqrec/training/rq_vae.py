"""The recipe of method rq_vae: an autoencoder of content, quantized in its middle."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from bbqrec.features import Features
from bbqrec.tokenizer import (
    RQVAE,
    Assignment,
    Quantized,
    TokenizerConfig,
    assign,
    quantization_loss,
    side_by_side,
    straight_through,
)


class ItemBatch(NamedTuple):
    """Items of one step, and the epoch they belong to."""

    epoch: int
    items: Int[Tensor, " batch"]


class RQVAERecipe:
    """Every item once an epoch: rebuild its features from its code vectors."""

    def __init__(
        self,
        features: list[Features],
        config: TokenizerConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._seed = seed
        self._device = device
        vectors, weights = side_by_side(features)
        self._vectors, self._weights = vectors.to(device), weights.to(device)
        self._tokenizer = RQVAE(config, vectors.shape[1]).to(device)
        self.model: nn.Module = self._tokenizer
        self.optimizers: dict[str, Optimizer] = {
            "main": AdamW(
                self.model.parameters(),
                lr=config.learning_rate,
                weight_decay=0.0,
                fused=True,
            )
        }
        self._quantized: Quantized | None = None

    def start_epoch(self, epoch: int) -> None:
        """Start the codebooks by k-means once the latent vectors mean something."""
        if epoch == self._config.quantized_from:
            targets = self._tokenizer.targets(self._latent())
            iterations = self._config.kmeans_iterations
            self._tokenizer.quantizer.start(targets, iterations=iterations, seed=self._seed)

    def num_batches(self, epoch: int) -> int:
        return math.ceil(len(self._vectors) / self._config.batch_size)

    def batches(self, epoch: int) -> Iterator[ItemBatch]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._vectors), generator=generator)
        for items in torch.split(order, self._config.batch_size):
            yield ItemBatch(epoch, items.to(self._device))

    def inner_steps(self, batch: ItemBatch) -> None:
        """There is one optimizer only."""

    def losses(self, batch: ItemBatch) -> dict[str, Tensor]:
        vectors, weights = self._vectors[batch.items], self._weights[batch.items]
        values = latent = self._tokenizer(vectors)
        terms = {}
        self._quantized = None
        if batch.epoch >= self._config.quantized_from:
            quantized = self._quantized = self._tokenizer.quantize(latent)
            everything = torch.ones(len(latent), dtype=torch.bool, device=latent.device)
            terms["quantization"] = quantization_loss(
                quantized, everything, commitment=self._config.commitment
            )
            values = straight_through(latent, quantized.sums)
        squared = weights * (self._tokenizer.decoder(values) - vectors).square()
        terms["reconstruction"] = squared.sum() / weights.sum().clamp(min=1)
        return terms | self.further_losses(batch.items, values, self._quantized)

    def further_losses(
        self,
        items: Int[Tensor, " batch"],
        values: Float[Tensor, "batch dim"],
        quantized: Quantized | None,
    ) -> dict[str, Tensor]:
        """What a method built on this one asks for besides; here nothing.

        Args:
            values: latent vectors, once there are codes straight through their code vectors.
            quantized: None before there are codes.
        """
        return {}

    def after_step(self, batch: ItemBatch) -> None:
        if self._quantized is not None:
            everything = torch.ones_like(batch.items, dtype=torch.bool)
            self._tokenizer.quantizer.revive(
                self._quantized, everything, after=self._config.revive_after
            )

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def assign(self) -> tuple[Assignment, dict[str, Tensor]]:
        """Semantic IDs of the catalog and its latent vectors, on the CPU."""
        latent = self._latent().cpu()
        codebooks = [codebook.detach().cpu() for codebook in self._tokenizer.quantizer.codebooks]
        return assign(self._tokenizer.targets(latent), codebooks), {"fused": latent}

    @torch.no_grad()
    def _latent(self) -> Tensor:
        latent: Tensor = self._tokenizer(self._vectors)
        return latent
