"""Item vectors from which items follow one another in training: behavior without a model."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bbqrec.data import Sequences

MAX_GAP = 5


def cooccurrence_vectors(
    train: Sequences, num_items: int, *, dim: int, seed: int
) -> Float[Tensor, "item dim"]:
    """Truncated SVD of positive pointwise mutual information (Levy and Goldberg, 2014).

    A pair counts where its items are at most `MAX_GAP` places apart in one history. Items
    without a pair more frequent than by chance get exactly zero. Fewer than `dim` columns where
    the catalog is smaller.
    """
    row = np.repeat(np.arange(len(train)), train.lengths)
    items = train.items.astype(np.int64)
    keys = []
    for gap in range(1, MAX_GAP + 1):
        is_pair = (row[gap:] == row[:-gap]) & (items[gap:] != items[:-gap])
        first, second = items[:-gap][is_pair], items[gap:][is_pair]
        keys += [first * num_items + second, second * num_items + first]
    pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
    if not len(pairs):
        return torch.zeros(num_items, min(dim, num_items))

    first, second = np.divmod(pairs, num_items)
    totals = np.bincount(first, counts, num_items)
    information = np.log(counts * totals.sum() / (totals[first] * totals[second]))
    is_positive = information > 0
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([first, second])[:, is_positive]),
        torch.from_numpy(information[is_positive]).float(),
        (num_items, num_items),
        check_invariants=False,
    ).coalesce()
    width = min(dim, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # svd_lowrank starts from random directions
        left, values, _ = torch.svd_lowrank(matrix, q=min(num_items, width + 8), niter=4)
    vectors = left[:, :width] * values[:width].sqrt()
    # The decomposition leaves traces of rounding in empty rows, which would pass for directions.
    has_pairs = torch.zeros(num_items, dtype=torch.bool)
    has_pairs[matrix.indices()[0]] = True
    return vectors * has_pairs[:, None]
