"""The dense score of every item: a product of two vectors, and what the history itself adds.

The vectors blur single items into few numbers; two tables keep what they lose: the repeat bias
for items that a user already had, the neighbor bias for new ones like those that a user had lately.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.recommender.neighbor_bias import add_neighbor_bias
from bbqrec.recommender.repeat_bias import Repeats, repeat_values
from bbqrec.recommender.tables import Neighbors


class Evidence(NamedTuple):
    """What the tables read of the histories; None where the model has no such table.

    Args:
        is_unseen: items that training never saw, or should not know now.
        recent: the latest items of each entry, latest first, -1 for none.
        folds: in training, the neighbors to read (`Neighbors`).
    """

    is_unseen: Bool[Tensor, " item"]
    repeats: Repeats | None = None
    recent: Int[Tensor, "entry age"] | None = None
    folds: Int[Tensor, " entry"] | None = None
    neighbors: Mapping[str, Neighbors] = MappingProxyType({})


def dense_logits(
    user_states: Float[Tensor, "entry dim"],
    output_table: Float[Tensor, "item dim"],
    biases: Mapping[str, Tensor],
    evidence: Evidence,
) -> Float[Tensor, "entry item"]:
    """Every item's logit for every user state.

    Args:
        biases: the model's tables, "unseen", "repeat" and "neighbor", as far as it has them.
    """
    of_items = evidence.is_unseen * biases["unseen"] if "unseen" in biases else None
    # All that follows changes the logits in place.
    logits = F.linear(user_states, output_table, of_items).float()
    repeats, own = evidence.repeats, None
    if repeats is not None:
        own = logits[repeats.entries, repeats.items]
    if evidence.recent is not None:
        add_neighbor_bias(
            logits,
            biases["neighbor"],
            evidence.recent,
            evidence.neighbors,
            evidence.is_unseen,
            evidence.folds,
        )
    if repeats is not None and own is not None:
        # Neighbors speak for what is new to the user; of what was had, repeats are the measure.
        had = own + repeat_values(biases["repeat"], repeats.ages)
        logits[repeats.entries, repeats.items] = had
    return logits
