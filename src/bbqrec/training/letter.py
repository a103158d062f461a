"""The recipe of method letter: RQ-VAE, drawn to behavior and spread over its codes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.data import Dataset
from bbqrec.features import Features
from bbqrec.tokenizer import (
    CodeGroups,
    Quantized,
    TokenizerConfig,
    alignment_loss,
    cooccurrence_vectors,
    diversity_loss,
)
from bbqrec.training.rq_vae import RQVAERecipe


class LetterRecipe(RQVAERecipe):
    """LETTER's tokenizer (Wang et al., 2024), with training co-occurrence as its teacher.

    The original aligns to the item vectors of a trained recommender; co-occurrence needs none.
    """

    def __init__(
        self,
        features: list[Features],
        dataset: Dataset,
        config: TokenizerConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(features, config, seed=seed, device=device)
        self._groups = CodeGroups(config.codebook_sizes).to(device)
        self.model = nn.ModuleDict({"rq_vae": self._tokenizer, "groups": self._groups})
        behavior = cooccurrence_vectors(
            dataset.train, dataset.num_items, dim=config.dim, seed=seed
        ).to(device)
        # Zero where a catalog of fewer items than dimensions has no more to say.
        self._behavior = F.pad(behavior, (0, config.dim - behavior.shape[1]))
        self._is_known = behavior.any(1)

    def start_epoch(self, epoch: int) -> None:
        """Group the code vectors anew, once there are any."""
        super().start_epoch(epoch)
        if epoch >= self._config.quantized_from:
            self._groups.refresh(
                self._tokenizer.quantizer.codebooks,
                self._config.diversity_clusters,
                iterations=self._config.kmeans_iterations,
                seed=self._seed,
            )

    def further_losses(
        self,
        items: Int[Tensor, " batch"],
        values: Float[Tensor, "batch dim"],
        quantized: Quantized | None,
    ) -> dict[str, Tensor]:
        """Behavior in the values and, once they are quantized, diversity in the codebooks."""
        config, terms = self._config, {}
        if config.w_align > 0:
            alignment = alignment_loss(
                values,
                self._behavior[items],
                self._is_known[items],
                temperature=config.temperature,
            )
            terms["alignment"] = config.w_align * alignment
        if config.w_diversity > 0 and quantized is not None:
            per_level = [
                diversity_loss(codes, codebook, groups)
                for codes, codebook, groups in zip(
                    quantized.codes.unbind(1),
                    self._tokenizer.quantizer.codebooks,
                    self._groups.levels(),
                    strict=True,
                )
            ]
            terms["diversity"] = config.w_diversity * torch.stack(per_level).mean()
        return terms
