"""The dense score of every item: a product of two vectors, and what the history itself adds.

The vectors blur single items into few numbers; two tables keep what they lose: the repeat bias
for items that a user already had, the neighbor bias for new ones like those that a user had lately.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.products import linear
from bbqrec.recommender.neighbor_bias import neighbor_gains
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


class Additions(NamedTuple):
    """What the tables add to the product of the vectors, entry by entry, as far as they exist.

    Args:
        of_items: to every logit of an item.
        near: numbers of items, and what each of them gains; several add up.
        of_repeats: what having had an item is worth. Neighbors speak for what is new to the user;
            of what was had, repeats are the measure.
    """

    of_items: Float[Tensor, " item"] | None
    near: list[tuple[Int[Tensor, "entry near"], Float[Tensor, "entry near"]]]
    repeats: Repeats | None
    of_repeats: Float[Tensor, " repeat"] | None


def additions(biases: Mapping[str, Tensor], evidence: Evidence) -> Additions:
    """See `dense_logits`."""
    of_items = evidence.is_unseen * biases["unseen"] if "unseen" in biases else None
    near, repeats = [], evidence.repeats
    if evidence.recent is not None:
        gains = neighbor_gains(
            biases["neighbor"],
            evidence.recent,
            evidence.neighbors,
            evidence.is_unseen,
            evidence.folds,
        )
        near = [(items.flatten(1), gained.flatten(1)) for items, gained in gains]
    of_repeats = None if repeats is None else repeat_values(biases["repeat"], repeats.ages)
    return Additions(of_items, near, repeats, of_repeats)


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
    return sum_up(linear(user_states, output_table), additions(biases, evidence))


def sum_up(products: Float[Tensor, "entry item"], added: Additions) -> Float[Tensor, "entry item"]:
    """The logits, in full precision; they may take the place of `products`."""
    logits = products.float()
    if added.of_items is not None:
        logits += added.of_items
    repeats, had = added.repeats, None
    if repeats is not None and added.of_repeats is not None:
        had = logits[repeats.entries, repeats.items] + added.of_repeats
    for items, gained in added.near:
        logits.scatter_add_(1, items, gained.to(logits.dtype))
    if repeats is not None and had is not None:
        logits[repeats.entries, repeats.items] = had
    return logits
