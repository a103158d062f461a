"""Raw files -> a prepared dataset: importers, validation, splits, the demo shop."""

from bbqrec.data.dataset import Cases, Dataset, Sequences
from bbqrec.data.drawn_shop import Oracle, draw_shop

__all__ = ["Cases", "Dataset", "Oracle", "Sequences", "draw_shop"]
