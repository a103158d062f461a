"""Encoders and decoders of one modality, and of a history."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def mlp(*dims: int) -> nn.Sequential:
    """Linear layers with ReLU between them; `mlp(384, 512, 64)` maps 384 to 64."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(dims):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class AlignedEncoder(nn.Module):
    """Content of one modality in the latent space that all streams share.

    Ends in LayerNorm without affine: streams of unequal norm would let one own the codebook. In
    float32 even under autocast, since it is quantized.
    """

    def __init__(self, in_dim: int, hidden_dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.layers = mlp(in_dim, *hidden_dims, dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, vectors: Float[Tensor, "batch in"]) -> Float[Tensor, "batch dim"]:
        normalized: Tensor = self.norm(self.layers(vectors).float())
        return normalized


class SpecificEncoder(nn.Module):
    """Content of one modality that behavior does not need.

    Ends in BatchNorm without affine: a constant or shrunken output would carry no information,
    which is what the mutual-information penalty asks for.
    """

    def __init__(self, in_dim: int, hidden_dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.layers = mlp(in_dim, *hidden_dims, dim)
        self.norm = nn.BatchNorm1d(dim, affine=False)

    def forward(self, vectors: Float[Tensor, "batch in"]) -> Float[Tensor, "batch dim"]:
        hidden = self.layers(vectors).float()
        if len(hidden) < 2:  # one row has no spread to normalize by: use the running one
            return nn.functional.batch_norm(hidden, self.norm.running_mean, self.norm.running_var)
        normalized: Tensor = self.norm(hidden)
        return normalized


class SequenceEncoder(nn.Module):
    """A causal Transformer: at every position, what the history up to there asks for next."""

    def __init__(
        self,
        item_dim: int,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        max_length: int,
    ) -> None:
        super().__init__()
        self.input = nn.Linear(item_dim, dim)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.output = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, item_dim))

    def forward(
        self, histories: Float[Tensor, "batch position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        """Histories are left-aligned: causality keeps what follows out, padding included."""
        length = histories.shape[1]
        is_hidden: Bool[Tensor, "position position"] = torch.ones(
            length, length, dtype=torch.bool, device=histories.device
        ).triu(1)
        hidden = self.input(histories) + self.positions[:length]
        users: Tensor = self.output(self.layers(hidden, mask=is_hidden, is_causal=True))
        return users.float()
