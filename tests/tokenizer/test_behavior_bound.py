"""The composed tokenizer: absent streams are missing terms, and gradients go where they must."""

from collections.abc import Mapping

import pytest
import torch

from bbqrec.errors import ConfigError
from bbqrec.tokenizer import (
    BehaviorBoundTokenizer,
    ItemContent,
    TokenizerConfig,
    quantization_loss,
)

DIMS = {"image": 6, "text": 5}


def small_config(**changes: object) -> TokenizerConfig:
    return TokenizerConfig.parse(
        {
            "num_levels": 3,
            "codebook_size": 8,
            "dim": 4,
            "encoder_dims": [8],
            "specific_encoder_dims": [8],
            "specific_dim": 3,
            "decoder_dims": [8],
            **changes,
        }
    )


def content(seed: int = 0, num_items: int = 12) -> ItemContent:
    generator = torch.Generator().manual_seed(seed)
    return ItemContent(
        torch.arange(num_items),
        {m: torch.randn(num_items, dim, generator=generator) for m, dim in DIMS.items()},
        torch.rand(num_items, 3, generator=generator) < 0.6,
    )


def with_other_absent_rows(known: ItemContent) -> ItemContent:
    """The same knowledge; what is absent now reads differently, even as not a number."""
    vectors: Mapping[str, torch.Tensor] = {
        modality: torch.where(known.is_present[:, stream, None], table, torch.nan)
        for stream, (modality, table) in enumerate(known.vectors.items())
    }
    return known._replace(vectors=vectors)


@pytest.mark.parametrize("layout", ["fused", "per_stream", "id_last", "cascade"])
def test_what_an_absent_modality_holds_does_not_matter(layout: str) -> None:
    torch.manual_seed(0)
    tokenizer = BehaviorBoundTokenizer(small_config(layout=layout), DIMS, 12).eval()
    known = content()

    first, second = tokenizer(known), tokenizer(with_other_absent_rows(known))

    assert torch.equal(first.fused, second.fused)
    assert torch.equal(tokenizer.id_targets(first), tokenizer.id_targets(second))
    assert torch.equal(tokenizer.quantize(first).codes, tokenizer.quantize(second).codes)


def test_the_fused_stream_of_one_stream_is_that_stream() -> None:
    torch.manual_seed(1)
    tokenizer = BehaviorBoundTokenizer(small_config(gate="learned"), DIMS, 12).eval()
    known = content()._replace(is_present=torch.eye(3).bool().repeat(4, 1))

    streams = tokenizer(known)

    alone = streams.vectors[torch.arange(12), torch.arange(12) % 3]
    torch.testing.assert_close(streams.fused, alone, rtol=1e-3, atol=1e-3)


def test_every_stream_and_the_fused_one_move_the_shared_codebook() -> None:
    torch.manual_seed(2)
    tokenizer = BehaviorBoundTokenizer(small_config(), DIMS, 12).eval()
    quantized, is_present = tokenizer.quantize(tokenizer(content())).runs[0]
    part = torch.arange(len(is_present)) % 4

    for stream in range(4):
        only = is_present & (part == stream)
        loss = quantization_loss(quantized, only, commitment=0.25)
        gradients = torch.autograd.grad(
            loss, list(tokenizer.quantizers.parameters()), retain_graph=True
        )
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_item_vectors_are_dropped_in_training_but_never_as_the_only_stream() -> None:
    torch.manual_seed(3)
    tokenizer = BehaviorBoundTokenizer(small_config(id_dropout=0.5), DIMS, 400).train()
    is_present = torch.tensor([[False, False, True], [True, False, True]]).repeat(200, 1)
    known = content(num_items=400)._replace(is_present=is_present)

    streams = tokenizer(known)

    kept = streams.is_present[:, -1]
    assert kept[0::2].all()
    assert 60 <= kept[1::2].sum() <= 140
    assert (streams.vectors[~kept, -1] == 0).all()


def test_without_aligned_encoders_behavior_reaches_only_the_item_vectors() -> None:
    torch.manual_seed(4)
    tokenizer = BehaviorBoundTokenizer(small_config(behavior_aligned=False), DIMS, 12)
    known = content()._replace(is_present=torch.ones(12, 3).bool())

    tokenizer(known).fused.square().mul(torch.rand(12, 4)).sum().backward()

    assert all(p.grad is None or not p.grad.any() for p in tokenizer.aligned.parameters())
    assert tokenizer.item_vectors.weight.grad.abs().sum() > 0


def test_layouts_ask_each_level_for_its_stream() -> None:
    torch.manual_seed(5)
    known = content()._replace(is_present=torch.ones(12, 3).bool())

    def targets(layout: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(6)
        tokenizer = BehaviorBoundTokenizer(small_config(layout=layout), DIMS, 12).eval()
        streams = tokenizer(known)
        return tokenizer.id_targets(streams), streams.vectors, streams.fused

    found, vectors, fused = targets("fused")
    assert torch.equal(found[:, 0], fused[:, None].expand(-1, 3, -1))

    found, vectors, _ = targets("per_stream")
    assert torch.equal(found, vectors[:, :, None].expand(-1, -1, 3, -1))

    found, vectors, _ = targets("cascade")
    assert torch.equal(found[:, 0], vectors)

    found, vectors, _ = targets("id_last")
    torch.testing.assert_close(found[:, 0, 2] - found[:, 0, 1], vectors[:, 2])
    assert torch.equal(found[:, 0, 0], found[:, 0, 1])


@pytest.mark.parametrize(
    "changes", [{"layout": "id_last", "use_id": False}, {"layout": "cascade", "num_levels": 2}]
)
def test_layouts_that_lack_what_they_need_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="layout"):
        BehaviorBoundTokenizer(small_config(**changes), DIMS, 12)


def test_codebook_sizes_must_fit_the_levels() -> None:
    assert small_config(codebook_size=[8, 4, 2]).codebook_sizes == (8, 4, 2)
    with pytest.raises(ConfigError, match="num_levels"):
        small_config(codebook_size=[8, 4])
