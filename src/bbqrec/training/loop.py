"""One training loop for all recipes: exact resume, early stopping, nothing hidden."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from bbqrec.errors import TrainingDivergedError
from bbqrec.precision import autocast
from bbqrec.progress import Tracker, tracker
from bbqrec.training.checkpoint import (
    Checkpointer,
    check_identity,
    optimizer_tensors,
    random_tensors,
    restore_optimizer,
    restore_random,
    section,
)
from bbqrec.training.interruption import interruption
from bbqrec.training.memory import peak_memory_bytes
from bbqrec.training.schedule import LoopConfig, learning_rate_share, patience_of, usual_epochs
from bbqrec.training.tracking import curves

logger = logging.getLogger(__name__)

B = TypeVar("B")


@runtime_checkable
class Recipe(Protocol[B]):
    """What is trained: model, batches and losses. All mutable state lives in `model`'s buffers
    and in the optimizers, randomness in torch's global generator or in one seeded by the epoch,
    so that a checkpoint of those resumes bitwise."""

    @property
    def model(self) -> nn.Module: ...

    optimizers: dict[str, Optimizer]
    """`main` is stepped by the loop, any other by the recipe in `inner_steps`."""

    def start_epoch(self, epoch: int) -> None:
        """Work done once before an epoch's first batch; not repeated when resuming within it."""
        ...

    def num_batches(self, epoch: int) -> int: ...

    def batches(self, epoch: int) -> Iterable[B]:
        """The same batches for the same epoch, drawing nothing from the global generator."""
        ...

    def inner_steps(self, batch: B) -> None:
        """Steps of the other optimizers, once for every batch, before its losses."""
        ...

    def losses(self, batch: B) -> dict[str, Tensor]:
        """Named, already weighted scalars; their sum is minimized."""
        ...

    def after_step(self, batch: B) -> None:
        """Upkeep outside the gradient, such as reviving dead codes: once for every step of `main`,
        with the last of its batches."""
        ...

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Validation metrics; `score`, if there, decides which weights are best (higher wins)."""
        ...


@dataclass(frozen=True)
class FitResult:
    """`log` has one row per epoch; `best_epoch` is the one whose weights the model now holds, -1
    if none was better than those it began with, of which `start` holds the metrics.

    `peak_mb`, the most memory that the process has held at the end of each epoch, is no part of
    what a repeated training repeats: results are equal whatever it is."""

    log: list[dict[str, Any]]
    best_epoch: int
    steps: int
    start: dict[str, float]
    peak_mb: list[float] = field(compare=False)


class _State:
    """Where a run stands; everything but tensors."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.best_epoch = -1
        self.best_score = -math.inf
        self.loss: float | None = None  # the last mean that was read back
        self.log: list[dict[str, Any]] = []
        self.start: dict[str, float] = {}
        self.peak_mb: list[float] = []


def num_epochs(recipe: Recipe[Any], config: LoopConfig) -> int:
    """`config.epochs`, or its default for as much data as `recipe` has."""
    return config.epochs or usual_epochs(num_steps(recipe, config, 0))


def num_steps(recipe: Recipe[Any], config: LoopConfig, epoch: int) -> int:
    """Of the main optimizer in one epoch, the last of them maybe with fewer batches."""
    return math.ceil(recipe.num_batches(epoch) / config.accumulate)


def fit(
    recipe: Recipe[B],
    config: LoopConfig,
    *,
    device: torch.device,
    work_dir: Path | None,
    identity: dict[str, Any],
    description: str,
    is_trained: bool = False,
) -> FitResult:
    """Train `recipe.model`, resuming from `work_dir` if it holds a checkpoint of the same run.

    Args:
        work_dir: where checkpoints go; None keeps nothing.
        identity: settings and data the run depends on; a checkpoint of another identity, thread
            count, device or torch version is refused, because it would not resume bitwise.
        is_trained: whether the weights that the model begins with may turn out to be the best.

    Raises:
        TrainingDivergedError: a gradient is not finite.
        KeyboardInterrupt: after SIGINT or SIGTERM, once a checkpoint is safe.
    """
    identity = {
        "run": identity,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": torch.__version__,
    }
    checkpointer = Checkpointer(work_dir) if work_dir else None
    state = _State()
    sums: dict[str, Tensor] = {}
    best: dict[str, Tensor] = {}
    if checkpointer and (found := checkpointer.load_latest()):
        best, sums = _restore(recipe, state, *found, identity=identity, device=device)
        logger.info("resuming %s at epoch %d, step %d", description, state.epoch, state.step)
    elif is_trained:
        _note_start(recipe, state, best)

    def save() -> None:
        if checkpointer:
            tensors = _tensors(recipe, best, sums, device)
            checkpointer.save(state.step, tensors, {"identity": identity, **vars(state)})

    epochs = num_epochs(recipe, config)
    total = sum(num_steps(recipe, config, epoch) for epoch in range(epochs))
    with (
        interruption() as is_interrupted,
        tracker(description, total) as shown,
        curves(description) as draw,
    ):
        for row in state.log:  # of before the resumption
            draw(row)
        shown.resume(state.step)
        last_save = time.monotonic()
        while state.epoch < epochs and not _is_exhausted(state, config):
            if state.batch == 0:
                recipe.start_epoch(state.epoch)
            recipe.model.train()
            rest = islice(recipe.batches(state.epoch), state.batch, None)
            for batches in _grouped(rest, config.accumulate):
                _step(recipe, batches, config, state, sums, total, device)
                _note(shown, state, sums, config)
                is_due = time.monotonic() - last_save > config.checkpoint_every_s
                if is_interrupted() or (is_due and checkpointer):
                    save()
                    last_save = time.monotonic()
                if is_interrupted():
                    raise KeyboardInterrupt
            _end_epoch(recipe, state, sums, best, device)
            draw(state.log[-1])
        save()
    if best:
        recipe.model.load_state_dict(best)
        why = "no better since, so training ends" if state.epoch < epochs else "the best"
        logger.info("epoch %d is kept: %s", state.best_epoch + 1, why)
    logger.info("%s: %.0f MB of memory at most", description, max(state.peak_mb))
    return FitResult(state.log, state.best_epoch, state.step, state.start, state.peak_mb)


def seconds_per_step(
    recipe: Recipe[B], config: LoopConfig, *, device: torch.device, num_timed: int = 4
) -> float:
    """Time a few real steps; they change the model, so give it a recipe to throw away."""
    state = _State()
    sums: dict[str, Tensor] = {}
    start = time.monotonic()
    steps = _grouped(recipe.batches(0), config.accumulate)
    for batches in islice(steps, num_timed + 1):
        if state.step == 1:  # the first one warms up
            start = time.monotonic()
        _step(recipe, batches, config, state, sums, num_timed, device)
    return (time.monotonic() - start) / max(1, state.step - 1)


def _grouped(batches: Iterable[B], size: int) -> Iterator[list[B]]:
    """`size` batches at a time; the last group may be smaller."""
    rest = iter(batches)
    while group := list(islice(rest, size)):
        yield group


def _is_exhausted(state: _State, config: LoopConfig) -> bool:
    patience = patience_of(config)
    return (
        patience is not None
        and state.best_score > -math.inf
        and state.epoch - 1 - state.best_epoch >= patience
    )


def _step(
    recipe: Recipe[B],
    batches: list[B],
    config: LoopConfig,
    state: _State,
    sums: dict[str, Tensor],
    total: int,
    device: torch.device,
) -> None:
    """One step of the main optimizer along the mean gradient of `batches`.

    A checkpoint is never of in between: gradients are not part of it.
    """
    optimizer = recipe.optimizers["main"]
    for group in optimizer.param_groups:
        share = learning_rate_share(state.step, total, config, after=group.get("begins_at", 0.0))
        group["lr"] = config.learning_rate * share * group.get("lr_scale", 1.0)
    for batch in batches:
        recipe.inner_steps(batch)
        with autocast(config.precision, device):
            terms = recipe.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
        _add(sums, {"loss": loss, **terms}, 1 / len(batches))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = clip_grad_norm_(parameters, config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    recipe.after_step(batches[-1])

    _add(sums, {"grad_norm": grad_norm, "steps": torch.ones((), device=device)}, 1.0)
    state.step += 1
    state.batch += len(batches)
    # One host synchronization every few steps, not one a step.
    if state.step % config.log_every == 0 and not sums["grad_norm"].isfinite():
        raise TrainingDivergedError(
            f"the gradient is no longer finite at step {state.step}; lower learning_rate "
            f"(now {config.learning_rate:g}) or max_grad_norm, then run the command again"
        )


def _add(sums: dict[str, Tensor], values: dict[str, Tensor], share: float) -> None:
    for name, value in values.items():
        before = sums.get(name, torch.zeros((), device=value.device))
        sums[name] = before + share * value.detach().float()


def _note(shown: Tracker, state: _State, sums: dict[str, Tensor], config: LoopConfig) -> None:
    if state.step % config.log_every == 0:
        state.loss = float(sums["loss"] / sums["steps"])
    loss = f", loss {state.loss:.3f}" if state.loss is not None else ""
    best = f", best {state.best_score:.4f}" if state.best_score > -math.inf else ""
    shown.advance(1, note=f"epoch {state.epoch + 1}{loss}{best}")


def _note_start(recipe: Recipe[B], state: _State, best: dict[str, Tensor]) -> None:
    recipe.model.eval()
    state.start = metrics = recipe.end_epoch(-1)
    state.best_score = metrics["score"]
    best.update({k: v.detach().clone() for k, v in recipe.model.state_dict().items()})
    shown = [f"{name} {value:.4f}" for name, value in metrics.items() if name != "score"]
    logger.info("before the first epoch: %s", ", ".join(shown))


def _end_epoch(
    recipe: Recipe[B],
    state: _State,
    sums: dict[str, Tensor],
    best: dict[str, Tensor],
    device: torch.device,
) -> None:
    steps = float(sums.pop("steps"))
    row: dict[str, Any] = {"epoch": state.epoch, "step": state.step}
    # Sorted: a checkpoint does not keep their order.
    row |= {name: float(value) / steps for name, value in sorted(sums.items())}
    sums.clear()
    if not all(math.isfinite(value) for value in row.values()):
        raise TrainingDivergedError(
            f"a loss is no longer finite in epoch {state.epoch}; lower learning_rate and run again"
        )
    recipe.model.eval()
    metrics = recipe.end_epoch(state.epoch)
    recipe.model.train()
    state.loss = row["loss"]
    row |= metrics
    if metrics.get("score", -math.inf) > state.best_score:
        state.best_epoch, state.best_score = state.epoch, metrics["score"]
        best.clear()
        best.update({k: v.detach().clone() for k, v in recipe.model.state_dict().items()})
    state.log.append(row)
    state.peak_mb.append(round(peak_memory_bytes(device) / 1e6, 1))
    logged = {**row, "peak_mb": state.peak_mb[-1]}
    logger.debug("%s", ", ".join(f"{k} {v:.4g}" for k, v in logged.items()))
    if metrics:
        shown = [f"{name} {row[name]:.4f}" for name in metrics if name != "score"]
        mark = ", the best so far" if state.best_epoch == state.epoch else ""
        logger.info("epoch %d: %s%s", state.epoch + 1, ", ".join(shown), mark)
    state.epoch += 1
    state.batch = 0


def _tensors(
    recipe: Recipe[B], best: dict[str, Tensor], sums: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    tensors = random_tensors(device)
    tensors |= {f"model.{name}": value for name, value in recipe.model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors |= {f"sums.{name}": value for name, value in sums.items()}
    for name, optimizer in recipe.optimizers.items():
        tensors |= optimizer_tensors(optimizer, f"optimizer.{name}")
    return {name: value.clone() for name, value in tensors.items()}


def _restore(
    recipe: Recipe[B],
    state: _State,
    tensors: dict[str, Tensor],
    saved: dict[str, Any],
    *,
    identity: dict[str, Any],
    device: torch.device,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    check_identity(saved.pop("identity"), identity)
    recipe.model.load_state_dict(section(tensors, "model"))
    for name, optimizer in recipe.optimizers.items():
        restore_optimizer(optimizer, tensors, f"optimizer.{name}")
    restore_random(tensors, device)
    saved["best_score"] = -math.inf if saved["best_score"] is None else saved["best_score"]
    vars(state).update(saved)
    return (
        {name: value.to(device) for name, value in section(tensors, "best").items()},
        {name: value.to(device) for name, value in section(tensors, "sums").items()},
    )
