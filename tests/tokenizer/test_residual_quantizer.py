"""The quantizer against another library, and where its gradients go."""

import torch
from vector_quantize_pytorch import ResidualVQ

from bbqrec.tokenizer import (
    RQVAE,
    BehaviorBoundTokenizer,
    ResidualQuantizer,
    Streams,
    TokenizerConfig,
    quantization_loss,
    straight_through,
)


def test_codes_agree_with_residual_vq_on_equal_codebooks() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer((32, 32, 32), 8)
    reference = ResidualVQ(dim=8, num_quantizers=3, codebook_size=32)
    for layer, codebook in zip(reference.layers, quantizer.codebooks, strict=True):
        layer._codebook.embed.copy_(codebook.detach()[None])
    vectors = torch.randn(500, 8)

    ours = quantizer(vectors[:, None].expand(-1, 3, -1))

    sums, codes, _ = reference.eval()(vectors)
    assert torch.equal(ours.codes, codes)
    torch.testing.assert_close(ours.sums, sums)


def test_error_does_not_grow_with_level() -> None:
    torch.manual_seed(1)
    quantizer = ResidualQuantizer((16, 8, 8, 4), 6)
    vectors = torch.randn(400, 6)
    targets = vectors[:, None].expand(-1, 4, -1)

    quantizer.start(targets, iterations=10, seed=0)

    explained = quantizer(targets).vectors.cumsum(1)
    errors = (targets - explained).square().sum(-1).mean(0)
    assert (errors.diff() < 0).all()
    assert errors[0] < vectors.square().sum(-1).mean()


def test_every_level_pulls_the_encoder_and_moves_its_codebook() -> None:
    torch.manual_seed(2)
    quantizer = ResidualQuantizer((8, 8, 8), 4)
    latent = torch.randn(64, 4, requires_grad=True)

    for level in range(3):
        quantized = quantizer(latent[:, None].expand(-1, 3, -1))
        residual, vector = quantized.residuals[:, level], quantized.vectors[:, level]
        (gradient,) = torch.autograd.grad((residual - vector.detach()).square().sum(), latent)
        torch.testing.assert_close(gradient, 2 * (residual - vector).detach())

    everything = torch.ones(64, dtype=torch.bool)
    quantization_loss(
        quantizer(latent[:, None].expand(-1, 3, -1)), everything, commitment=0.25
    ).backward()
    for codebook in quantizer.codebooks:
        assert codebook.grad is not None
        assert codebook.grad.abs().sum() > 0


def test_straight_through_has_the_quantized_value_and_the_vectors_gradient() -> None:
    vectors = torch.randn(5, 3, requires_grad=True)
    quantized = torch.randn(5, 3)

    result = straight_through(vectors, quantized)
    result.sum().backward()

    torch.testing.assert_close(result.detach(), quantized)
    torch.testing.assert_close(vectors.grad, torch.ones(5, 3))


def test_a_dead_code_becomes_a_residual_of_its_level_and_live_ones_stay() -> None:
    torch.manual_seed(3)
    quantizer = ResidualQuantizer((3, 2), 2)
    with torch.no_grad():
        quantizer.codebooks[0][2] = 1000.0  # nobody's nearest
    vectors = torch.randn(50, 2)
    quantized = quantizer(vectors[:, None].expand(-1, 2, -1))
    before = [codebook.detach().clone() for codebook in quantizer.codebooks]
    is_used = torch.arange(50) < 40

    quantizer.revive(quantized, is_used, after=2)
    torch.testing.assert_close(quantizer.codebooks[0].detach(), before[0])
    quantizer.revive(quantized, is_used, after=2)

    revived = quantizer.codebooks[0].detach()
    torch.testing.assert_close(revived[:2], before[0][:2])
    assert (revived[2] == vectors[:40]).all(1).any()
    torch.testing.assert_close(quantizer.codebooks[1].detach(), before[1])


def test_under_half_precision_the_codes_and_all_they_leave_are_those_of_float32() -> None:
    torch.manual_seed(4)
    quantizer = ResidualQuantizer((256, 256, 256, 256), 32)
    targets = torch.randn(2000, 1, 32).expand(-1, 4, -1)

    with torch.autocast("cpu", torch.bfloat16):
        half = quantizer(targets)

    for found, expected in zip(half, quantizer(targets), strict=True):
        assert torch.equal(found, expected)
    rounded = targets.bfloat16()  # a latent vector as an encoder under autocast leaves it
    assert torch.equal(quantizer(rounded).codes, quantizer(rounded.float()).codes)


def test_every_method_quantizes_in_float32_under_half_precision() -> None:
    torch.manual_seed(5)
    config = TokenizerConfig(encoder_dims=(64,), decoder_dims=(64,))
    content = RQVAE(config, 48)
    bound = BehaviorBoundTokenizer(config, {"text": 48}, 500)
    latent = torch.randn(500, 32)
    stacked = torch.stack([latent, torch.randn(500, 32)], 1)
    streams = Streams(stacked, torch.ones(500, 2, dtype=torch.bool), stacked.mean(1))

    with torch.autocast("cpu", torch.bfloat16):
        encoded = content(torch.randn(500, 48))
        codes, bound_codes = content.quantize(latent).codes, bound.quantize(streams).codes

    assert encoded.dtype == torch.float32
    assert torch.equal(codes, content.quantize(latent).codes)
    assert torch.equal(bound_codes, bound.quantize(streams).codes)
