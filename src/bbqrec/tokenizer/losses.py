"""The loss terms of stage 1, each a pure function."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.tokenizer.residual_quantizer import Quantized


def reconstruction_loss(
    decoded: Float[Tensor, "batch dim"], vectors: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Rebuild the features; standardized ones make it start near 1."""
    return F.mse_loss(decoded, vectors)


def quantization_loss(
    quantized: Quantized, is_present: Bool[Tensor, " batch"], *, commitment: float
) -> Float[Tensor, ""]:
    """Move code vectors to the residuals they answer, and residuals to their code vectors.

    ||sg(r) - e||^2 + commitment ||r - sg(e)||^2, mean over present rows, levels and dimensions
    (van den Oord et al., 2017, eq. 3, at every level).
    """
    residuals, vectors = quantized.residuals, quantized.vectors
    toward_residual = (residuals.detach() - vectors).square().mean((1, 2))
    toward_vector = (residuals - vectors.detach()).square().mean((1, 2))
    return _masked_mean(toward_residual + commitment * toward_vector, is_present)


def cross_stream_loss(
    streams: Float[Tensor, "batch stream dim"],
    quantized: Float[Tensor, "batch stream dim"],
    is_present: Bool[Tensor, "batch stream"],
) -> Float[Tensor, ""]:
    """Let each stream of an item be explained by the code vectors of its other streams.

    Mean over pairs m != n of present streams of ||h_m - sg q(h_n)||^2, per dimension.
    """
    differences = streams[:, :, None] - quantized.detach()[:, None]  # (batch, stream, stream, dim)
    is_pair = is_present[:, :, None] & is_present[:, None]
    is_pair = is_pair & ~torch.eye(streams.shape[1], dtype=torch.bool, device=streams.device)
    return _masked_mean(differences.square().mean(-1), is_pair)


def sequence_to_item_loss(
    users: Float[Tensor, "batch dim"],
    candidates: Float[Tensor, "item dim"],
    targets: Int[Tensor, " batch"],
    *,
    log_inclusion: Float[Tensor, " item"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Draw each history to the item that followed it and away from all others.

    InfoNCE (van den Oord et al., 2018, eq. 4) over distinct candidates, so that no negative
    equals its target. `log_inclusion` is the log-probability that a batch holds a candidate.
    Negatives are weighted by its inverse, so that their sum estimates the one over the catalog
    (logQ correction), and is that sum when the whole catalog is there and all are 0.

    Args:
        targets: rows of `candidates`.
    """
    cosines = _products(F.normalize(users, dim=-1), F.normalize(candidates, dim=-1))
    logits = cosines / temperature
    positive = logits.gather(1, targets[:, None])
    corrected = (logits - log_inclusion).scatter(1, targets[:, None], positive)
    return F.cross_entropy(corrected, targets)


def alignment_loss(
    vectors: Float[Tensor, "batch dim"],
    behavior: Float[Tensor, "batch dim"],
    is_known: Bool[Tensor, " batch"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Draw each item to what behavior says of it and away from what it says of the batch's others.

    InfoNCE within the batch, the collaborative regularization of LETTER (Wang et al., 2024), here
    on cosines: co-occurrence vectors of frequent items are many times longer than others'.

    Args:
        is_known: False where `behavior` says nothing; such items neither count nor stand against
            others.
    """
    cosines = _products(F.normalize(vectors, dim=-1), F.normalize(behavior, dim=-1))
    own = torch.arange(len(vectors), device=vectors.device)
    # Every row keeps its own column, so that no row is without a finite entry.
    is_candidate = is_known | (own[:, None] == own)
    logits = (cosines / temperature).masked_fill(~is_candidate, -torch.inf)
    return _masked_mean(F.cross_entropy(logits, own, reduction="none"), is_known)


def diversity_loss(
    codes: Int[Tensor, " batch"],
    codebook: Float[Tensor, "code dim"],
    groups: Int[Tensor, " code"],
) -> Float[Tensor, ""]:
    """Draw each chosen code's vector to the others of its group and away from the level's rest.

    Cross-entropy of a softmax of dot products over the other codes, mean over those of the group:
    what the diversity regularization of LETTER (Wang et al., 2024), which draws one of them at
    random, is on average. A code alone in its group does not count.
    """
    is_self = torch.eye(len(codebook), dtype=torch.bool, device=codebook.device)
    log_probs = _products(codebook, codebook).masked_fill(is_self, -torch.inf).log_softmax(-1)
    is_near = (groups[:, None] == groups) & ~is_self  # (code, code)
    num_near = is_near.sum(-1)
    per_code = -log_probs.masked_fill(~is_near, 0.0).sum(-1) / num_near.clamp(min=1)
    return _masked_mean(per_code[codes], num_near[codes] > 0)


def _products(
    x: Float[Tensor, "row dim"], y: Float[Tensor, "column dim"]
) -> Float[Tensor, "row column"]:
    """Dot products in float32 even under autocast: divided by a temperature, rounding counts."""
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ y.float().T


def _masked_mean(
    values: Float[Tensor, "*shape"], is_counted: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Mean of the values that count, 0 when none does."""
    return (values * is_counted).sum() / is_counted.sum().clamp(min=1)
