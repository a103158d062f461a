"""From where the target stands in a ranking to Recall, NDCG and MRR.

Every case has exactly one target, so Recall@k is the hit rate, and the ideal DCG is 1.
"""

import re

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from bbqrec.errors import ConfigError

METRIC_PATTERN = r"^(recall|ndcg|mrr)@[1-9][0-9]{0,5}$"


def target_ranks(
    items: Int[Tensor, "batch rank"], targets: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Where each target stands in its row, counted from 1; 0 where it is absent.

    Places without an item hold -1, which no target equals.
    """
    is_target = (items == targets[:, None]) & (items >= 0)  # (batch, rank)
    place = is_target.to(torch.int8).argmax(dim=1) + 1
    return torch.where(is_target.any(dim=1), place, 0)


def metric_cutoff(name: str) -> int:
    """The k of a metric such as `ndcg@10`; ConfigError for a name that is not one."""
    if not re.match(METRIC_PATTERN, name):
        raise ConfigError(f"{name!r} is no metric; metrics are recall@k, ndcg@k and mrr@k, k >= 1")
    return int(name.split("@")[1])


def metric_values(ranks: NDArray[np.int64], name: str) -> NDArray[np.float64]:
    """The metric of every case, from ranks counted from 1, 0 meaning no hit.

    recall@k = [rank <= k];  ndcg@k = [rank <= k] / log2(1 + rank);  mrr@k = [rank <= k] / rank.
    """
    cutoff = metric_cutoff(name)
    is_hit = (ranks >= 1) & (ranks <= cutoff)
    rank = np.maximum(ranks, 1)
    if name.startswith("recall"):
        return is_hit.astype(np.float64)
    if name.startswith("ndcg"):
        return np.where(is_hit, 1 / np.log2(1 + rank), 0.0)
    return np.where(is_hit, 1 / rank, 0.0)
