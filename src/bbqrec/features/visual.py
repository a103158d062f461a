"""The local image encoder: statistics of color, layout and gradients, condensed by a PCA.

Per picture: a small thumbnail (what is where), color histograms per cell (which colors, where),
histograms of oriented gradients at two scales (shapes; Dalal and Triggs, 2005) and of local binary
patterns in the middle and everywhere (textures; Ojala, Pietikainen and Maenpaa, 2002). Blocks are
scaled to equal total variance before the PCA, so that none owns it; after it, each direction is
divided by the square root of its strength, half way to whitening.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bbqrec.features.image_files import open_image
from bbqrec.storage import read_tensors, write_json, write_tensors

logger = logging.getLogger(__name__)

DEFAULT_DIM = 128
SIZE = 96  # the side to which every picture is reduced
ORIENTATIONS = 8
HUES = 10
# Length of each block of statistics, in order.
BLOCKS = (8 * 8 * 3, 4 * 4 * (2 * HUES + 4), 8 * 8 * ORIENTATIONS, 4 * 4 * ORIENTATIONS, 2 * 256)

Pixels = NDArray[Any]


class VisualEncoder:
    """Encoded image files -> vectors."""

    def __init__(
        self, mean: Float[Tensor, " statistic"], components: Float[Tensor, "dim statistic"]
    ) -> None:
        self._mean = mean
        self._components = components  # the blocks' scales are folded in

    @property
    def dim(self) -> int:
        return len(self._components)

    @classmethod
    def fit(
        cls, statistics: Float[Tensor, "item statistic"], dim: int | None = None
    ) -> "VisualEncoder":
        """Learn the main directions of `picture_statistics`; `dim` is capped by the data's rank."""
        from sklearn.utils.extmath import randomized_svd

        mean = statistics.double().mean(0)
        blocks = torch.split(statistics.double() - mean, list(BLOCKS), 1)
        variance = torch.stack([block.square().mean(0).sum() for block in blocks])
        scale = variance.clamp(min=1e-12).rsqrt().repeat_interleave(torch.tensor(BLOCKS))
        scaled = (torch.cat(blocks, 1) * scale).numpy()
        width = min(dim or DEFAULT_DIM, *scaled.shape)
        _, strength, directions = randomized_svd(scaled, width, random_state=0)
        kept = max(1, int((strength > 1e-4 * strength[0]).sum()))
        logger.info(
            "%d pictures, %d dimensions keep %.0f%% of the variance",
            len(statistics),
            kept,
            100 * np.square(strength[:kept]).sum() / max(np.square(scaled).sum(), 1e-12),
        )
        weights = np.sqrt(np.maximum(strength[:kept, None], 1e-12))
        components = torch.from_numpy(directions[:kept] / weights) * scale
        return cls(mean.float(), components.float())

    def encode(self, images: Sequence[bytes]) -> Float[Tensor, "item dim"]:
        """One row per image file.

        Raises:
            UnreadableImageError: a file cannot be used as an image.
        """
        return self.project(picture_statistics(map(open_image, images)))

    def project(self, statistics: Float[Tensor, "item statistic"]) -> Float[Tensor, "item dim"]:
        return (statistics - self._mean) @ self._components.T

    def save(self, directory: Path) -> None:
        write_json(directory / "encoder.json", {"encoder": "visual"})
        write_tensors(
            directory / "encoder.safetensors", {"mean": self._mean, "components": self._components}
        )

    @classmethod
    def load(cls, directory: Path) -> "VisualEncoder":
        tensors = read_tensors(directory / "encoder.safetensors")
        return cls(tensors["mean"], tensors["components"])


def picture_statistics(pictures: Iterable[Image.Image]) -> Float[Tensor, "item statistic"]:
    """The blocks of statistics of RGB pictures, side by side."""
    reduced = [
        picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        for picture in pictures
    ]
    pixels = np.stack([np.asarray(picture, np.float32) for picture in reduced]) / 255
    gray = pixels.mean(3)
    blocks = [
        _thumbnail(pixels),
        _color_histograms(pixels),
        _gradient_histograms(gray, cells=8),
        _gradient_histograms(_cell_means(gray, SIZE // 2), cells=4),
        _local_binary_patterns(gray),
    ]
    flat = [block.reshape(len(pixels), -1) for block in blocks]
    return torch.from_numpy(np.concatenate(flat, axis=1).astype(np.float32))


def _cell_means(images: Pixels, cells: int) -> Pixels:
    """Average squares of pixels: (item, height, width, ...) -> (item, cells, cells, ...)."""
    size = images.shape[1] // cells
    shape = (len(images), cells, size, cells, size, *images.shape[3:])
    means: Pixels = images.reshape(shape).mean((2, 4))
    return means


def _thumbnail(pixels: Pixels) -> Pixels:
    """Brightness and two opponent colors."""
    red, green, blue = np.moveaxis(_cell_means(pixels, 8), 3, 0)
    return np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], axis=3)


def _histogram(bins: NDArray[np.intp], weights: Pixels, num_bins: int, cells: int) -> Pixels:
    """Weight per bin in each cell, by linear interpolation already split into `bins`."""
    num_items, side = bins.shape[0], bins.shape[1]
    cell = np.arange(side) * cells // side
    place = np.arange(num_items)[:, None, None] * cells + cell[:, None]
    index = (place * cells + cell) * num_bins + bins
    counts = np.bincount(index.ravel(), weights.ravel(), num_items * cells * cells * num_bins)
    histogram: Pixels = counts.reshape(num_items, cells, cells, num_bins).astype(np.float32)
    return histogram * np.float32((cells / side) ** 2)


def _circular_histogram(turn: Pixels, weights: Pixels, num_bins: int, cells: int) -> Pixels:
    """A histogram of angles (in turns), each shared by its two nearest bins."""
    position = (turn % 1) * num_bins
    lower = np.floor(position).astype(np.intp)
    share = position - lower
    return _histogram(lower % num_bins, weights * (1 - share), num_bins, cells) + _histogram(
        (lower + 1) % num_bins, weights * share, num_bins, cells
    )


def _color_histograms(pixels: Pixels) -> Pixels:
    """Hue (of dark and of light pixels) by colorfulness, and gray levels by the lack of it."""
    red, green, blue = np.moveaxis(pixels, 3, 0)
    across, along = np.sqrt(3) / 2 * (green - blue), red - (green + blue) / 2
    chroma = np.hypot(across, along)
    turn = np.arctan2(across, along) / (2 * np.pi)
    light = pixels.mean(3)
    is_light = np.clip((light - 0.3) / 0.4, 0, 1)
    level = np.minimum((light * 4).astype(np.intp), 3)
    parts = [
        _circular_histogram(turn, chroma * (1 - is_light), HUES, 4),
        _circular_histogram(turn, chroma * is_light, HUES, 4),
        _histogram(level, (1 - np.minimum(chroma * 2, 1)), 4, 4),
    ]
    # The square root tames the few cells of one flat color.
    tamed: Pixels = np.sqrt(np.concatenate(parts, axis=3))
    return tamed


def _gradient_histograms(gray: Pixels, *, cells: int) -> Pixels:
    """Energy of edges per orientation and cell, relative to the picture's contrast."""
    down = np.zeros_like(gray)
    right = np.zeros_like(gray)
    down[:, 1:-1] = gray[:, 2:] - gray[:, :-2]
    right[:, :, 1:-1] = gray[:, :, 2:] - gray[:, :, :-2]
    strength = np.hypot(down, right)
    turn = np.arctan2(down, right) / np.pi  # an edge has a direction, but no sign
    energy = np.sqrt(_circular_histogram(turn, strength, ORIENTATIONS, cells))
    contrast = np.sqrt(np.square(energy).sum((1, 2, 3), keepdims=True))
    relative: Pixels = energy / (contrast + 1e-2)
    return relative


def _local_binary_patterns(gray: Pixels) -> Pixels:
    """How often each of the 256 patterns "which neighbors are brighter" occurs, inside and out."""
    middle = gray[:, 1:-1, 1:-1]
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    codes = np.zeros(middle.shape, np.intp)
    height, width = middle.shape[1:]
    for bit, (row, column) in enumerate(around):
        neighbor = gray[:, row : row + height, column : column + width]
        codes |= (neighbor > middle + 0.02).astype(np.intp) << bit  # flat areas stay flat
    edge = height // 4
    inner = codes[:, edge:-edge, edge:-edge]
    both = [_histogram(c, np.ones(c.shape, np.float32), 256, 1) for c in (inner, codes)]
    shares: Pixels = np.sqrt(np.concatenate(both, axis=3))
    return shares
