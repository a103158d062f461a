"""The loss of the dense score, with its gradient in closed form.

Logits of all items for all entries are by far the largest tensors of training. The gradient of
-log softmax(logits)[target] is softmax(logits) - onehot(target), which takes the place of the
logits; autograd would copy them for every table that adds to some of them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.products import linear
from bbqrec.recommender.dense_score import Additions, Evidence, additions, sum_up


def dense_loss(
    user_states: Float[Tensor, "entry dim"],
    output_table: Float[Tensor, "item dim"],
    biases: Mapping[str, Tensor],
    evidence: Evidence,
    targets: Int[Tensor, " entry"],
    *,
    without: Bool[Tensor, " item"],
) -> Float[Tensor, ""]:
    """-log p of the targets under `dense_logits`, their sum.

    Args:
        without: items that are no candidates.
    """
    added = additions(biases, evidence)
    of_items = torch.zeros_like(output_table[:, 0]) if added.of_items is None else added.of_items
    of_items = of_items.masked_fill(without, -torch.inf)
    near = [items for items, _ in added.near]
    gained = [gain for _, gain in added.near]
    loss: Tensor = _Loss.apply(  # type: ignore[no-untyped-call]
        (near, added.repeats, targets),
        user_states,
        output_table,
        of_items,
        added.of_repeats,
        *gained,
    )
    return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        fixed: tuple[list[Tensor], Any, Tensor],
        states: Tensor,
        table: Tensor,
        of_items: Tensor | None,
        of_repeats: Tensor | None,
        *gained: Tensor,
    ) -> Tensor:
        near, repeats, targets = fixed
        products = linear(states, table)
        added = Additions(of_items, list(zip(near, gained, strict=True)), repeats, of_repeats)
        ctx.fixed, ctx.dtype = fixed, products.dtype
        log_p = sum_up(products, added).log_softmax(1)
        entry = torch.arange(len(targets), device=targets.device)
        loss = -log_p[entry, targets].sum()
        residual = log_p.exp_()
        residual[entry, targets] -= 1
        ctx.save_for_backward(states, table, residual)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        states, table, residual = ctx.saved_tensors
        near, repeats, _ = ctx.fixed
        of_items = residual.sum(0) * scale if ctx.needs_input_grad[3] else None
        rounded = residual.to(ctx.dtype)  # products are as precise as those forward
        of_states = linear(rounded, table.to(ctx.dtype).T).to(states.dtype) * scale
        of_table = (rounded.T @ (states * scale).to(ctx.dtype)).to(table.dtype)
        of_repeats = None
        if repeats is not None:
            of_repeats = residual[repeats.entries, repeats.items] * scale
            residual[repeats.entries, repeats.items] = 0  # what neighbors gave was overwritten
        gained = [residual.gather(1, items) * scale for items in near]
        return None, of_states, of_table, of_items, of_repeats, *gained
