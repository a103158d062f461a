"""Models as rankers: any number of histories in, the best existing items out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bbqrec.decoding.beam_search import beam_search
from bbqrec.decoding.config import RankingConfig
from bbqrec.decoding.exhaustive import is_faster, largest_extension, score_every_item
from bbqrec.decoding.prefix_index import PrefixIndex
from bbqrec.decoding.scorer import DenseModel, GenerativeModel, RankingModel, TwoScoreModel
from bbqrec.errors import ConfigError, RequestError, TrainingDivergedError
from bbqrec.precision import Precision, autocast
from bbqrec.progress import track
from bbqrec.ranking import Histories, Ranker, Ranking, top_items
from bbqrec.semantic_ids import SemanticIds

SHOW_PROGRESS_FROM = 5  # batches
MAX_EXHAUSTIVE_FLOATS = 2**24

Answer = Callable[[Histories, Tensor, Tensor], Ranking]


@dataclass(frozen=True, eq=False)
class GenerativeRanker:
    """Rank by the log-probability of generating an item's semantic ID.

    Args:
        beam_width: prefixes kept per level, widened to `k` where a request asks for more. Where
            `exhaustive.is_faster` says so, every item is scored instead, exactly; so it always
            is with None, which up to about 100,000 items is affordable.
    """

    model: GenerativeModel
    index: PrefixIndex
    beam_width: int | None = 50
    batch_size: int = 128
    device: torch.device | str = "cpu"
    precision: Precision = "fp32"

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """See `bbqrec.ranking.Ranker`; raises RequestError."""
        _check_request(histories, k, allowed, self.index.num_items)
        index = self.index if allowed is None else self.index.only(allowed)
        index = index.to(self.device)

        width = None if self.beam_width is None else max(self.beam_width, k)

        def search(batch: Histories, items: Tensor, lengths: Tensor) -> Ranking:
            session = self.model.begin(items, lengths)
            if width is None or is_faster(session, index, width):
                scores = score_every_item(session, index)
                return top_items(scores, batch, k, exclude_seen=exclude_seen)
            excluded = batch if exclude_seen else None
            return beam_search(session, index, beam_width=width, k=k, excluded=excluded)

        batch_size = self.batch_size
        if width is None:
            fitting = MAX_EXHAUSTIVE_FLOATS // max(1, largest_extension(index))
            batch_size = max(1, min(batch_size, fitting))
        return _rank_in_batches(self, search, histories, k, batch_size)

    def score(
        self, histories: Histories, items: Int[Tensor, " item"]
    ) -> Float[Tensor, "batch item"]:
        """The scores by which `rank` orders these items, whether they may be recommended or not."""

        def score(batch: Histories, places: Tensor, lengths: Tensor) -> Ranking:
            candidates = items.to(places.device).expand(len(lengths), -1)
            return Ranking(candidates, self.model.score_items(places, lengths, candidates))

        return _rank_in_batches(self, score, histories, len(items), self.batch_size).scores


@dataclass(frozen=True, eq=False)
class DenseRanker:
    """Rank by the model's dense score of every item."""

    model: DenseModel
    num_items: int
    new_item_boost: float = 0.0
    batch_size: int = 256
    device: torch.device | str = "cpu"
    precision: Precision = "fp32"

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """See `bbqrec.ranking.Ranker`; raises RequestError."""
        _check_request(histories, k, allowed, self.num_items)
        mask = None if allowed is None else allowed.to(self.device)

        def search(batch: Histories, items: Tensor, lengths: Tensor) -> Ranking:
            scores = self.model.dense_scores(batch, new_item_boost=self.new_item_boost)
            return top_items(scores, batch, k, exclude_seen=exclude_seen, allowed=mask)

        return _rank_in_batches(self, search, histories, k, self.batch_size)

    def score(
        self, histories: Histories, items: Int[Tensor, " item"]
    ) -> Float[Tensor, "batch item"]:
        """The scores by which `rank` orders these items, whether they may be recommended or not."""

        def score(batch: Histories, *_: Tensor) -> Ranking:
            candidates = items.to(batch.items.device).expand(batch.num_users, -1)
            return Ranking(
                candidates,
                self.model.dense_scores(batch, new_item_boost=self.new_item_boost).gather(
                    1, candidates
                ),
            )

        return _rank_in_batches(self, score, histories, len(items), self.batch_size).scores


@dataclass(frozen=True, eq=False)
class BothRanker:
    """Let the dense score choose candidates and rank them by the weighted sum of both scores.

    score = dense score + generative_weight x generative log-probability

    Args:
        num_candidates: length of the dense short list, widened to `k` where a request asks for
            more. Only allowed and (with `exclude_seen`) unseen items enter it.
    """

    model: TwoScoreModel
    num_items: int
    num_candidates: int = 100
    generative_weight: float = 1.0
    new_item_boost: float = 0.0
    batch_size: int = 128
    device: torch.device | str = "cpu"
    precision: Precision = "fp32"

    def rank(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool,
        allowed: Bool[Tensor, " item"] | None = None,
    ) -> Ranking:
        """See `bbqrec.ranking.Ranker`; raises RequestError."""
        _check_request(histories, k, allowed, self.num_items)
        mask = None if allowed is None else allowed.to(self.device)
        width = min(max(self.num_candidates, k), self.num_items)

        def search(batch: Histories, items: Tensor, lengths: Tensor) -> Ranking:
            dense = self.model.dense_scores(batch, new_item_boost=self.new_item_boost)
            dense = _numbers(dense)
            short_list = top_items(dense, batch, width, exclude_seen=exclude_seen, allowed=mask)
            # In order of item number, so that the stable sort below breaks ties by it.
            candidates, order = short_list.items.sort(dim=1)
            dense = short_list.scores.gather(1, order)
            generative = self.model.score_items(items, lengths, candidates.clamp(min=0))
            totals = dense + self.generative_weight * generative
            scores, order = totals.sort(dim=1, descending=True, stable=True)
            ranked = candidates.gather(1, order).masked_fill(scores == -torch.inf, -1)
            return Ranking(ranked[:, :k], scores[:, :k])

        return _rank_in_batches(self, search, histories, k, self.batch_size)

    def score(
        self, histories: Histories, items: Int[Tensor, " item"]
    ) -> Float[Tensor, "batch item"]:
        """The scores by which `rank` orders these items, whether they may be recommended or not."""

        def score(batch: Histories, places: Tensor, lengths: Tensor) -> Ranking:
            candidates = items.to(places.device).expand(len(lengths), -1)
            dense = self.model.dense_scores(batch, new_item_boost=self.new_item_boost).gather(
                1, candidates
            )
            generative = self.model.score_items(places, lengths, candidates)
            return Ranking(candidates, dense + self.generative_weight * generative)

        return _rank_in_batches(self, score, histories, len(items), self.batch_size).scores


def make_ranker(
    model: nn.Module,
    ids: SemanticIds,
    config: RankingConfig,
    *,
    device: torch.device | str = "cpu",
    index: PrefixIndex | None = None,
) -> Ranker:
    """The ranker that `config` describes; ConfigError if the model lacks the score it needs.

    The model must already be on `device`.

    Args:
        index: of `ids`, where there is one already; else a ranker that needs one builds it.
    """
    shared = (config.batch_size, device, config.precision)
    if config.rank_by == "generative" and isinstance(model, GenerativeModel):
        index = (PrefixIndex.build(ids) if index is None else index).to(device)
        width = None if config.exhaustive else config.beam_width
        return GenerativeRanker(model, index, width, *shared)
    if config.rank_by == "dense" and isinstance(model, DenseModel):
        return DenseRanker(model, len(ids), config.new_item_boost, *shared)
    if config.rank_by == "both" and isinstance(model, TwoScoreModel):
        weight = config.generative_weight
        boost = config.new_item_boost
        return BothRanker(model, len(ids), config.num_candidates, weight, boost, *shared)
    raise ConfigError(
        f"rank_by is {config.rank_by!r}, but {type(model).__name__} does not have the scores "
        "for it; choose another of generative, dense and both"
    )


def _rank_in_batches(
    ranker: GenerativeRanker | DenseRanker | BothRanker,
    search: Answer,
    histories: Histories,
    k: int,
    batch_size: int,
) -> Ranking:
    """Answer all users, those with histories of like length together; the result is on the CPU."""
    model: RankingModel = ranker.model
    lengths = histories.offsets.diff().clamp(max=model.max_history)
    users_by_length = lengths.argsort(stable=True, descending=True)
    batches = torch.split(users_by_length, batch_size) if len(lengths) else ()
    ranked = torch.full((histories.num_users, k), -1, dtype=torch.int64)
    scores = torch.full((histories.num_users, k), -torch.inf)
    shown: Iterable[Tensor] = batches
    if len(batches) >= SHOW_PROGRESS_FROM:
        shown = track(batches, "ranking items")
    was_training = model.training
    if was_training:
        model.train(False)
    try:
        with torch.inference_mode(), autocast(ranker.precision, ranker.device):
            for users in shown:
                batch = _take(histories, users).to(ranker.device)
                found = search(batch, *batch.latest(model.max_history))
                ranked[users] = found.items.cpu()
                # Looked at here, where the device has to be waited for in any case.
                scores[users] = _numbers(found.scores.float().cpu())
    finally:
        if was_training:
            model.train(True)
    return Ranking(ranked, scores)


def _numbers(scores: Float[Tensor, "batch item"]) -> Float[Tensor, "batch item"]:
    if scores.isnan().any():
        raise TrainingDivergedError(
            "the model's scores are not numbers (NaN), so nothing can be ranked by them; "
            "train it again with a lower learning rate or restore an earlier checkpoint"
        )
    return scores


def _take(histories: Histories, users: Int[Tensor, " user"]) -> Histories:
    lengths = histories.offsets.diff()[users]
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    shift = torch.repeat_interleave(histories.offsets[users] - offsets[:-1], lengths)
    return Histories(histories.items[torch.arange(shift.shape[0]) + shift], offsets)


def _check_request(histories: Histories, k: int, allowed: Tensor | None, num_items: int) -> None:
    if not 1 <= k <= num_items:
        raise RequestError(
            f"{k} items were asked for, but k must lie between 1 and the {num_items} items of "
            "the catalog"
        )
    invalid = (histories.items < 0) | (histories.items >= num_items)
    if invalid.any():
        entry = int(invalid.nonzero()[0])
        user = int(torch.searchsorted(histories.offsets, entry, right=True)) - 1
        raise RequestError(
            f"history {user} holds item {int(histories.items[entry])}, but items run from 0 to "
            f"{num_items - 1}; leave out items that the catalog does not have"
        )
    if allowed is not None and allowed.shape != (num_items,):
        raise RequestError(
            f"the mask of allowed items has shape {tuple(allowed.shape)}, but the catalog has "
            f"{num_items} items; give one boolean for each"
        )
