"""A loss in chunks is the loss at once: same value, same gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bbqrec.training.chunks import sum_in_chunks


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_chunks_give_the_value_and_gradients_of_the_whole(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    entries, table = (torch.randn(n, 5, generator=generator).requires_grad_() for n in (30, 12))
    scale = torch.tensor(0.5, requires_grad=True)
    labels = torch.randint(12, (30,), generator=generator)
    inputs = [entries, table, scale]

    def loss(chunk: slice, x: Tensor, items: Tensor, factor: Tensor) -> Tensor:
        return F.cross_entropy(factor * x @ items.T, labels[chunk], reduction="sum")

    whole = loss(slice(0, 30), *inputs)
    chunked = sum_in_chunks(loss, *inputs, size=size)

    torch.testing.assert_close(chunked, whole)
    expected = torch.autograd.grad(3 * whole, inputs)
    for found, gradient in zip(torch.autograd.grad(3 * chunked, inputs), expected, strict=True):
        torch.testing.assert_close(found, gradient)
