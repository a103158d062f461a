"""The loss of finding an item among all, with its gradient in closed form.

Scores of all items for all entries are by far the largest tensors of training. The gradient of
-log softmax(logits)[target] is softmax(logits) - onehot(target), which takes the place of the
logits; autograd would copy them for every table that adds to some of them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.recommender.dense_score import Additions, Evidence, additions, sum_up


def catalog_loss(
    scores: Float[Tensor, "entry item"],
    biases: Mapping[str, Tensor],
    evidence: Evidence,
    targets: Int[Tensor, " entry"],
    *,
    without: Bool[Tensor, " item"],
) -> Float[Tensor, ""]:
    """-log p of the targets, the sum over entries; p as the softmax of `scores` and `additions`.

    Args:
        scores: they are overwritten.
        without: items that are no candidates.
    """
    added = additions(biases, evidence)
    of_items = torch.zeros_like(scores[0]) if added.of_items is None else added.of_items
    of_items = of_items.masked_fill(without, -torch.inf)
    near = [items for items, _ in added.near]
    gained = [gain for _, gain in added.near]
    loss: Tensor = _Loss.apply(  # type: ignore[no-untyped-call]
        (near, added.repeats, targets), scores, of_items, added.of_repeats, *gained
    )
    return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        fixed: tuple[list[Tensor], Any, Tensor],
        scores: Tensor,
        of_items: Tensor,
        of_repeats: Tensor | None,
        *gained: Tensor,
    ) -> Tensor:
        near, repeats, targets = fixed
        added = Additions(of_items, list(zip(near, gained, strict=True)), repeats, of_repeats)
        ctx.fixed, ctx.dtype = fixed, scores.dtype
        log_p = sum_up(scores, added).log_softmax(1)
        entry = torch.arange(len(targets), device=targets.device)
        loss = -log_p[entry, targets].sum()
        residual = log_p.exp_()
        residual[entry, targets] -= 1
        ctx.save_for_backward(residual)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (residual,) = ctx.saved_tensors
        near, repeats, _ = ctx.fixed
        residual.mul_(scale)
        of_items = residual.sum(0) if ctx.needs_input_grad[2] else None
        of_repeats = None
        if repeats is not None:
            of_repeats = residual[repeats.entries, repeats.items]
            residual[repeats.entries, repeats.items] = 0  # what neighbors gave was overwritten
        gained = [residual.gather(1, items) for items in near]
        if of_repeats is not None:
            residual[repeats.entries, repeats.items] = of_repeats
        return None, residual.to(ctx.dtype), of_items, of_repeats, *gained
