"""Encoded image files -> RGB pictures, from sources nobody vouches for."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bbqrec.errors import FeatureError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000  # 192 MB decoded; a 50-megapixel photograph passes
MAX_SIDE = 1024  # encoders look at 96 to 512 pixels: what is larger would only fill memory
MAX_RATIO = 4


class UnreadableImageError(FeatureError):
    """One image cannot be used; the caller counts it and goes on."""


def open_image(content: bytes) -> Image.Image:
    """The picture in `content` as RGB, upright, transparency on white, first frame.

    At most MAX_SIDE pixels a side; of one more than MAX_RATIO times as long as wide, the middle.

    Raises:
        UnreadableImageError: not one of FORMATS, damaged, or larger than MAX_PIXELS.
    """
    if not content:
        raise UnreadableImageError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                # Dimensions come from the header: a bomb is refused before it is decoded.
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImageError(
                        f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}"
                    )
                image.draft(None, (MAX_SIDE, MAX_SIDE))  # JPEG: decode no more than is needed
                image.load()
                picture = _to_rgb(_middle(_upright(image)))
                picture.thumbnail((MAX_SIDE, MAX_SIDE))
                return picture
        except UnreadableImageError:
            raise
        except UnidentifiedImageError:
            raise UnreadableImageError(f"it is none of {', '.join(FORMATS)}") from None
        # Decoders meet hostile bytes with whatever error their parsing runs into.
        except Exception as error:
            raise UnreadableImageError(f"it is damaged ({type(error).__name__})") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _middle(image: Image.Image) -> Image.Image:
    """Models scale the shorter side up: a hair of 1 x 5000 pixels would become a billion."""
    width, height = image.size
    kept_width, kept_height = min(width, MAX_RATIO * height), min(height, MAX_RATIO * width)
    if (kept_width, kept_height) == image.size:
        return image
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return image.crop((left, top, left + kept_width, top + kept_height))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16- and 32-bit gray, scaled: Pillow's own conversion would saturate to white."""
    gray = np.asarray(image).astype(np.float64)
    if not np.isfinite(gray).all():
        raise UnreadableImageError("it holds values that are not finite")
    if image.mode.startswith("I;16") or gray.max() > 255:
        gray = gray / 257  # 65535 is white
    elif image.mode == "F" and gray.max() <= 1:
        gray = gray * 255
    return Image.fromarray(np.clip(gray.round(), 0, 255).astype(np.uint8)).convert("RGB")
