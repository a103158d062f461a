"""A loss over many entries whose logits never exist all at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def sum_in_chunks(
    loss: Callable[..., Tensor],
    entries: Float[Tensor, "entry ..."],
    *shared: Tensor,
    size: int,
) -> Float[Tensor, ""]:
    """The sum of `loss(slice, entries[slice], *shared)` over slices of `size` entries.

    Each chunk's gradient is taken as soon as its loss is known, so that memory holds the logits
    of one chunk only and nothing is computed twice. Gradients reach `entries` and `shared` alone.
    """
    total: Tensor = _SumInChunks.apply(loss, size, entries, *shared)  # type: ignore[no-untyped-call]
    return total


class _SumInChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        loss: Callable[..., Tensor],
        size: int,
        entries: Tensor,
        *shared: Tensor,
    ) -> Tensor:
        gradient = torch.empty_like(entries)
        shared_gradients = [torch.zeros_like(x) for x in shared]
        total = torch.zeros((), device=entries.device)
        for begin in range(0, len(entries), size):
            chunk = slice(begin, min(begin + size, len(entries)))
            with torch.enable_grad():
                inputs = [x.detach().requires_grad_() for x in (entries[chunk], *shared)]
                part = loss(chunk, *inputs)
            gradient[chunk], *of_shared = torch.autograd.grad(part, inputs)
            for sum_, addend in zip(shared_gradients, of_shared, strict=True):
                sum_ += addend
            total += part.detach()
        ctx.save_for_backward(gradient, *shared_gradients)
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, None, *(gradient * outputs[0] for gradient in saved)
