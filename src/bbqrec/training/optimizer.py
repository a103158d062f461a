"""How fast, and from when on, each weight of a recommender learns."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from bbqrec.recommender import OnePassRecommender
from bbqrec.training.schedule import learning_rate_share

if TYPE_CHECKING:
    from bbqrec.training.recommender import TrainingConfig


def adamw(model: nn.Module, training: "TrainingConfig") -> Optimizer:
    """Weight decay on matrices only: not on embeddings, norms or the similarity tables."""
    after, fast = training.additions_after, training.bias_learning_rate
    starts_own = isinstance(model, OnePassRecommender) and model.item_vectors.starts_own
    groups: dict[tuple[float, float, float], dict[int, nn.Parameter]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_matrix = isinstance(module, nn.Linear) and name == "weight"
            is_bias = "_bias" in f"{path}.{name}" or path.startswith("similarity")
            is_added = name in ("repeat_bias", "neighbor_bias")
            joins = starts_own and path.startswith("item_vectors") and name != "id_vectors"
            decay = training.weight_decay if is_matrix else 0.0
            scale = fast / _rates_left(training) if is_added else fast if is_bias else 1.0
            scale = training.joining_learning_rate if joins else scale
            key = (decay, scale, after if is_added or joins else 0.0)
            groups.setdefault(key, {})[id(parameter)] = parameter
    return torch.optim.AdamW(
        [
            {
                "params": list(parameters.values()),
                "weight_decay": decay,
                "lr_scale": scale,
                "begins_at": begins_at,
            }
            for (decay, scale, begins_at), parameters in groups.items()
        ],
        lr=training.learning_rate,
        fused=True,
    )


def _rates_left(training: "TrainingConfig") -> float:
    """What is left of all steps' rates when additions begin; a tenth at least, for stability."""
    steps, after = 1000, training.additions_after
    every = sum(learning_rate_share(step, steps, training) for step in range(steps))
    left = sum(learning_rate_share(step, steps, training, after=after) for step in range(steps))
    return max(left / every, 0.1)
