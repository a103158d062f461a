"""One protocol for every model: same cases, same candidates, both settings of the history filter.

Candidates are all items of the dataset, never a sample. At test time a history is all the user
did before the target, the validation item included, and no model is trained again.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from bbqrec.config import Config
from bbqrec.data import Cases, Dataset
from bbqrec.errors import ConfigError, DataError, RequestError
from bbqrec.evaluation.metrics import METRIC_PATTERN, metric_cutoff, metric_values, target_ranks
from bbqrec.evaluation.results import Evaluation, ModelResult
from bbqrec.evaluation.scores import Scores, score_ranks
from bbqrec.evaluation.slices import Slices, slice_cases
from bbqrec.progress import Tracker, tracker
from bbqrec.ranking import Histories, Ranker

HISTORY_SETTINGS = {"kept": False, "filtered": True}
"""Name of a setting -> `exclude_seen`; both are always reported."""

MetricName = Annotated[str, Field(pattern=METRIC_PATTERN)]


class EvaluationConfig(Config):
    """What is measured; the cases and candidates are the dataset's.

    Args:
        metrics: at each cut-off; the deepest says how long lists are.
        slice_metrics: those also given by slice.
        main_metric: one of both lists, in which tables compare models with the reference.
        list_length: how many items a person sees; for coverage and novelty.
        num_bootstrap, confidence: samples behind each interval, and its coverage.
        popularity_bands: slices by the target's training count hold equally many items.
        history_edges: the last history length of each slice but the longest.
        seed: of the bootstrap.
        batch_size: histories ranked at once; a limit of memory, not a setting of the result.
    """

    metrics: tuple[MetricName, ...] = (
        "recall@1",
        "recall@5",
        "recall@10",
        "recall@20",
        "ndcg@5",
        "ndcg@10",
        "ndcg@20",
        "mrr@20",
    )
    slice_metrics: tuple[MetricName, ...] = ("recall@10", "ndcg@10")
    main_metric: MetricName = "ndcg@10"
    list_length: int = Field(default=10, ge=1)
    num_bootstrap: int = Field(default=1000, ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    popularity_bands: int = Field(default=4, ge=1)
    history_edges: tuple[Annotated[int, Field(ge=0)], ...] = (5, 10, 20, 50)
    batch_size: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> "EvaluationConfig":
        if self.main_metric not in self.metrics or self.main_metric not in self.slice_metrics:
            raise ValueError(
                f"main_metric {self.main_metric!r} must be among metrics and slice_metrics"
            )
        if list(self.history_edges) != sorted(set(self.history_edges)):
            raise ValueError(f"history_edges must increase: {self.history_edges}")
        return self

    @property
    def depth(self) -> int:
        """How many items each model is asked for."""
        names = self.metrics + self.slice_metrics
        return max([self.list_length, *(metric_cutoff(name) for name in names)])


class _Ranked(NamedTuple):
    """What is kept of a model's rankings."""

    ranks: NDArray[np.int64]  # (case,)
    listed: NDArray[np.int64]  # (item,) how many lists show it
    wall_s: float


def evaluate(
    rankers: Mapping[str, Ranker],
    cases: Cases,
    dataset: Dataset,
    config: EvaluationConfig | None = None,
    *,
    lists: Mapping[str, Int[Tensor, "case rank"]] | None = None,
    reference: str | None = None,
    split: str = "test",
) -> Evaluation:
    """Rank all items for all `cases` with every model and measure where the targets stand.

    Args:
        lists: further models that have answered already: items best first, -1 in unused places.
            With the history filtered its items are taken out, so lists should be longer than the
            deepest metric.
        reference: the model that the others are compared with, pair by pair.
        split: what to call the cases.

    Raises:
        ConfigError: there is no model, or none is called `reference`.
        DataError: there is no case.
        RequestError: a model answered with something that is no ranking of the candidates.
    """
    config = config or EvaluationConfig()
    lists = lists or {}
    names = [*rankers, *lists]
    if not names:
        raise ConfigError("there is no model to evaluate; name at least one")
    if reference is not None and reference not in names:
        raise ConfigError(
            f"the reference {reference!r} is not among the models to evaluate: {sorted(names)}"
        )
    if not len(cases):
        raise DataError(f"the {split} split has no cases; nothing can be evaluated on it")
    ranked: dict[str, dict[str, _Ranked]] = {setting: {} for setting in HISTORY_SETTINGS}
    for name, ranker in rankers.items():
        with tracker(f"evaluating {name}", len(HISTORY_SETTINGS) * len(cases)) as progress:
            for setting, exclude_seen in HISTORY_SETTINGS.items():
                ranked[setting][name] = _rank_all(
                    name, ranker, cases, dataset.num_items, config, exclude_seen, progress
                )
    for setting, exclude_seen in HISTORY_SETTINGS.items():
        for name, items in lists.items():
            ranked[setting][name] = _rank_listed(
                name, items, cases, dataset.num_items, config, exclude_seen
            )
    slices = slice_cases(
        cases,
        dataset,
        popularity_bands=config.popularity_bands,
        history_edges=config.history_edges,
    )
    results = {
        setting: _summarize(by_model, slices, dataset, config, reference)
        for setting, by_model in ranked.items()
    }
    return Evaluation(
        split=split,
        reference=reference,
        main_metric=config.main_metric,
        protocol=_protocol(dataset, config),
        num_cases=len(cases),
        num_items=dataset.num_items,
        num_repeat_targets=count_repeat_targets(cases),
        models={name: {s: results[s][name] for s in HISTORY_SETTINGS} for name in names},
        ranks={name: {s: ranked[s][name].ranks for s in HISTORY_SETTINGS} for name in names},
    )


def sample_cases(cases: Cases, num: int, seed: int) -> Cases:
    """`num` cases drawn without replacement, always the same for a seed; all if there are fewer."""
    if num >= len(cases):
        return cases
    rows = np.random.default_rng(seed).choice(len(cases), num, replace=False)
    return cases.take(np.sort(rows))


def quick_metrics(
    ranker: Ranker, cases: Cases, *, exclude_seen: bool, k: int = 10, batch_size: int = 256
) -> dict[str, float]:
    """`ndcg@k` and `recall@k` without intervals, for choosing among epochs or settings."""
    ranks = np.concatenate(
        [
            target_ranks(
                ranker.rank(histories, k, exclude_seen=exclude_seen).items.cpu(), targets
            ).numpy()
            for histories, targets in _batches(cases, batch_size)
        ]
        or [np.zeros(1, dtype=np.int64)]
    )
    return {name: float(metric_values(ranks, name).mean()) for name in (f"ndcg@{k}", f"recall@{k}")}


def count_repeat_targets(cases: Cases) -> int:
    """In how many cases the target is an item of the history."""
    row = np.repeat(np.arange(len(cases)), cases.histories.lengths)
    return len(np.unique(row[cases.histories.items == cases.targets[row]]))


def _batches(cases: Cases, size: int) -> Iterator[tuple[Histories, torch.Tensor]]:
    for start in range(0, len(cases), size):
        part = cases.take(np.arange(start, min(start + size, len(cases))))
        yield part.histories.to_histories(), torch.from_numpy(part.targets).long()


def _rank_all(
    name: str,
    ranker: Ranker,
    cases: Cases,
    num_items: int,
    config: EvaluationConfig,
    exclude_seen: bool,
    progress: Tracker,
) -> _Ranked:
    ranks = []
    listed = torch.zeros(num_items, dtype=torch.int64)
    start = time.perf_counter()
    for histories, targets in _batches(cases, config.batch_size):
        items = ranker.rank(histories, config.depth, exclude_seen=exclude_seen).items.cpu()
        _check_ranking(name, items, histories, config.depth, num_items, exclude_seen)
        ranks.append(target_ranks(items, targets))
        shown = items[:, : config.list_length]
        listed += torch.bincount(shown[shown >= 0], minlength=num_items)
        progress.advance(len(targets))
    return _Ranked(torch.cat(ranks).numpy(), listed.numpy(), time.perf_counter() - start)


def _rank_listed(
    name: str,
    items: Int[Tensor, "case rank"],
    cases: Cases,
    num_items: int,
    config: EvaluationConfig,
    exclude_seen: bool,
) -> _Ranked:
    """As `_rank_all`, of lists that are there already."""
    histories = cases.histories.to_histories()
    if len(items) != len(cases):
        raise RequestError(f"the model {name!r} answers {len(items)} of {len(cases)} cases")
    if exclude_seen:
        row = torch.arange(len(items))[:, None]
        seen = histories.rows() * num_items + histories.items
        is_seen = torch.isin(row * num_items + items, seen) & (items >= 0)
        # What is taken out leaves no gap.
        order = is_seen.to(torch.int8).argsort(dim=1, stable=True)
        items = items.masked_fill(is_seen, -1).gather(1, order)
    items = F.pad(items, (0, max(0, config.depth - items.shape[1])), value=-1)[:, : config.depth]
    _check_ranking(name, items, histories, config.depth, num_items, exclude_seen)
    shown = items[:, : config.list_length]
    listed = torch.bincount(shown[shown >= 0], minlength=num_items)
    ranks = target_ranks(items, torch.from_numpy(cases.targets).long())
    return _Ranked(ranks.numpy(), listed.numpy(), 0.0)


def _check_ranking(
    name: str,
    items: torch.Tensor,
    histories: Histories,
    depth: int,
    num_items: int,
    exclude_seen: bool,
) -> None:
    """A model that bends the rules would win unfairly: refuse its answer."""
    if items.shape != (histories.num_users, depth):
        raise RequestError(
            f"the model {name!r} answered {tuple(items.shape)} items where "
            f"{(histories.num_users, depth)} were asked for; unfilled places must hold -1"
        )
    if int(items.min()) < -1 or int(items.max()) >= num_items:
        raise RequestError(
            f"the model {name!r} recommends items outside 0 to {num_items - 1}; was it trained on "
            "another dataset?"
        )
    ordered = items.sort(dim=1).values
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise RequestError(f"the model {name!r} recommends an item twice to the same user")
    if exclude_seen:
        row = torch.arange(histories.num_users)[:, None]
        seen = histories.rows() * num_items + histories.items
        if (torch.isin(row * num_items + items, seen) & (items >= 0)).any():
            raise RequestError(
                f"the model {name!r} recommends items of the history although they are excluded"
            )


def _summarize(
    ranked: Mapping[str, _Ranked],
    slices: Slices,
    dataset: Dataset,
    config: EvaluationConfig,
    reference: str | None,
) -> dict[str, ModelResult]:
    def scores(rows: NDArray[np.int64] | slice, metrics: tuple[str, ...]) -> dict[str, Scores]:
        return score_ranks(
            {name: entry.ranks[rows] for name, entry in ranked.items()},
            metrics,
            reference=reference,
            num_bootstrap=config.num_bootstrap,
            confidence=config.confidence,
            seed=config.seed,
        )

    overall = scores(slice(None), config.metrics)
    by_slice = {
        kind: {label: scores(rows, config.slice_metrics) for label, rows in groups.items()}
        for kind, groups in slices.items()
    }
    counts = dataset.popularity()
    information = -np.log2((counts + 1) / (counts.sum() + dataset.num_items))  # bits
    results = {}
    for name, entry in ranked.items():
        num_listed = int(entry.listed.sum())
        results[name] = ModelResult(
            overall=overall[name],
            slices={
                kind: {label: group[name] for label, group in groups.items()}
                for kind, groups in by_slice.items()
            },
            coverage=float((entry.listed > 0).mean()),
            novelty_bits=float(entry.listed @ information) / max(1, num_listed),
            filled=num_listed / (len(entry.ranks) * config.list_length),
            wall_s=entry.wall_s,
        )
    return results


def _protocol(dataset: Dataset, config: EvaluationConfig) -> dict[str, object]:
    return {
        "dataset": dataset.fingerprint,
        "candidates": "all items",
        "history": "everything before the target",
        "history_filter": "kept: history items stay candidates; filtered: all are removed",
        "interval": "percentile bootstrap over cases; differences are paired",
        "settings": config.model_dump(mode="json"),
    }
