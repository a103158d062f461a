"""How long and how fast to train: the loop's settings, and what follows from them alone."""

import math

from pydantic import Field

from bbqrec.config import Config
from bbqrec.precision import Precision

USUAL_EPOCHS, USUAL_STEPS = 10, 1500
USUAL_PATIENCE = 20  # epochs; little data is soon known by heart


class LoopConfig(Config):
    """How long and how fast to train, whatever is trained."""

    epochs: int | None = Field(None, ge=1)
    """None: 10, or on little data as many as make 1,500 steps."""
    learning_rate: float = Field(1e-3, gt=0)
    """At its highest, after the warm-up."""
    warmup_steps: int = Field(100, ge=0)
    """At most a tenth of all steps."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are averaged into one step: as many times the batch in the memory of
    one. Steps, not batches, are what the learning rate follows and `log_every` counts."""
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    """Share of the learning rate that the cosine schedule ends at; 1 keeps it constant."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Longer gradients are shortened to it."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without a better validation metric. None: 20 where `epochs` is
    not set, else all are trained."""
    log_every: int = Field(50, ge=1)
    """Steps between two notes of the loss."""
    checkpoint_every_s: float = Field(120.0, ge=0)
    """Seconds between two checkpoints, from which an interrupted training goes on."""
    precision: Precision = "auto"
    """auto: bf16 autocast on a GPU and on a CPU that multiplies bf16 itself, else fp32."""


def usual_epochs(num_steps: int) -> int:
    """The default for epochs of so many steps."""
    return max(USUAL_EPOCHS, math.ceil(USUAL_STEPS / max(1, num_steps)))


def patience_of(config: LoopConfig) -> int | None:
    """How many epochs without a better one end the training; None for no number of them."""
    if config.patience is None and config.epochs is None:
        return USUAL_PATIENCE
    return config.patience


def learning_rate_share(step: int, total: int, config: LoopConfig, *, after: float = 0.0) -> float:
    """Linear warm-up, then a half cosine down to `final_learning_rate`.

    Args:
        after: share of the steps before what begins late, along the same cosine after a warm-up of
            its own.
    """
    warmup, begin = min(config.warmup_steps, total // 10), min(math.ceil(after * total), total - 1)
    if step < begin:
        return 0.0
    warmed = min(1.0, (step - begin + 1) / warmup) if warmup else 1.0
    if step < warmup:
        return warmed
    done = (step - warmup) / max(1, total - warmup)
    low = config.final_learning_rate
    return warmed * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
