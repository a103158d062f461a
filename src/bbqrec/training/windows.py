"""Which stretches of the histories an epoch trains on, and which of them share a batch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bbqrec.data import Sequences


def cut_windows(
    sequences: Sequences, max_history: int, windows: str, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where windows begin in `sequences.items`, and how many inputs each has (1..max_history).

    A window of `length` inputs also spans the item after them. `all` cuts a long sequence into
    consecutive windows at a random phase, so that every item but the first is a target once.
    """
    lengths = sequences.lengths - 1  # inputs: the last item is only a target
    users = np.flatnonzero(lengths > 0)
    first, total = sequences.offsets[users], lengths[users]
    if windows != "all":
        slack = np.maximum(total - max_history, 0)
        shift = slack if windows == "last" else rng.integers(0, slack + 1)
        return first + shift, np.minimum(total, max_history)
    # Cuts at phase, phase + H, phase + 2H, ...; the phase is 0 where one window suffices.
    is_long = total > max_history
    phase = np.where(is_long, rng.integers(1, max_history + 1, size=len(users)), total)
    num = 1 + -(-(total - phase) // max_history)  # per user
    row = np.repeat(np.arange(len(users)), num)
    nth = np.arange(num.sum()) - np.repeat(num.cumsum() - num, num)
    start = np.where(nth == 0, 0, phase[row] + (nth - 1) * max_history)
    end = np.minimum(phase[row] + nth * max_history, total[row])
    return first[row] + start, end - start


def cut_prefixes(
    sequences: Sequences, max_history: int, windows: str, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `cut_windows`, for models that predict after the last input alone.

    `all` is one window per target, of the (at most `max_history`) items before it; else each user
    has one target, a random one or the last.
    """
    inputs = np.maximum(sequences.lengths - 1, 0)
    first = sequences.offsets[:-1]
    if windows == "all":
        first = np.repeat(first, inputs)
        end = np.arange(inputs.sum()) - np.repeat(inputs.cumsum() - inputs, inputs) + 1
    else:
        first, inputs = first[inputs > 0], inputs[inputs > 0]
        end = inputs if windows == "last" else rng.integers(1, inputs + 1)
    start = np.maximum(end - max_history, 0)
    return first + start, end - start


def length_sorted_batches(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Random batches of rows of similar length, so that little is computed on padding."""
    order = rng.permutation(len(lengths))
    pool = batch_size * 50
    batches: list[NDArray[np.int64]] = []
    for begin in range(0, len(order), pool):
        rows = order[begin : begin + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    for index in rng.permutation(len(batches)):
        yield batches[index]
