"""What follows what by a linear model: a kind of neighbors that a finished model is given.

Ridge regression of the next item on the latest ones, in closed form, as item transitions of SLIST
(Choi et al., WWW 2021), of the next item alone: W = (X'X + penalty)^-1 X'Y, one row of X and Y
for every target in training. Of each item the likeliest followers become neighbors whose gains are
the coefficients themselves, as finely as buckets tell, times a number. Learned with the vectors
they would leave those less to learn; joined to what is finished, they correct it, as the mean of
two models does.
"""

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from bbqrec.data import Sequences
from bbqrec.progress import tracker
from bbqrec.recommender.config import NeighborConfig
from bbqrec.recommender.neighbor_bias import age_buckets
from bbqrec.recommender.neighbors import Nearest, in_even_buckets
from bbqrec.recommender.one_pass import OnePassRecommender
from bbqrec.recommender.tables import TRANSITION, Neighbors

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

MAX_SOLVED = 20_000  # items: two matrices of their square are factored, 3.2 GB at most
DECAY = 4.0  # of two events, the one so much longer ago counts 1 / e of the other
PENALTY = 1.0  # times how much an item explains in the mean
_ROWS = 1024  # solved at once


class Transitions(NamedTuple):
    """Neighbors, and what each age and bucket of them is worth: mean coefficients, aged."""

    neighbors: Neighbors
    gains: Float[Tensor, "age_bucket bucket"]


class _Examples(NamedTuple):
    """The target is an occurrence, by its place in training."""

    targets: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]


def find_transitions(
    train: Sequences, num_items: int, settings: NeighborConfig
) -> Transitions | None:
    """Fit the regression to the training histories; None, with a warning, past `MAX_SOLVED`."""
    if num_items > MAX_SOLVED:
        logger.warning(
            "%d items are too many for a linear model of what follows what (%d at most): the "
            "recommender goes without",
            num_items,
            MAX_SOLVED,
        )
        return None
    nearest = _followers(train, num_items, settings)
    neighbors = in_even_buckets([nearest], settings)
    buckets, num_buckets = neighbors.buckets[0, :-1].long().flatten(), settings.num_buckets
    worth = nearest.likeness.flatten().double()
    total = torch.zeros(num_buckets + 1).double().index_add_(0, buckets, worth)
    values = total / buckets.bincount(minlength=num_buckets + 1).clamp(min=1)
    age_bucket = age_buckets(settings.num_recent)
    weight = _weights(settings.num_recent)
    aged = torch.zeros_like(age_bucket.bincount(), dtype=torch.float32)
    aged = aged.index_add_(0, age_bucket, weight) / age_bucket.bincount()
    return Transitions(neighbors, aged[:, None] * values[:num_buckets].float())


def join_transitions(model: OnePassRecommender, found: Transitions, weight: float) -> None:
    """Let `weight` times the regression count in the dense score and on the tree; once per model.

    Unseen items follow nothing, so the table of their own, where there is one, is of zeros.
    """
    bias = model.neighbor_bias
    assert bias is not None
    model.catalog.add_neighbors(TRANSITION, found.neighbors)
    place = list(model.catalog.neighbors()).index(TRANSITION)
    table = torch.zeros_like(bias.data[:1])
    table[0, 0] = weight * found.gains.to(bias.device)
    rows = torch.cat([bias.data[:place], table, bias.data[place:]])
    model.neighbor_bias = nn.Parameter(rows)


def take_out_transitions(model: OnePassRecommender) -> None:
    """Undo `join_transitions`."""
    bias = model.neighbor_bias
    assert bias is not None
    is_kept = [kind != TRANSITION for kind in model.catalog.neighbors()]
    model.neighbor_bias = nn.Parameter(bias.data[torch.tensor(is_kept, device=bias.device)])
    model.catalog.remove_neighbors(TRANSITION)


def _followers(train: Sequences, num_items: int, settings: NeighborConfig) -> Nearest:
    """Of each item those with the largest positive coefficients."""
    system, followed = _equations(train, num_items, settings.num_recent)
    width = min(settings.num_neighbors, num_items)
    found = []
    # The factor, the inverse and what is made of it take about one, two and one part of the time.
    with tracker("finding what follows what", 4 * num_items) as shown:
        factor = torch.linalg.cholesky(system.mT)  # as LAPACK has it, so that nothing is copied
        shown.advance(num_items)
        inverse = torch.cholesky_inverse(factor, out=system.mT)
        del factor
        shown.advance(2 * num_items)
        for begin in range(0, num_items, _ROWS):
            rows = inverse[begin : begin + _ROWS]
            coefficients = torch.from_numpy((followed @ rows.numpy().T).T)
            row = torch.arange(len(rows))
            coefficients[row, row + begin] = 0
            top = coefficients.topk(width, dim=1)
            found.append(Nearest(top.indices, top.values.clamp(min=0)))
            shown.advance(len(rows))
    likeness = torch.cat([part.likeness for part in found])
    return Nearest(
        torch.cat([part.items for part in found]).masked_fill(likeness == 0, 0), likeness
    )


def _equations(
    train: Sequences, num_items: int, num_recent: int
) -> tuple[Float[Tensor, "item item"], "csr_array"]:
    """X'X with the penalty on its diagonal, and Y'X."""
    from scipy.sparse import csr_array

    targets, items, weights = _examples(train, num_recent)
    shape = (len(train.items), num_items)
    inputs = csr_array((weights, (targets, items)), shape=shape)
    has_input = np.unique(targets)
    ones = np.ones(len(has_input), np.float32)
    wanted = csr_array((ones, (has_input, train.items[has_input])), shape=shape)
    explained = inputs.T @ inputs
    system = torch.from_numpy(explained.toarray())
    system.diagonal().add_(max(PENALTY * float(explained.diagonal().mean()), 1e-6))
    return system, (wanted.T @ inputs).tocsr()


def _examples(train: Sequences, num_recent: int) -> _Examples:
    """A row for every target in training and item before it, of the latest."""
    start = np.repeat(train.offsets[:-1], train.lengths)
    place = np.arange(len(train.items)) - start
    target = [np.flatnonzero(place > age) for age in range(num_recent)]
    weights = _weights(num_recent).numpy()
    return _Examples(
        np.concatenate(target),
        np.concatenate([train.items[of_age - 1 - age] for age, of_age in enumerate(target)]),
        np.concatenate([np.full(len(of_age), weights[age]) for age, of_age in enumerate(target)]),
    )


def _weights(num_recent: int) -> Float[Tensor, " age"]:
    """What the latest items count, the latest first."""
    return torch.exp(-torch.arange(num_recent) / DECAY)
