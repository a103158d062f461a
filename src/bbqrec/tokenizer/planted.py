"""A made-up shop whose truth is known, to check what a tokenizer binds to behavior.

Behavior depends on one latent factor that both modalities show; each modality also shows a
nuisance factor of its own. A behavior-bound tokenizer finds the first in its aligned vectors and
codes and leaves the second to its specific vectors.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.data import Cases, Dataset, Sequences
from bbqrec.features import Features
from bbqrec.tokenizer.config import TokenizerConfig

MODALITIES = ("image", "text")


# Item vectors start at random here: started at co-occurrence they carry the factor themselves, and
# the aligned encoders are asked for less of it. Small enough for seconds on one core. Contrast and
# cross-stream term are weighted up because the catalog is tiny, and the information because its
# nats are summed over an eighth of the usual specific dimensions.
PLANTED_CONFIG = TokenizerConfig(
    id_start="random",
    num_levels=3,
    codebook_size=32,
    dim=16,
    encoder_dims=(64,),
    specific_encoder_dims=(64,),
    specific_dim=8,
    decoder_dims=(64,),
    sequence_dim=32,
    sequence_layers=1,
    epochs=80,
    batch_size=64,
    learning_rate=3e-3,
    w_s=6.0,
    w_x=2.0,
    w_mi=0.8,
    w_mi_aligned=0.17,
    club_steps=4,
    club_learning_rate=5e-3,
)


class PlantedShop(NamedTuple):
    """A data set with training histories only, its features, and the truth behind them."""

    dataset: Dataset
    features: list[Features]
    factor: Float[Tensor, "item factor"]
    nuisance: dict[str, Float[Tensor, "item factor"]]


def planted_shop(
    *,
    seed: int,
    num_items: int = 300,
    num_users: int = 320,
    history_length: int = 12,
    feature_dim: int = 16,
    factor_dim: int = 2,
    taste_width: float = 0.3,
    noise: float = 0.1,
) -> PlantedShop:
    """Draw a shop: a user's items lie within `taste_width` of one point of the factor's space.

    Features are random rotations of [factor ; nuisance], plus noise.
    """
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((num_items, factor_dim))
    nuisance = {m: generator.standard_normal((num_items, factor_dim)) for m in MODALITIES}
    features = []
    for modality in MODALITIES:
        latent = np.concatenate([factor, nuisance[modality]], 1)
        rotation, _ = np.linalg.qr(generator.standard_normal((feature_dim, 2 * factor_dim)))
        vectors = latent @ rotation.T + noise * generator.standard_normal((num_items, feature_dim))
        is_present = torch.ones(num_items, dtype=torch.bool)
        identity = {"planted": modality, "seed": seed}
        features.append(Features(modality, torch.from_numpy(vectors).float(), is_present, identity))

    tastes = factor[generator.integers(num_items, size=num_users)]
    squared = np.square(tastes[:, None] - factor).sum(-1)  # (user, item)
    # Adding Gumbel noise and sorting draws without replacement.
    scores = -squared / (2 * taste_width**2) + generator.gumbel(size=squared.shape)
    items = np.argsort(-scores, axis=1)[:, :history_length]
    items = generator.permuted(items, axis=1)
    return PlantedShop(
        dataset=_dataset(items, num_items, seed),
        features=features,
        factor=torch.from_numpy(factor).float(),
        nuisance={m: torch.from_numpy(n).float() for m, n in nuisance.items()},
    )


def probe(vectors: Float[Tensor, "item dim"], truth: Float[Tensor, "item factor"]) -> float:
    """R^2 on the second half of the items of a linear map fitted to the first half."""
    ones = torch.ones(len(vectors), 1, dtype=torch.float64)
    inputs = torch.cat([vectors.double(), ones], 1)
    half = len(inputs) // 2
    fitted, held_out = inputs[:half], inputs[half:]
    ridge = 1e-3 * half * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(fitted.T @ fitted + ridge, fitted.T @ truth[:half].double())
    wanted = truth[half:].double()
    residual = (wanted - held_out @ weights).square().sum()
    return float(1 - residual / (wanted - wanted.mean(0)).square().sum())


def _dataset(items: NDArray[np.int64], num_items: int, seed: int) -> Dataset:
    num_users, length = items.shape
    nobody = np.zeros(0, np.int64)
    nothing = Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64))
    held_out = Cases(nobody, nothing, np.zeros(0, np.int32))
    names = [f"item {item}" for item in range(num_items)]
    return Dataset(
        user_ids=[f"user {user}" for user in range(num_users)],
        item_ids=names,
        titles=names,
        train=Sequences(items.reshape(-1).astype(np.int32), np.arange(num_users + 1) * length),
        validation=held_out,
        test=held_out,
        is_cold=np.zeros(num_items, bool),
        info={"fingerprint": f"planted {seed}"},
    )
