"""The best items of each user, found code by code among the items that exist."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.decoding.level import Windows
from bbqrec.decoding.prefix_index import Blocked, PrefixIndex
from bbqrec.decoding.scorer import CodeScorer
from bbqrec.ranking import Histories, Ranking


def beam_search(
    session: CodeScorer,
    index: PrefixIndex,
    *,
    beam_width: int,
    k: int | None = None,
    excluded: Histories | None = None,
    is_static: bool | None = None,
) -> Ranking:
    """The `k` items with the highest log-probability that a search of this width finds.

    A score is the sum over levels of the log-probabilities of the item's codes, in float32.
    Equal scores are ordered by item number, and between levels by prefix, so the answer depends
    on nothing but the scores. Items that share a semantic ID share its score. With a beam as wide
    as the catalog nothing is pruned and the answer is exact.

    Args:
        index: the items that may be found; for a part of the catalog see `PrefixIndex.restrict`.
        beam_width: prefixes kept for each user after every level but the last.
        k: items returned, `beam_width` if None; fewer found are filled up with item -1 at -inf.
        excluded: items that each user must not get. A prefix dies where they alone are left.
        is_static: read nothing back from the device, and let all shapes follow from the sizes of
            the batch and of the beam. The answer is the same; None: on any device but a CPU, where
            asking costs less than what it saves.
    """
    log_probs = session.first()[:, None]  # (batch, beam, code); the one beam is the root
    batch, device = log_probs.shape[0], log_probs.device
    is_static = device.type != "cpu" if is_static is None else is_static
    k = beam_width if k is None else k
    if not len(index):
        nothing = torch.full((batch, k), -1, device=device)
        return Ranking(nothing, torch.full((batch, k), -torch.inf, device=device))
    nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    scores = torch.zeros((batch, 1), device=device)
    blocked = None
    if excluded is not None:
        blocked = index.blocked_by(excluded, is_static=is_static)
    last = len(index.levels) - 1
    for depth, level in enumerate(index.levels):
        is_alive = scores != -torch.inf if is_static else None
        below = level.below(nodes, is_alive) if depth else level.from_root(batch)
        # (batch, row, slot); a copy, since the codes are the index's own
        places = below.codes.to(torch.int64, copy=True)
        places += (below.beam * log_probs.shape[2])[..., None]
        totals = log_probs.flatten(1).gather(1, places.flatten(1)).float().view(places.shape)
        totals += scores.gather(1, below.beam)[..., None]
        totals += below.mask
        if blocked is not None:
            _close(totals, below, blocked[depth], is_static)

        width = min(k if depth == last else beam_width, level.num_edges, totals[0].numel())
        order = index.items if depth == last else None
        chosen = _best(totals, below.first_edge, width, order, is_static)  # (batch, beam)
        row, slot = chosen // level.window, chosen % level.window
        scores = totals.flatten(1).gather(1, chosen)
        # Only a place of padding can lie past the last edge; its score is -inf.
        nodes = (below.first_edge.gather(1, row) + slot).clamp(max=level.num_edges - 1)
        if depth < last:
            codes = below.codes.flatten(1).gather(1, chosen).long()
            log_probs = session.extend(below.beam.gather(1, row), codes)

    items, by_item = index.items[nodes].long().sort(dim=1)
    scores, by_score = scores.gather(1, by_item).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, by_score).masked_fill(scores == -torch.inf, -1)
    missing = (0, k - items.shape[1])
    return Ranking(F.pad(items, missing, value=-1), F.pad(scores, missing, value=-torch.inf))


def _close(
    totals: Float[Tensor, "batch row slot"], below: Windows, blocked: Blocked, is_static: bool
) -> None:
    """Give -inf to the edges that are closed to their user."""
    slot = blocked.edges[:, None] - below.first_edge[blocked.users]  # (entry, row)
    if not is_static:
        entry, row = ((slot >= 0) & (slot < totals.shape[2])).nonzero(as_tuple=True)
        totals[blocked.users[entry], row, slot[entry, row]] = -torch.inf
        return
    # An edge is in one row at most, if only the places of the row's own node count.
    is_there = (slot >= 0) & (slot < below.num_places[blocked.users])
    found, row = is_there.to(torch.int8).max(1, keepdim=True)
    added = torch.zeros(len(slot), device=slot.device).masked_fill_(found[:, 0] > 0, -torch.inf)
    place = blocked.users, row[:, 0], slot.gather(1, row)[:, 0].clamp(0, totals.shape[2] - 1)
    totals.index_put_(place, added, accumulate=True)


def _best(
    totals: Float[Tensor, "batch row slot"],
    first_edge: Int[Tensor, "batch row"],
    width: int,
    order: Int[Tensor, " edge"] | None,
    is_static: bool,
) -> Int[Tensor, "batch chosen"]:
    """Places (in row x slot) of the highest scores; among equals the lowest edges win.

    Args:
        order: what to compare in place of the edges' own numbers.
    """
    scores = totals.flatten(1)
    if width == scores.shape[1]:
        return torch.arange(width, device=scores.device).expand_as(scores)
    if not is_static:
        values, places = _highest(scores, width + 1)
        around_the_last = values[:, -2:].tolist()  # of few numbers soonest in Python
        if not any(lowest == next_best > -math.inf for lowest, next_best in around_the_last):
            return places[:, :-1]
    # `topk` breaks ties as it likes, so pack score and order into one integer: the bits of a
    # float32, with those of a negative number flipped, sort as the number does. NaN comes first,
    # as in `topk`, so that a broken model shows instead of being pruned.
    edges = first_edge[..., None] + torch.arange(totals.shape[2], device=totals.device)
    edges = edges.flatten(1)
    rank = edges if order is None else order[edges.clamp(max=order.shape[0] - 1)]
    bits = scores.view(torch.int32)
    sortable = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    sortable.masked_fill_(scores.isnan(), 0x7FFFFFFF)
    return ((sortable << 32) - rank).topk(width, dim=1).indices


def _highest(
    scores: Float[Tensor, "batch place"], width: int
) -> tuple[Float[Tensor, "batch chosen"], Int[Tensor, "batch chosen"]]:
    """As `topk`, whose way through a row on a CPU depends on its length.

    Asked for at most a 64th of a row it keeps a heap; else it partitions the row, which takes
    three times as long: a row not much too short for the heap is worth lengthening.
    """
    missing = 64 * width - scores.shape[1]
    if scores.device.type == "cpu" and 0 < missing < 44 * width:
        values, places = F.pad(scores, (0, missing), value=-torch.inf).topk(width, dim=1)
        if not (places >= scores.shape[1]).any():
            return values, places
    values, places = scores.topk(width, dim=1)
    return values, places
