"""Pictures of the drawn shop: the look in shapes and colors, in front of what means nothing.

Kind, hue, lightness, proportion and pattern (the taste) are the object's. Background, light, camera
and frame are private to the picture: drawn at random and never seen by a shopper.
"""

import colorsys
import io
import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bbqrec.data.drawn_words import KINDS

SIZE = 128
_CANVAS = 2 * SIZE  # drawn at twice the size, then reduced: smooth edges
_WOOD = (150, 106, 68)
_BRASS = (198, 160, 84)

Color = tuple[int, int, int]
Number = float | int
Points = list[tuple[Number, Number]]


class Nuisance(NamedTuple):
    """What differs between photographs of one and the same thing; one array entry per item."""

    background_hue: NDArray[np.float64]
    background_light: NDArray[np.float64]
    light_side: NDArray[np.float64]
    angle: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    scene: NDArray[np.int64]
    frame: NDArray[np.int64]


def draw_picture_nuisance(num_items: int, generator: np.random.Generator) -> Nuisance:
    """Background, light, camera and frame of each item's photograph."""

    def uniform(low: Number, high: Number) -> NDArray[np.float64]:
        return generator.uniform(low, high, num_items)

    return Nuisance(
        background_hue=uniform(0, 1),
        background_light=uniform(-1, 1),
        light_side=uniform(-1, 1),
        angle=uniform(-9, 9),
        scale=uniform(0.84, 1.04),
        shift=uniform(-0.12, 0.12),
        scene=generator.integers(len(_SCENES), size=num_items),
        frame=generator.integers(5, size=num_items),
    )


def draw_picture(
    kind: int, hue: float, light: float, proportion: float, pattern: int, nuisance: Nuisance
) -> bytes:
    """One JPEG; `nuisance` holds the item's own entries, the rest is as in `write_text`."""
    body = _color(hue, 0.49 + 0.21 * light, 0.58)
    accent = _color(hue, 0.49 + 0.21 * light + (0.24 if light < 0.2 else -0.24), 0.55)
    pen = _Pen(proportion, pattern, body, accent, float(nuisance.light_side))
    _OBJECTS[KINDS[kind]](pen)
    thing = pen.layer.rotate(float(nuisance.angle), Image.Resampling.BILINEAR)
    size = round(_CANVAS * float(nuisance.scale))
    thing = thing.resize((size, size), Image.Resampling.BILINEAR)

    picture = _SCENES[int(nuisance.scene)](nuisance)
    left = round((_CANVAS - size) / 2 + float(nuisance.shift) * _CANVAS / 2)
    top = round((_CANVAS - size) / 2 + 0.03 * _CANVAS)
    shadow = thing.getchannel("A").resize((SIZE, SIZE)).filter(ImageFilter.BoxBlur(4))
    shadow = shadow.resize((size, size)).point(lambda alpha: alpha * 0.38)
    side = round(-10 * float(nuisance.light_side))
    picture.paste((30, 26, 34), (left + side, top + 7), shadow)
    picture.paste(thing, (left, top), thing)
    _frame(picture, int(nuisance.frame))
    file = io.BytesIO()
    picture.resize((SIZE, SIZE), Image.Resampling.BOX).save(file, "JPEG", quality=86)
    return file.getvalue()


def _color(hue: float, light: float, saturation: float) -> Color:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, min(max(light, 0), 1), saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _darker(color: Color, factor: float = 0.55) -> Color:
    return round(color[0] * factor), round(color[1] * factor), round(color[2] * factor)


@cache
def _is_accent(pattern: int) -> NDArray[np.bool_]:
    """Where the pattern shows its second color, on a sheet from which objects are cut."""
    y, x = np.mgrid[0:_CANVAS, 0:_CANVAS] / _CANVAS
    column, row = x * 9 % 1 - 0.5, (y * 9 + (np.floor(x * 9) % 2) / 2) % 1 - 0.5
    sheets: tuple[NDArray[np.bool_], ...] = (
        np.zeros(x.shape, dtype=np.bool_),
        # Sines of unrelated frequencies: specks without a random draw.
        np.sin(x * 101 + 5 * np.sin(y * 37)) * np.sin(y * 113 + 4 * np.sin(x * 43)) > 0.6,
        np.hypot(column, row) < 0.27,
        (x * 11) % 1 < 0.42,
        ((x * 7) % 1 < 0.5) ^ ((y * 7) % 1 < 0.5),
        (y * 9 + 0.35 * np.sin(x * 30)) % 1 < 0.4,
    )
    return sheets[pattern]


class _Pen:
    """Draws in a box from -1 to 1 (y downward), stretched by the proportion, with outlines."""

    def __init__(
        self, proportion: float, pattern: int, body: Color, accent: Color, light_side: float
    ) -> None:
        self.layer = Image.new("RGBA", (_CANVAS, _CANVAS))
        self.body = body
        self.outline = _darker(body, 0.42)
        stretch = math.exp(0.24 * proportion)
        self._width, self._height = 0.62 / stretch, 0.59 * stretch
        # Lit from one side: a rounded body darkens away from the light.
        shade = 1.06 - 0.15 * (np.linspace(-1, 1, _CANVAS) + light_side) ** 2
        colors = np.clip(shade[:, None, None] * np.array([body, accent]), 0, 255).astype(np.uint8)
        column = np.arange(_CANVAS)
        self._fill = Image.fromarray(colors[column, _is_accent(pattern).astype(np.int8)])

    def place(self, points: Points) -> Points:
        half = _CANVAS / 2
        return [(half + x * self._width * half, half + y * self._height * half) for x, y in points]

    def shape(self, points: Points, color: Color | None = None) -> None:
        """A filled outline; without a color, cut from the patterned sheet."""
        corners = self.place(points)
        if color is None:
            mask = Image.new("L", self.layer.size)
            ImageDraw.Draw(mask).polygon(corners, fill=255)
            self.layer.paste(self._fill, (0, 0), mask)
        else:
            ImageDraw.Draw(self.layer).polygon(corners, fill=color)
        self.line([*points, points[0], points[1]], self.outline, 4)

    def line(self, points: Points, color: Color, width: int) -> None:
        ImageDraw.Draw(self.layer).line(self.place(points), color, width, joint="curve")

    def stroke(self, points: Points, width: int) -> None:
        """A tube with an outline: handles and straps."""
        self.line(points, self.outline, width + 7)
        self.line(points, self.body, width)


def _ellipse(
    x: Number, y: Number, width: Number, height: Number, start: Number = 0, end: Number = 360
) -> Points:
    angles = np.radians(np.linspace(start, end, 40))
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


def _turned(profile: Points) -> Points:
    """A body of revolution: the right-hand profile, smoothed by a spline, and its mirror image."""
    points = np.array([profile[0], *profile, profile[-1]])
    t = np.linspace(0, 1, 9)[:-1, None]
    before, start, end, after = (
        points[:-3, None],
        points[1:-2, None],
        points[2:-1, None],
        points[3:, None],
    )
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )  # Catmull-Rom
    right = [(float(x), float(y)) for x, y in [*curve.reshape(-1, 2), points[-1]]]
    return right + [(-x, y) for x, y in reversed(right)]


def _mug(pen: _Pen) -> None:
    pen.stroke(_ellipse(0.62, 0.0, 0.48, 0.46, -80, 80), 17)
    pen.shape(_turned([(0.72, -0.85), (0.72, 0.2), (0.68, 0.75), (0.5, 0.92)]))
    pen.shape(_ellipse(0, -0.85, 0.72, 0.14), _darker(pen.body, 0.6))


def _vase(pen: _Pen) -> None:
    for x, y in ((-0.4, -1.14), (0.0, -1.26), (0.38, -1.1)):
        pen.line([(x * 0.3, -0.6), (x, y)], (84, 120, 76), 6)
        pen.shape(_ellipse(x, y, 0.13, 0.13), (240, 226, 190))
    pen.shape(_turned([(0.34, -0.8), (0.24, -0.5), (0.66, 0.1), (0.62, 0.6), (0.36, 1.0)]))
    pen.shape(_ellipse(0, -0.8, 0.34, 0.07), _darker(pen.body, 0.6))


def _lamp(pen: _Pen) -> None:
    pen.line([(0, 0.0), (0, 1.0)], _darker(_BRASS, 0.6), 17)
    pen.line([(0, 0.0), (0, 1.0)], _BRASS, 10)
    pen.shape(_ellipse(0, 1.02, 0.5, 0.12), _BRASS)
    pen.shape([(-0.42, -1.1), (0.42, -1.1), (0.95, 0.15), (-0.95, 0.15)])
    pen.line([(0.5, 0.2), (0.5, 0.5)], _BRASS, 4)


def _chair(pen: _Pen) -> None:
    for x, foot in ((-0.6, -0.72), (0.6, 0.72), (-0.35, -0.4), (0.35, 0.4)):
        pen.line([(x, 0.2), (foot, 1.2)], _darker(_WOOD, 0.5), 15)
        pen.line([(x, 0.2), (foot, 1.2)], _WOOD, 9)
    pen.shape(_turned([(0.45, -1.2), (0.62, -1.1), (0.68, -0.5), (0.58, 0.1)]))
    pen.shape(_turned([(0.7, 0.02), (0.86, 0.15), (0.84, 0.36), (0.7, 0.42)]))


def _plant(pen: _Pen) -> None:
    for lean in (-0.95, 0.95, -0.6, 0.6, -0.2, 0.25):
        tip = -1.25 + 0.55 * abs(lean)
        leaf = [
            (0.0, 0.1),
            (lean * 0.75 - 0.14, tip * 0.55),
            (lean, tip),
            (lean * 0.55 + 0.16, tip * 0.4),
        ]
        pen.shape(leaf, (92, 146, 88) if lean > 0 else (76, 126, 78))
    pen.shape([(-0.62, 0.18), (0.62, 0.18), (0.44, 1.05), (-0.44, 1.05)])
    pen.shape([(-0.7, 0.02), (0.7, 0.02), (0.7, 0.24), (-0.7, 0.24)])


def _bag(pen: _Pen) -> None:
    pen.stroke(_ellipse(0, -0.3, 0.42, 0.85, 180, 360), 13)
    pen.shape([(-0.72, -0.35), (0.72, -0.35), (0.9, 0.9), (0.8, 1.0), (-0.8, 1.0), (-0.9, 0.9)])
    pen.shape(_ellipse(0, -0.05, 0.1, 0.1), _BRASS)


def _clock(pen: _Pen) -> None:
    for side in (-1, 1):
        pen.line([(side * 0.5, 0.6), (side * 0.72, 1.1)], _darker(_BRASS, 0.7), 16)
        pen.shape(_ellipse(side * 0.5, -0.78, 0.32, 0.24), _BRASS)
    pen.shape(_ellipse(0, 0.1, 0.95, 0.95))
    pen.shape(_ellipse(0, 0.1, 0.62, 0.62), (250, 246, 234))
    pen.line([(0, -0.32), (0, 0.1), (0.3, 0.28)], (52, 46, 52), 8)


def _teapot(pen: _Pen) -> None:
    pen.stroke(_ellipse(-0.72, 0.1, 0.42, 0.5, 90, 270), 15)
    pen.shape([(0.55, 0.45), (0.95, -0.05), (1.08, -0.6), (1.3, -0.56), (1.16, 0.1), (0.6, 0.75)])
    pen.shape(_turned([(0.4, -0.6), (0.8, -0.2), (0.9, 0.3), (0.66, 0.8), (0.46, 0.9)]))
    pen.shape(_turned([(0.1, -0.82), (0.4, -0.72), (0.5, -0.55)]))
    pen.shape(_ellipse(0, -0.92, 0.13, 0.13), pen.body)


_OBJECTS: dict[str, Callable[[_Pen], None]] = {
    "mug": _mug,
    "vase": _vase,
    "lamp": _lamp,
    "chair": _chair,
    "plant": _plant,
    "bag": _bag,
    "clock": _clock,
    "teapot": _teapot,
}


def _wall(nuisance: Nuisance) -> Image.Image:
    """A wall, lit from one side."""
    color = _color(
        float(nuisance.background_hue), 0.76 + 0.14 * float(nuisance.background_light), 0.32
    )
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
    light = 1 - 0.10 * float(nuisance.light_side) * ramp[None, :] - 0.07 * ramp[:, None]
    wall = np.clip(light[..., None] * np.array(color, np.float32), 0, 255).astype(np.uint8)
    return Image.fromarray(wall).resize((_CANVAS, _CANVAS))


def _table(nuisance: Nuisance) -> Image.Image:
    """A wall and a table top in another color."""
    image = _wall(nuisance)
    color = _color(float(nuisance.background_hue) + 0.37, 0.62, 0.22)
    ImageDraw.Draw(image).rectangle((0, round(0.72 * _CANVAS), _CANVAS, _CANVAS), fill=color)
    return image


def _window(nuisance: Nuisance) -> Image.Image:
    """A wall with the light of a window falling on it."""
    return ImageChops.add(_wall(nuisance), _panes())


@cache
def _panes() -> Image.Image:
    image = Image.new("RGB", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    for left in (40, 140):
        for top in (20, 120):
            corners = [(0, 0), (84, 0), (52, 86), (-32, 86)]
            draw.polygon([(left + x, top + y) for x, y in corners], (70, 70, 70))
    return image.filter(ImageFilter.BoxBlur(4))


def _sunburst(nuisance: Nuisance) -> Image.Image:
    """A round poster color behind the object."""
    image = _wall(nuisance)
    color = _color(float(nuisance.background_hue) + 0.5, 0.80, 0.42)
    edge = round(0.08 * _CANVAS)
    ImageDraw.Draw(image).ellipse((edge, edge, _CANVAS - edge, _CANVAS - edge), fill=color)
    return image


_SCENES: tuple[Callable[[Nuisance], Image.Image], ...] = (_wall, _table, _window, _sunburst)


def _frame(picture: Image.Image, frame: int) -> None:
    """Nothing, a white mat, a dark line, a polaroid's foot or a sale sticker."""
    draw, last = ImageDraw.Draw(picture), _CANVAS - 1
    if frame == 1:
        draw.rectangle((0, 0, last, last), outline=(250, 250, 248), width=18)
    elif frame == 2:
        draw.rectangle((10, 10, last - 10, last - 10), outline=(60, 54, 60), width=4)
    elif frame == 3:
        draw.rectangle((0, 0, last, last), outline=(250, 250, 248), width=10)
        draw.rectangle((0, last - 30, last, last), fill=(250, 250, 248))
    elif frame == 4:
        draw.ellipse((last - 62, 8, last - 8, 62), fill=(214, 60, 52))
        draw.text((last - 35, 35), "NEW", fill=(255, 255, 255), anchor="mm", font_size=20)
