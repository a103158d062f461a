"""Products by oneDNN: where they are worth it, and the same numbers as PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from bbqrec import products

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


@pytest.fixture
def neglected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that MKL neglects; what is multiplied where is noted by no timing."""
    monkeypatch.setattr(products, "is_mkl_slow", lambda: True)


@needs_onednn
@pytest.mark.usefixtures("neglected")
@pytest.mark.parametrize("shape", [(1000, 128), (4, 250, 128)])
@pytest.mark.parametrize("outputs", [64, 512])
def test_products_and_gradients_are_those_of_pytorch(shape: tuple[int, ...], outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).repeat_interleave(4, 0).requires_grad_()
    weight = torch.randn(outputs, 128, generator=generator).requires_grad_()
    weights = torch.randn(*x.shape[:-1], outputs, generator=generator)

    found = products.linear(x, weight).relu_()  # as layers go on: in place
    of_x, of_weight = torch.autograd.grad((found * weights).sum(), (x, weight))
    with torch.no_grad():
        answer = products.linear(x, weight).relu_()

    exact = F.linear(x.double(), weight.double()).relu()
    wanted = torch.autograd.grad((exact * weights).sum(), (x, weight))
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(answer.double(), exact, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(of_x, wanted[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(of_weight, wanted[1], atol=1e-3, rtol=1e-4)


@needs_onednn
@pytest.mark.usefixtures("neglected")
def test_the_same_product_twice_is_the_same_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(900, 128, generator=generator), torch.randn(256, 128)
    with torch.inference_mode():
        found = products.linear(x, weight)

        for rows in (200, 500, 900):  # kernels of other shapes in between
            products.linear(x[:rows], weight)

        assert torch.equal(products.linear(x, weight), found)


@pytest.mark.usefixtures("neglected")
def test_a_small_product_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(products, "_onednn")  # would fail if asked
    x, weight = torch.randn(8, 128), torch.randn(128, 128)

    assert torch.equal(products.linear(x, weight), F.linear(x, weight))


@pytest.mark.usefixtures("neglected")
def test_a_part_of_a_map_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN has no kernel for rows with gaps between them, and would take a second."""
    monkeypatch.delattr(products, "_onednn")
    x, weight = torch.randn(2000, 128), products.fixed(torch.randn(768, 128))[256:]

    assert torch.equal(products.linear(x, weight), F.linear(x, weight))


@pytest.mark.usefixtures("neglected")
def test_half_precision_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(products, "_onednn")
    x, weight = torch.randn(2000, 128), torch.randn(512, 128)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = products.linear(x, weight)

    assert found.dtype == torch.bfloat16
    assert torch.equal(found, F.linear(x.bfloat16(), weight.bfloat16()))


@needs_onednn
@pytest.mark.usefixtures("neglected")
@pytest.mark.parametrize("rows", [1, products.MIN_ROWS, 33])
def test_maps_as_one_give_what_each_gives(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 48, generator=generator)
    weights = [torch.randn(size, 48, generator=generator) for size in (64, 32)]

    found = products.multiply_few(x, products.fixed(*weights))

    expected = torch.cat([x @ weight.T for weight in weights], 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
