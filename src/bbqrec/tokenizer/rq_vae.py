"""RQ-VAE on content alone: one modality, or the features of several side by side."""

from jaxtyping import Float
from torch import Tensor, nn

from bbqrec.tokenizer.config import TokenizerConfig
from bbqrec.tokenizer.encoders import mlp
from bbqrec.tokenizer.residual_quantizer import Quantized, ResidualQuantizer


class RQVAE(nn.Module):
    """An autoencoder with a residual quantizer in its middle (Rajput et al., 2023, TIGER)."""

    def __init__(self, config: TokenizerConfig, in_dim: int) -> None:
        super().__init__()
        self.encoder = mlp(in_dim, *config.encoder_dims, config.dim)
        self.decoder = mlp(config.dim, *reversed(config.encoder_dims), in_dim)
        self.quantizer = ResidualQuantizer(config.codebook_sizes, config.dim)

    def forward(self, vectors: Float[Tensor, "batch in"]) -> Float[Tensor, "batch dim"]:
        """The latent vectors that are quantized, in float32."""
        latent: Tensor = self.encoder(vectors)
        return latent.float()

    def targets(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch level dim"]:
        """All levels approximate the same vector."""
        return latent[:, None].expand(-1, len(self.quantizer.sizes), -1)

    def quantize(self, latent: Float[Tensor, "batch dim"]) -> Quantized:
        """Codes of the latent vectors."""
        quantized = self.quantizer(self.targets(latent))
        assert isinstance(quantized, Quantized)
        return quantized
