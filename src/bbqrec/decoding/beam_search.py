"""The best items of each user, found code by code among the items that exist."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

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
    """
    log_probs = session.first()[:, None]  # (batch, beam, code); the one beam is the root
    batch, device = log_probs.shape[0], log_probs.device
    k = beam_width if k is None else k
    nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    scores = torch.zeros((batch, 1), device=device)
    blocked = index.blocked_by(excluded) if excluded is not None else None
    last = len(index.levels) - 1
    for depth, level in enumerate(index.levels if len(index) else ()):
        first_edge, end = level.first_edge[nodes], level.first_edge[nodes + 1]
        edges = first_edge[..., None] + torch.arange(level.fan_out, device=device)
        is_edge = edges < end[..., None]  # (batch, beam, child)
        edges = edges.clamp(max=level.num_edges - 1)
        codes = level.codes[edges].long()
        totals = scores[..., None] + log_probs.gather(2, codes).float()
        totals.masked_fill_(~is_edge, -torch.inf)
        if blocked is not None:
            _close(totals, nodes, blocked[depth])

        width = min(k if depth == last else beam_width, level.num_edges, totals[0].numel())
        order = index.items[edges] if depth == last else edges
        chosen = _best(totals.flatten(1), order.flatten(1), width)  # (batch, beam)
        scores = totals.flatten(1).gather(1, chosen)
        nodes = edges.flatten(1).gather(1, chosen)
        if depth < last:
            chosen_codes = codes.flatten(1).gather(1, chosen)
            log_probs = session.extend(chosen // level.fan_out, chosen_codes)

    if len(index):
        items = index.items[nodes].long().masked_fill(scores == -torch.inf, -1)
    else:
        items, scores = nodes[:, :0], scores[:, :0]
    missing = (0, k - items.shape[1])
    return Ranking(F.pad(items, missing, value=-1), F.pad(scores, missing, value=-torch.inf))


def _close(
    totals: Float[Tensor, "batch beam child"], nodes: Int[Tensor, "batch beam"], blocked: Blocked
) -> None:
    """Give -inf to the children that are closed to their user."""
    entry, beam = (nodes[blocked.users] == blocked.nodes[:, None]).nonzero(as_tuple=True)
    totals[blocked.users[entry], beam, blocked.slots[entry]] = -torch.inf


def _best(
    scores: Float[Tensor, "batch candidate"], order: Int[Tensor, "batch candidate"], width: int
) -> Int[Tensor, "batch beam"]:
    """Positions of the highest scores, best first; among equals the lowest `order` first.

    `topk` alone breaks ties as it likes, so score and order are packed into one integer: the bits
    of a float32, with those of a negative number flipped, sort as the number does. NaN comes
    first, so that a broken model shows and its scores are not lost among the pruned.
    """
    bits = scores.view(torch.int32)
    ranks = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    ranks.masked_fill_(scores.isnan(), 0x7FFFFFFF)
    return ((ranks << 32) - order).topk(width, dim=1).indices
