"""An epoch of RQ-VAE against vector-quantize-pytorch, and residual k-means against faiss.

    python benchmarks/tokenizer.py [--quick] [--rounds 5]

12,101 vectors of 768 dimensions around planted centers (64 dimensions hold the variance), three
levels of 256 codes. RQ-VAE: 768-512-256-128-32 and back, batches of 1,024, AdamW; the baseline's
quantizer is `ResidualVQ` (moving averages) in the same autoencoder. Closed form: faiss with a
beam of 1 on the 768 dimensions, as it is and "plain", without the progressive dimensions that it
trains with by default; ours on 64 principal components, with progressive dimensions, too. The error
is the share of the variance that the code vectors leave unexplained, on the 768 dimensions for all.
Before anything is timed, both quantizers must choose the same codes with the same codebooks, ours
in bf16, too.
"""

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import rounds
import torch
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from bbqrec.features import Features
from bbqrec.precision import Precision, autocast
from bbqrec.tokenizer import TokenizerConfig, explained_by, fit_rq_kmeans
from bbqrec.training.rq_vae import RQVAERecipe

NUM_ITEMS, WIDTH, INTRINSIC, BATCH = 12_101, 768, 64, 1024
CONFIG = TokenizerConfig(
    method="rq_vae", num_levels=3, batch_size=BATCH, unquantized_epochs=0, kmeans_iterations=10
)


def planted_vectors() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(400, INTRINSIC, generator=generator)
    which = torch.randint(400, (NUM_ITEMS,), generator=generator)
    inner = centers[which] + 0.7 * torch.randn(NUM_ITEMS, INTRINSIC, generator=generator)
    basis = torch.randn(INTRINSIC, WIDTH, generator=generator) * INTRINSIC**-0.5
    return inner @ basis + 0.05 * torch.randn(NUM_ITEMS, WIDTH, generator=generator)


def our_epoch(features: Features, precision: Precision) -> Callable[[], None]:
    recipe = RQVAERecipe([features], CONFIG, seed=0, device=torch.device("cpu"))
    recipe.start_epoch(0)  # k-means for the codebooks; the baseline does so in its first batch

    def epoch() -> None:
        for batch in recipe.batches(0):
            with autocast(precision, "cpu"):
                loss = torch.stack(list(recipe.losses(batch).values())).sum()
            _descend(recipe.model, recipe.optimizers["main"], loss)
            recipe.after_step(batch)

    return epoch


def their_epoch(vectors: Tensor) -> Callable[[], None]:
    recipe = RQVAERecipe([_features(vectors)], CONFIG, seed=0, device=torch.device("cpu"))
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    quantizer = ResidualVQ(
        dim=CONFIG.dim, num_quantizers=CONFIG.num_levels, codebook_size=256, kmeans_init=True
    )
    model = nn.ModuleList([encoder, decoder, quantizer])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    scaled = (vectors - vectors.mean(0)) / vectors.std(0)

    def epoch() -> None:
        for rows in torch.split(torch.randperm(len(scaled)), BATCH):
            latent = encoder(scaled[rows])
            quantized, _, commitment = quantizer(latent[None])
            rebuilt = decoder(quantized[0])
            loss = (rebuilt - scaled[rows]).square().mean() + commitment.sum()
            _descend(model, optimizer, loss)

    return epoch


def check_equality() -> None:
    """The codes of `ResidualVQ`, whatever the precision around the quantizer."""
    recipe = RQVAERecipe([planted_features()], CONFIG, seed=0, device=torch.device("cpu"))
    recipe.start_epoch(0)
    quantizer = recipe.model.quantizer
    reference = ResidualVQ(dim=CONFIG.dim, num_quantizers=CONFIG.num_levels, codebook_size=256)
    for layer, codebook in zip(reference.layers, quantizer.codebooks, strict=True):
        layer._codebook.embed.copy_(codebook.detach()[None])
    with torch.no_grad():
        latent = recipe.model(recipe._vectors)
        _, expected, _ = reference.eval()(latent)
        for precision in ("fp32", "bf16"):
            with autocast(precision, "cpu"):
                codes = recipe.model.quantize(latent).codes
            # Two roundings of a distance may order a tie either way.
            if (codes != expected).any(1).double().mean() > 1e-3:
                raise SystemExit(f"codes in {precision} are not those of vector-quantize-pytorch")


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def planted_features() -> Features:
    return _features(planted_vectors())


def epoch_flops() -> float:
    """Products of an epoch of RQ-VAE: forward, twice that backward but for the features, codes."""
    dims = (WIDTH, *CONFIG.encoder_dims, CONFIG.dim)
    weights = 2 * sum(a * b for a, b in pairwise(dims))
    distances = 2 * CONFIG.num_levels * CONFIG.dim * 256
    return float(NUM_ITEMS * (6 * weights - 2 * dims[0] * dims[1] + distances))


def _features(vectors: Tensor) -> Features:
    return Features("text", vectors, torch.ones(len(vectors), dtype=torch.bool), {})


def faiss_error(vectors: Tensor, *, is_plain: bool = False) -> float:
    """Fit, encode and decode with faiss."""
    array = np.ascontiguousarray((vectors - vectors.mean(0)).numpy())
    quantizer = faiss.ResidualQuantizer(WIDTH, CONFIG.num_levels, 8)
    quantizer.max_beam_size = 1
    if is_plain:
        quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.train(array)
    rebuilt = quantizer.decode(quantizer.compute_codes(array))
    return float(((array - rebuilt) ** 2).sum() / (array**2).sum())


def our_error(features: Features) -> float:
    """Fit and encode with residual k-means on principal components; resolves collisions, too."""
    config = CONFIG.model_copy(update={"method": "rq_kmeans", "dim": INTRINSIC})
    assignment, _, weights = fit_rq_kmeans([features], config, seed=0)
    sums = explained_by(assignment.wanted, assignment.codebooks)[:, -1]
    centered = features.vectors - features.vectors.mean(0)
    rebuilt = sums @ weights["components"].T
    centered = centered / centered.square().sum(-1).mean().sqrt()
    return float((centered - rebuilt).square().sum() / centered.square().sum())


def main() -> None:
    found = rounds.options(__doc__)
    faiss.omp_set_num_threads(found.threads)
    report = rounds.Report("tokenizer", found)
    vectors = planted_vectors()
    features = _features(vectors)
    check_equality()
    epochs = {
        "vector-quantize-pytorch, fp32": their_epoch(vectors),
        "ours, fp32": our_epoch(features, "fp32"),
    }
    if not found.quick:
        epochs["ours, bf16"] = our_epoch(features, "bf16")
    times, _ = rounds.interleave(epochs, found.rounds)
    shares = {
        name: report.floor_s(epoch_flops(), name[-4:]) / statistics.median(taken)
        for name, taken in times.items()
    }
    _rows(report, "RQ-VAE epoch", times, share_of_floor=shares)
    errors: dict[str, float] = {}

    def remember(name: str, fit: Callable[[], float]) -> Callable[[], None]:
        return lambda: errors.__setitem__(name, fit())

    fits = {
        "faiss": remember("faiss", lambda: faiss_error(vectors)),
        "faiss, plain": remember("faiss, plain", lambda: faiss_error(vectors, is_plain=True)),
        "ours, principal components": remember(
            "ours, principal components", lambda: our_error(features)
        ),
    }
    times, _ = rounds.interleave(fits, found.rounds)
    _rows(report, "residual k-means", times, error=errors)
    report.close()


def _rows(
    report: rounds.Report, work: str, times: rounds.Times, **further: dict[str, float]
) -> None:
    baseline = next(iter(times.values()))
    for name, taken in times.items():
        row: dict[str, Any] = {"work": work, "alternative": name}
        row["s"] = rounds.rounded(statistics.median(taken))
        row |= rounds.ratio(baseline, taken)
        report.row(**row, **{key: rounds.rounded(values[name]) for key, values in further.items()})


if __name__ == "__main__":
    main()
