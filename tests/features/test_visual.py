"""The local image encoder sees what the drawn shop planted, and forgets nothing on reload."""

import io
from pathlib import Path

import pytest
import torch
from catalogs import Shop, probe
from PIL import Image
from torch import Tensor

from bbqrec.data import iter_images
from bbqrec.features import load_encoder
from bbqrec.features.image_files import UnreadableImageError, open_image
from bbqrec.features.visual import BLOCKS, VisualEncoder, picture_statistics


@pytest.fixture(scope="module")
def images(shop: Shop) -> list[bytes]:
    return [content for _, content in iter_images(shop.catalog.directory)]


@pytest.fixture(scope="module")
def statistics(images: list[bytes]) -> Tensor:
    return picture_statistics(map(open_image, images))


def test_taste_and_kind_are_linear_in_the_vectors(shop: Shop, statistics: Tensor) -> None:
    vectors = VisualEncoder.fit(statistics).project(statistics)
    kind = torch.nn.functional.one_hot(shop.truth["kind"])

    assert vectors.shape == (300, 128)
    assert probe(vectors, shop.truth["taste"]).mean() > 0.7
    assert probe(vectors, kind).min() > 0.6
    assert probe(vectors, shop.truth["text_nuisance"]).max() < 0.1


def test_a_reloaded_encoder_gives_the_same_vectors(
    images: list[bytes], statistics: Tensor, tmp_path: Path
) -> None:
    encoder = VisualEncoder.fit(statistics)
    encoder.save(tmp_path)

    again = load_encoder(tmp_path).encode(images[:7])

    torch.testing.assert_close(again, encoder.project(statistics)[:7], atol=1e-5, rtol=0)


def test_every_block_weighs_the_same(statistics: Tensor) -> None:
    """Reference: an exact SVD of blocks scaled to equal total variance."""
    blocks = torch.split(statistics.double() - statistics.double().mean(0), list(BLOCKS), 1)
    scaled = torch.cat([b / b.square().mean(0).sum().sqrt() for b in blocks], 1)
    left, strength, _ = torch.linalg.svd(scaled, full_matrices=False)
    expected = ((left * strength) @ left.T).float()

    vectors = VisualEncoder.fit(statistics, dim=300).project(statistics)

    torch.testing.assert_close(vectors @ vectors.T, expected, atol=1e-3, rtol=0)


def flat(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (50, 50), color)


def test_statistics_tell_colors_and_directions_apart() -> None:
    stripes = Image.new("RGB", (96, 96), (255, 255, 255))
    for left in range(0, 96, 12):
        stripes.paste((0, 0, 0), (left, 0, left + 6, 96))
    red, dark_red, green, across, down = picture_statistics(
        [flat((200, 30, 30)), flat((150, 20, 20)), flat((30, 160, 60)), stripes, stripes.rotate(90)]
    )

    assert torch.dist(red, dark_red) < torch.dist(red, green)
    thumbnail, colors, edges, _, _ = torch.split(across - down, list(BLOCKS))
    assert edges.norm() > 5 * max(thumbnail.norm(), colors.norm())


def test_an_unreadable_file_is_refused() -> None:
    file = io.BytesIO()
    flat((1, 2, 3)).save(file, "PNG")
    statistics = picture_statistics([flat((i, 0, 0)) for i in range(5)])

    with pytest.raises(UnreadableImageError):
        VisualEncoder.fit(statistics).encode([file.getvalue()[:40]])
