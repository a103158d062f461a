"""Every kind of image file is either a correct picture or one named refusal."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from bbqrec.features.image_files import MAX_RATIO, MAX_SIDE, UnreadableImageError, open_image

RED, BLUE = (220, 40, 30), (20, 60, 200)


def halves(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image.quantize(8) if mode == "P" else image.convert(mode)


def as_file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims, and on decoding would have, that many 1-bit pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "WEBP"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("CMYK", "TIFF"),
    ],
)
def test_colors_survive_every_format_and_mode(mode: str, kind: str) -> None:
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}

    picture = open_image(as_file(halves(mode), kind, **options))

    assert (picture.mode, picture.size) == ("RGB", (40, 20))
    for x, color in ((8, RED), (32, BLUE)):
        assert np.abs(np.subtract(picture.getpixel((x, 10)), color)).max() < 25


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_modes_keep_their_gray(mode: str, kind: str) -> None:
    image = Image.new("L", (8, 8), 255)
    image.paste(0, (0, 0, 4, 8))

    picture = open_image(as_file(image.convert(mode), kind))

    assert picture.getpixel((6, 4)) == (255, 255, 255)
    assert picture.getpixel((1, 4)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_saturated(kind: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(16, 0)

    picture = np.asarray(open_image(as_file(Image.fromarray(ramp), kind)))

    np.testing.assert_allclose(picture[4, :, 0], ramp[4] / 257, atol=1)


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((*BLUE, 255), (0, 0, 4, 8))
    palette = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2)

    picture = open_image(as_file(image, "PNG"))
    from_palette = open_image(as_file(palette, "PNG", transparency=palette.getpixel((7, 0))))

    for opened in (picture, from_palette):
        assert opened.getpixel((6, 4)) == (255, 255, 255)
        assert opened.getpixel((1, 4)) == BLUE


def test_the_camera_orientation_is_honored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down

    picture = open_image(as_file(halves(), "JPEG", exif=exif, quality=95))

    assert np.abs(np.subtract(picture.getpixel((8, 10)), BLUE)).max() < 25


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (30, 30), color) for color in (RED, BLUE, BLUE)]

    picture = open_image(as_file(frames[0], kind, save_all=True, append_images=frames[1:]))

    assert np.abs(np.subtract(picture.getpixel((15, 15)), RED)).max() < 25


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3000, 2000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_odd_sizes_come_out_bounded(size: tuple[int, int], kind: str) -> None:
    picture = open_image(as_file(Image.new("RGB", size, RED), kind))

    assert max(picture.size) <= MAX_SIDE
    assert max(picture.size) <= MAX_RATIO * min(picture.size)
    assert np.abs(np.subtract(picture.getpixel((0, 0)), RED)).max() < 5


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"<html><body>404</body></html>", id="html"),
        pytest.param(lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', id="svg"),
        pytest.param(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="eps"),
        pytest.param(lambda: b"SIMPLE  =                    T".ljust(2880), id="fits"),
        pytest.param(lambda: bytes(range(256)) * 20, id="noise"),
        pytest.param(lambda: as_file(halves(), "PPM"), id="not-on-the-list"),
        pytest.param(lambda: png_bomb(20_000, 20_000), id="bomb"),
        pytest.param(lambda: png_bomb(12_000, 12_000), id="below-pillows-own-limit"),
        pytest.param(
            lambda: as_file(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4"),
            id="tiff-bomb",
        ),
        pytest.param(lambda: png_bomb(8, 8), id="no-pixels"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_one_sentence(make: Callable[[], bytes]) -> None:
    with pytest.raises(UnreadableImageError) as refusal:
        open_image(make())

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_cut_off_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = as_file(Image.fromarray(noise), kind)

    with pytest.raises(UnreadableImageError):
        open_image(content[: int(share * len(content))])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_end_in_a_picture_or_a_refusal_and_nothing_else(kind: str) -> None:
    generator = np.random.default_rng(1)
    content = np.frombuffer(as_file(halves(), kind), np.uint8)

    for _ in range(150):
        damaged = content.copy()
        damaged[generator.integers(len(damaged), size=3)] = generator.integers(256, size=3)
        try:
            picture = open_image(damaged.tobytes())
        except UnreadableImageError:
            continue
        assert picture.mode == "RGB"


def test_junk_beside_the_pixels_does_no_harm() -> None:
    file = as_file(halves(), "JPEG", icc_profile=b"junk" * 50, exif=b"Exif\0\0" + b"\xff" * 40)

    picture = open_image(file)

    assert np.abs(np.subtract(picture.getpixel((8, 10)), RED)).max() < 25
