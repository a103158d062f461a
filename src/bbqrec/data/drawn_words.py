"""Titles and descriptions of the drawn shop: the look in words, among words that mean nothing.

What an item looks like (its taste) picks the color, pattern, shape and kind words. Brand, material,
phrasing, care and delivery are private to the text: drawn at random and never seen by a shopper.
"""

import numpy as np
from numpy.typing import NDArray

KINDS = ("mug", "vase", "lamp", "chair", "plant", "bag", "clock", "teapot")
PATTERNS = ("plain", "speckled", "dotted", "striped", "checked", "wavy")

_NOUNS = {
    "mug": ("mug", "coffee mug"),
    "vase": ("vase", "flower vase"),
    "lamp": ("table lamp", "lamp"),
    "chair": ("chair", "dining chair"),
    "plant": ("potted plant", "plant with pot"),
    "bag": ("bag", "tote bag"),
    "clock": ("alarm clock", "clock"),
    "teapot": ("teapot", "tea pot"),
}
# One row per twelfth of the color wheel, starting at red: deep, middle and pale.
_COLORS = (
    ("oxblood", "brick red", "rose pink"),
    ("chestnut", "burnt orange", "apricot"),
    ("bronze", "mustard yellow", "butter yellow"),
    ("olive", "moss green", "pistachio"),
    ("bottle green", "fern green", "sage"),
    ("pine", "jade", "mint"),
    ("deep teal", "turquoise", "seafoam"),
    ("petrol blue", "steel blue", "powder blue"),
    ("navy", "cobalt blue", "periwinkle"),
    ("midnight purple", "violet", "lavender"),
    ("plum", "orchid", "lilac"),
    ("burgundy", "raspberry", "blush"),
)
_FAMILIES = (
    *("red", "orange", "yellow", "lime", "green", "emerald"),
    *("cyan", "azure", "blue", "violet", "magenta", "crimson"),
)
_TONES = ("deep", "full", "pale")
_SHAPES = ("squat", "low", "classic", "tall", "slender")
_PATTERN_WORDS = (
    ("plain", "solid-color"),
    ("speckled", "flecked"),
    ("dotted", "polka-dot"),
    ("striped", "pinstriped"),
    ("checked", "gingham"),
    ("wavy", "wave-pattern"),
)

_BRANDS = (
    "Hollis & Wren",
    "Marlowe",
    "Studio Ost",
    "Kettle Yard",
    "Fern and Finch",
    "Bergamo",
    "Tuesday Goods",
    "Old Harbor",
    "Pomme",
    "Nine Acres",
    "Lund",
    "Casa Verano",
    "Bright Owl",
    "Quill",
    "Maple Row",
    "Atelier Jun",
)
_MATERIALS = ("", "handmade ", "artisan ", "recycled ", "fair-trade ", "small-batch ")
_TITLES = (
    "{shape} {pattern} {material}{noun}, {color}",
    "{brand} {pattern} {noun} in {color}, {shape}",
    "{noun}, {shape} and {pattern}, {color} - {brand}",
    "{brand}: {shape} {material}{noun} ({pattern}, {color})",
)
_OPENINGS = (
    "A {shape} {noun} in {tone} {family}, {pattern} all over.",
    "This {pattern} {noun} comes in {color}, a {tone} {family}, and has a {shape} outline.",
    "{pattern} and {shape}: a {noun} whose {color} is a {tone} shade of {family}.",
    "Our {color} {noun}: {shape} lines, {pattern} finish, {tone} {family} tone.",
)
_STORIES = (
    "Made by a family workshop since 1962.",
    "Designed in Lisbon and produced in small runs.",
    "A gift that needs no occasion.",
    "Part of the autumn collection by our resident designers.",
    "Customers tell us that they came back for a second one.",
    "Every piece is numbered and signed underneath.",
    "As seen in several weekend magazines.",
    "Inspired by a winter spent near the sea.",
)
_CARE = (
    "Wipe clean with a damp cloth.",
    "Safe for everyday use, no special care needed.",
    "Keep away from open flames and strong solvents.",
    "Slight variations are a sign of handwork, not a fault.",
    "Dust now and then with a soft brush.",
    "Comes with a printed care card in four languages.",
)
_DELIVERY = (
    "Ships within 24 hours in plastic-free packaging.",
    "Free returns for 60 days.",
    "Delivered by bicycle courier where possible.",
    "Gift wrapping available at the checkout.",
    "Usually leaves our warehouse in two to three working days.",
    "Packed in recycled cardboard, with a two-year guarantee.",
)
NUISANCES = (_BRANDS, _MATERIALS, _TITLES, _OPENINGS, _STORIES, _CARE, _DELIVERY, (0, 1), (0, 1))


def draw_text_nuisance(num_items: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Which brand, material, phrasing, ... each item gets: one column per choice."""
    return np.stack([generator.integers(len(n), size=num_items) for n in NUISANCES], axis=1)


def write_text(
    kind: int,
    hue: float,
    light: float,
    proportion: float,
    pattern: int,
    nuisance: NDArray[np.int64],
) -> tuple[str, str]:
    """Title and description of one item.

    Args:
        hue: place on the color wheel, 0 to 1.
        light: dark to pale, -1 to 1.
        proportion: squat to slender, -1 to 1.
        nuisance: one row of `draw_text_nuisance`.
    """
    brand, material, title, opening, story, care, delivery, noun, word = nuisance.tolist()
    tone = min(2, int((light + 1) * 1.5))
    family = round(hue * 12) % 12
    words = {
        "brand": _BRANDS[brand],
        "material": _MATERIALS[material],
        "noun": _NOUNS[KINDS[kind]][noun],
        "pattern": _PATTERN_WORDS[pattern][word],
        "shape": _SHAPES[min(4, int((proportion + 1) * 2.5))],
        "color": _COLORS[family][tone],
        "tone": _TONES[tone],
        "family": _FAMILIES[family],
    }
    sentences = [
        _capitalize(_OPENINGS[opening].format(**words)),
        _STORIES[story],
        _CARE[care],
        f"{words['brand']}: {_DELIVERY[delivery][0].lower()}{_DELIVERY[delivery][1:]}",
    ]
    return _capitalize(_TITLES[title].format(**words)), " ".join(sentences)


def _capitalize(text: str) -> str:
    return text[0].upper() + text[1:]
