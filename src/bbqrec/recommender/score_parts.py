"""What an item's logit is the sum of: the same numbers that rank it, kept apart."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.ranking import Histories
from bbqrec.recommender.item_vectors import MIN_NORM
from bbqrec.recommender.neighbor_bias import neighbor_gains
from bbqrec.recommender.one_pass import OnePassRecommender
from bbqrec.recommender.repeat_bias import repeat_values
from bbqrec.recommender.tree_decoder import TreeDecoder


class ScoreParts(NamedTuple):
    """The parts of some items' logits after one history; all of them together are the logit.

    Args:
        compared: what comparing gave: by part of the item's vector ("own", "content.MODALITY",
            "codes"), or "tree" on a walk that scores all items.
        new: what it gains or loses for being new, boost and all.
        neighbors: by kind of likeness what each of the latest items gave, the latest first.
        repeat: what having had the item before gave.
    """

    compared: dict[str, Float[Tensor, " item"]]
    new: Float[Tensor, " item"]
    neighbors: dict[str, Float[Tensor, "item age"]]
    repeat: Float[Tensor, " item"]


def dense_parts(
    model: OnePassRecommender,
    history: Histories,
    items: Int[Tensor, " item"],
    *,
    new_item_boost: float = 0.0,
) -> ScoreParts:
    """The parts of the dense logits of `items` after one history, in full precision."""
    state = model.user_states(history)[0]
    with torch.autocast(items.device.type, enabled=False):
        is_unseen, embedding = model.catalog.is_unseen, model.code_embedding.weight
        vectors = model.item_vectors.parts(items, model.catalog, embedding, is_unseen)
        scale = torch.ones(len(items), device=items.device)
        if model.is_cosine:
            norm = torch.stack(list(vectors.values())).sum(0).norm(dim=-1)
            scale = 1 / (norm.clamp(min=MIN_NORM) * model.log_temperature.exp())
        products = {name: (vector @ state) * scale for name, vector in vectors.items()}
    return _with_additions(model, history, items, products, new_item_boost)


def walk_parts(
    model: OnePassRecommender, history: Histories, items: Int[Tensor, " item"]
) -> ScoreParts:
    """The parts of the logits of `items` on a walk that scores all items, after one history."""
    decoder = model.decoder
    assert isinstance(decoder, TreeDecoder)
    compared = decoder.compare(model.user_states(history), model.prefix_vectors(decoder))
    walked = decoder.item_log_probabilities(compared)[0, items]
    return _with_additions(model, history, items, {"tree": walked}, 0.0)


def _with_additions(
    model: OnePassRecommender,
    history: Histories,
    items: Int[Tensor, " item"],
    compared: dict[str, Float[Tensor, " item"]],
    new_item_boost: float,
) -> ScoreParts:
    biases = model.dense_biases(new_item_boost)
    row, place = torch.zeros_like(items[:1]), history.offsets[1:]
    evidence = model.evidence(history, row, place)
    nothing = torch.zeros(len(items), device=items.device)
    new = evidence.is_unseen[items] * biases["unseen"] if "unseen" in biases else nothing
    repeat, is_repeat = nothing, nothing.bool()
    if evidence.repeats is not None:
        had, value = evidence.repeats.items, repeat_values(biases["repeat"], evidence.repeats.ages)
        found = items[:, None] == had  # (item, repeat), at most one per row
        repeat, is_repeat = (found * value).sum(1), found.any(1)
    neighbors = {}
    if evidence.recent is not None:
        gains = neighbor_gains(
            biases["neighbor"], evidence.recent, evidence.neighbors, evidence.is_unseen
        )
        for kind, (near, gained) in zip(evidence.neighbors, gains, strict=True):
            gives = (near[0] == items[:, None, None]) & ~is_repeat[:, None, None]
            neighbors[kind] = (gives * gained[0]).sum(-1)
    return ScoreParts(compared, new, neighbors, repeat)
