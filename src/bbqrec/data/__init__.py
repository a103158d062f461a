"""Raw files -> a prepared dataset: importers, validation, splits, the demo shop."""

from bbqrec.data.catalog import load_texts
from bbqrec.data.dataset import Cases, Dataset, Sequences
from bbqrec.data.drawn_shop import Oracle, draw_shop
from bbqrec.data.images import has_images, iter_images, read_images
from bbqrec.data.prepare import PrepareConfig, prepare

__all__ = [
    "Cases",
    "Dataset",
    "Oracle",
    "PrepareConfig",
    "Sequences",
    "draw_shop",
    "has_images",
    "iter_images",
    "load_texts",
    "prepare",
    "read_images",
]
