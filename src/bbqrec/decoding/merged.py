"""Several models' answers as one: what each generates from its own semantic IDs, merged."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.ranking import Histories, Ranker, Ranking

NOWHERE = -2  # neither an item nor the -1 of an unfilled place


@dataclass(frozen=True, eq=False)
class MergedRanker:
    """Rank by the mean over several models of the probability that each gives an item.

    Each lists its best; an item absent from a list gets that list's probability 0. After MQL4GRec
    (Zhai et al., 2025), which generates from text codes and from image codes and joins the lists.

    Args:
        rankers: models of the same items, with log-probabilities as scores.
        list_length: how many items each lists, widened to `k` where a request asks for more.
    """

    rankers: tuple[Ranker, ...]
    num_items: int
    list_length: int = 50

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """See `bbqrec.ranking.Ranker`; raises what the parts raise."""
        length = max(k, min(self.list_length, self.num_items))
        lists = [
            ranker.rank(histories, length, exclude_seen=exclude_seen, allowed=allowed)
            for ranker in self.rankers
        ]
        items = torch.cat([part.items for part in lists], 1)
        scores = torch.cat([part.scores for part in lists], 1)
        return _merge(items, scores, len(lists), k)


def _merge(
    items: Int[Tensor, "batch entry"], scores: Float[Tensor, "batch entry"], num_lists: int, k: int
) -> Ranking:
    """The `k` items of the highest mean probability; ties break by item number."""
    items, order = items.sort(dim=1, stable=True)
    scores = scores.gather(1, order)
    # A list has an item once, so all entries of an item lie in a window of `num_lists` entries.
    windows = F.pad(items, (0, num_lists - 1), value=NOWHERE).unfold(1, num_lists, 1)
    log_probs = F.pad(scores, (0, num_lists - 1)).unfold(1, num_lists, 1)
    is_other = windows != items[:, :, None]  # (batch, entry, list)
    means = log_probs.masked_fill(is_other, -torch.inf).logsumexp(-1) - math.log(num_lists)
    is_repeated = items == F.pad(items[:, :-1], (1, 0), value=NOWHERE)
    means = means.masked_fill(is_repeated | (items < 0), -torch.inf)
    merged, order = means.sort(dim=1, descending=True, stable=True)
    ranked = items.gather(1, order).masked_fill(merged == -torch.inf, -1)
    return Ranking(ranked[:, :k], merged[:, :k])
