"""Raw files -> a prepared dataset: importers, validation, splits, the demo shop."""

from bbqrec.data.dataset import Cases, Dataset, Sequences

__all__ = ["Cases", "Dataset", "Sequences"]
