"""What every recommender answers with, whatever it computes inside."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Histories(NamedTuple):
    """A batch of histories of unequal length, oldest item first (ragged: CSR)."""

    items: Int[Tensor, " entry"]
    offsets: Int[Tensor, " batch_plus_one"]

    @property
    def num_users(self) -> int:
        return self.offsets.shape[0] - 1

    def rows(self) -> Int[Tensor, " entry"]:
        """For every entry the row of the batch that it belongs to."""
        lengths = self.offsets.diff()
        row = torch.arange(self.num_users, device=lengths.device)
        return torch.repeat_interleave(row, lengths, output_size=self.items.shape[0])

    def to(self, device: torch.device | str) -> "Histories":
        return Histories(self.items.to(device), self.offsets.to(device))

    def latest(self, length: int) -> tuple[Int[Tensor, "batch position"], Int[Tensor, " batch"]]:
        """The last `length` items of each history, left-aligned, and how many there are.

        Unused places hold -1. The width is the longest history kept, at least 1.
        """
        lengths = self.offsets.diff().clamp(max=length)
        width = max(1, int(lengths.max())) if self.num_users else 1
        position = torch.arange(width, device=self.items.device)
        is_used = position < lengths[:, None]  # (batch, position)
        entry = self.offsets[1:, None] - lengths[:, None] + position
        padded = self.items.new_full((self.num_users, width), -1)
        padded[is_used] = self.items[entry[is_used]]
        return padded, lengths


class Ranking(NamedTuple):
    """Items best first; places that could not be filled hold item -1 and score -inf."""

    items: Int[Tensor, "batch rank"]
    scores: Float[Tensor, "batch rank"]


@runtime_checkable
class Ranker(Protocol):
    """Anything that can be evaluated or asked for recommendations."""

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """The `k` best items for each history.

        Args:
            exclude_seen: leave out every item of the *whole* history, not of the model's window.
            allowed: only these items may appear; None allows all.
        """
        ...


def top_items(
    scores: Float[Tensor, "batch item"],
    histories: Histories,
    k: int,
    *,
    exclude_seen: bool,
    allowed: Bool[Tensor, " item"] | None = None,
) -> Ranking:
    """Rank a full table of scores; ties break by item number, so results repeat exactly."""
    if exclude_seen or allowed is not None:
        scores = scores.clone()
    if exclude_seen:
        scores[histories.rows(), histories.items] = -torch.inf
    if allowed is not None:
        scores[:, ~allowed] = -torch.inf
    width = min(k, scores.shape[1])
    # topk is fast but breaks ties arbitrarily: where the best that is left out equals the last one,
    # keep all that do, lowest item numbers first, and let a stable sort by score settle the order.
    values, kept = scores.topk(min(width + 1, scores.shape[1]), dim=1)
    last, next_best = values[:, width - 1], values[:, -1]
    if kept.shape[1] > width and ((last == next_best) & (next_best > -torch.inf)).any():
        is_kept = scores >= last[:, None]
        num_kept = int(is_kept.count_nonzero(dim=1).max())
        kept = is_kept.to(torch.int8).topk(num_kept, dim=1).indices
    else:
        kept = kept[:, :width]
    kept = kept.sort(dim=1).values
    values, order = scores.gather(1, kept).sort(dim=1, descending=True, stable=True)
    values, items = values[:, :width], kept.gather(1, order[:, :width])
    items = items.masked_fill(values == -torch.inf, -1)
    missing = k - width
    if missing:
        items = torch.nn.functional.pad(items, (0, missing), value=-1)
        values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    return Ranking(items, values)
