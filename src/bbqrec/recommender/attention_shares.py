"""What a history was read for: shares of attention, and what likeness added to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bbqrec.recommender.code_decoder import CodeDecoder, DecoderLayer
from bbqrec.recommender.encoder import EncoderLayer
from bbqrec.recommender.paper import PaperRecommender
from bbqrec.recommender.sequence_model import SequenceModel
from bbqrec.recommender.transformer import Attention, Layout


class AttentionShares(NamedTuple):
    """How one history was read, means over heads.

    `one_pass`: the last encoder layer's attention of the user's state, that of the latest item's
    place. `paper` has no such state: the last decoder layer's attention to the codes of each
    item of the history, the mean over the levels of the item that is written.

    Args:
        items: the rest up to 1 went to the start or the end of the history.
        similarity: by comparison what the likeness to the latest item added to the logit of the
            attention that the latest item pays in the last encoder layer.
    """

    items: Float[Tensor, "candidate position"]
    similarity: dict[str, Float[Tensor, " position"]]


class _Seen(NamedTuple):
    """What an attention compared: the outputs of its maps, as they were computed."""

    queries: list[Tensor]
    keys: list[Tensor]


def attention_shares(
    model: SequenceModel, items: Int[Tensor, "1 position"], candidates: Int[Tensor, " candidate"]
) -> AttentionShares:
    """Read one history, all of whose places hold items, and note what was looked at."""
    lengths = torch.tensor([items.shape[1]], device=items.device)
    layer = model.encoder.layers[-1]
    assert isinstance(layer, EncoderLayer)
    with _inputs_of(layer) as inputs:
        encoded = model.read(items, lengths)
    entries, _, bias, *_ = inputs  # every place is an entry
    normed, attention = layer.attention_norm(entries), layer.attention
    query, key = (_by_head(part(normed), attention) for part in (attention.query, attention.key))
    products = query @ key.transpose(-1, -2)  # (head, query, place)
    if not isinstance(model, PaperRecommender):
        products = products[:, -1]  # (head, place)
        bias = bias.of_query(lengths)
        gain = 1.0 if bias.gain is None else bias.gain[0, :, 0]
        shares = (gain * products + bias.added[0, :, 0]).softmax(-1).mean(0)[1:]
        found = _likeness(model, items, products[:, 1:])
        return AttentionShares(shares.expand(len(candidates), -1), found)

    decoder = model.decoder
    assert isinstance(decoder, CodeDecoder)
    last = decoder.layers[-1]
    assert isinstance(last, DecoderLayer)
    num_levels = model.catalog.num_levels
    with _watched(last.cross_attention) as seen:
        model.write(candidates, encoded, Layout.full(1, len(candidates)))
    query, key = (_by_head(x[0], last.cross_attention) for x in seen)
    shares = (query @ key.transpose(-1, -2)).softmax(-1).mean(0)[:, :-1]  # the end token's is last
    by_level = shares.view(len(candidates), num_levels, -1, num_levels)
    # Of the codes of one item the sum, of the codes that are written the mean.
    latest = products[:, -1 - num_levels : -1, :-1].mean(1)  # (head, token): of its codes
    between = latest.view(len(latest), -1, num_levels).mean(2)
    return AttentionShares(by_level.sum(3).mean(1), _likeness(model, items, between))


def _likeness(
    model: SequenceModel, items: Int[Tensor, "1 position"], products: Float[Tensor, "head position"]
) -> dict[str, Float[Tensor, " position"]]:
    similarity = model.similarity
    if similarity is None:
        return {}
    buckets = similarity.buckets(items, model.catalog)
    result = {}
    for name in similarity.names:
        bias = F.embedding(buckets[name][0, -1], similarity.tables[name])  # (position, head)
        added = bias.T * products if similarity.is_multiplicative else bias.T
        result[name] = added.mean(0)
    return result


def _by_head(
    entries: Float[Tensor, "*places inner"], attention: Attention
) -> Float[Tensor, "head place head_dim"]:
    """Of one history: every entry is a place."""
    return attention.split(entries.float().reshape(1, -1, entries.shape[-1]))[0]


@contextmanager
def _watched(attention: Attention) -> Iterator[_Seen]:
    seen = _Seen([], [])
    watched = [
        attention.query.register_forward_hook(lambda *call: seen.queries.append(call[2])),
        attention.key.register_forward_hook(lambda *call: seen.keys.append(call[2])),
    ]
    try:
        yield seen
    finally:
        for hook in watched:
            hook.remove()


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Any]]:
    """Gets what the layer is called with."""
    found: list[Any] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: found.extend(inputs))
    try:
        yield found
    finally:
        hook.remove()
