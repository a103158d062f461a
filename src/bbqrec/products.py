"""Products of float32 matrices on a CPU whose maker is not Intel.

PyTorch multiplies them with Intel's MKL, which uses half the width of AVX-512 units that it did not
expect: 95 GFLOP/s on a core of an AMD EPYC (Zen 5) where oneDNN, which PyTorch brings along and
uses for bfloat16, reaches 220. Which library multiplies follows from the machine and from the
shapes alone, never from a timing, so that a run can be repeated to the last bit.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# oneDNN compiles a kernel for each new shape, in about half a millisecond, and keeps the latest.
# Batches of real lengths have a new shape nearly every time, so the products that share a kernel
# must gain that much together.
MIN_FLOPS = 80e6
MIN_ROWS = 8  # with fewer MKL is as fast, since it only waits for the weights


class Linear(nn.Linear):
    """A linear map without bias, by whichever library multiplies faster.

    Args:
        uses: how many products of these shapes a model makes of one batch, layer by layer.
    """

    def __init__(self, inputs: int, outputs: int, *, uses: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.uses = uses

    def forward(self, x: Float[Tensor, "*shape inputs"]) -> Float[Tensor, "*shape outputs"]:
        return linear(x, self.weight, uses=self.uses)


def linear(
    x: Float[Tensor, "*shape inputs"], weight: Float[Tensor, "outputs inputs"], *, uses: int = 1
) -> Float[Tensor, "*shape outputs"]:
    """x @ weight.T, as `torch.nn.functional.linear`; the last bits depend on the library.

    Args:
        uses: as of `Linear`.
    """
    # In this order: a search for one user asks a hundred times for small products.
    if torch.compiler.is_compiling() or 2 * x.numel() * weight.shape[0] * uses < MIN_FLOPS:
        return F.linear(x, weight)
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not is_mkl_slow():
        return F.linear(x, weight)
    if not (x.dtype == weight.dtype == torch.float32 and _is_whole(weight)):
        return F.linear(x, weight)
    rows = x.reshape(-1, x.shape[-1])
    is_training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    product = _trained(rows, weight) if is_training else _onednn(rows, weight)
    return product.view(*x.shape[:-1], weight.shape[0])


def fixed(*weights: Float[Tensor, "_ inputs"]) -> Float[Tensor, "outputs inputs"]:
    """Maps of the same rows as one, in the order in memory that `multiply_few` reads fastest."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat(weights).T.contiguous().T


def multiply_few(
    rows: Float[Tensor, "row inputs"], weight: Float[Tensor, "outputs inputs"]
) -> Float[Tensor, "row outputs"]:
    """rows @ weight.T of a weight from `fixed`, outside training, where shapes come again.

    As in a search, level by level: a kernel that oneDNN compiled once serves for good.
    """
    few = rows.shape[0] < MIN_ROWS or rows.dtype != torch.float32 or rows.device.type != "cpu"
    if few or not is_mkl_slow():
        return F.linear(rows, weight)
    return _onednn(rows, weight)


def _is_whole(weight: Float[Tensor, "outputs inputs"]) -> bool:
    """Whether no other numbers lie between those of a weight: else oneDNN takes a thousand times
    as long."""
    return weight.is_contiguous() or weight.T.is_contiguous()


class _Product(torch.autograd.Function):
    """`linear` with both gradients by oneDNN, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = _onednn(grad, weight.T) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            # The first factor is copied into rows of its own: let it be the narrower one.
            if x.shape[1] < grad.shape[1]:
                of_weight = _onednn(x.T, grad.T).T
            else:
                of_weight = _onednn(grad.T, x.T)
        return of_x, of_weight


def _trained(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    return product


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


@cache
def is_mkl_slow() -> bool:
    """Whether oneDNN is there, multiplies right, and runs on a processor that MKL neglects."""
    features = torch.cpu.get_capabilities()
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not (has_mkl and features.get("avx512_f") and "AMD" in str(features.get("cpu_name"))):
        return False
    # The operator is not among PyTorch's documented ones; should it change, do without it.
    x, weight = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(2, 4)
    try:
        with torch.inference_mode():
            found = _onednn(x, weight)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(found, x @ weight.T)
