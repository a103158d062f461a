"""From one history and some items to explanations: every number is the model's own, or re-scored.

The whole history is scored once more without each of its events, all in one batch, by the ranker
that recommends; nothing is approximated and nothing is fitted to the model from outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bbqrec.bundle import RunFolder
from bbqrec.decoding import BothRanker, DenseRanker, GenerativeRanker, RankBy
from bbqrec.errors import RequestError
from bbqrec.explain.labels import CodeLabels, Prefix
from bbqrec.precision import autocast
from bbqrec.ranking import Histories
from bbqrec.recommend import Recommender
from bbqrec.recommender import (
    OnePassRecommender,
    ScoreParts,
    SequenceModel,
    attention_shares,
    dense_parts,
    walk_parts,
)
from bbqrec.storage import read_json

NUM_RUNNERS_UP = 3
RANK_BY: dict[type, RankBy] = {
    DenseRanker: "dense",
    GenerativeRanker: "generative",
    BothRanker: "both",
}


@dataclass(frozen=True)
class Parts:
    """What the logit is the sum of; parts that the run does not use are 0."""

    tree: float
    own: float
    content: dict[str, float]
    codes: float
    new: float
    neighbors: float
    repeat: float


@dataclass(frozen=True)
class HistoryPart:
    """One event of the history and what it did for the item.

    Args:
        attention: None where the event is older than what the encoder reads.
        left_out: the score minus the score if this event had not been.
    """

    item_id: str
    title: str
    attention: float | None
    similarity_bias: dict[str, float]
    neighbor: dict[str, float]
    left_out: float


@dataclass(frozen=True)
class Code:
    """A code of a semantic ID, the codes before it given."""

    code: int
    label: str
    log_probability: float


@dataclass(frozen=True)
class LevelStep(Code):
    """The item's code at one level, and the likeliest others that lead to an item."""

    runners_up: list[Code]


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score; `bbqrec.serving.api.ExplanationOut` describes the fields."""

    score: float
    rank_by: RankBy
    logit: float | None
    log_normalizer: float | None
    generative_weight: float
    parts: Parts | None
    attention_elsewhere: float
    history: list[HistoryPart]
    levels: list[LevelStep] | None


class Explainer:
    """Explains what a `Recommender` answers.

    Examples:
        >>> explainer = Explainer.of_run(RunFolder(Path("runs/demo")), recommender)
        >>> explainer.explain(["MUG-0042", "LAMP-0007"], ["LAMP-0012"])
    """

    def __init__(self, recommender: Recommender, labels: CodeLabels, *, writes_codes: bool) -> None:
        """
        Args:
            writes_codes: the model has learned to generate semantic IDs.
        """
        ranker = recommender.ranker
        assert isinstance(ranker, DenseRanker | GenerativeRanker | BothRanker)
        assert isinstance(recommender.model, SequenceModel)
        self._recommender, self._ranker = recommender, ranker
        self._model: SequenceModel = recommender.model
        self.labels = labels
        self._writes_codes = writes_codes

    @classmethod
    def of_run(cls, run: RunFolder, recommender: Recommender) -> "Explainer":
        """Explain `recommender`, which was loaded from this run."""
        labels = CodeLabels.of_run(run, recommender)
        folder = run.folder("train")
        writes_codes = read_json(folder / "model.json").get("writes_codes")
        if writes_codes is None:  # runs of earlier versions say it in their log
            log = read_json(folder / "log.json") if (folder / "log.json").is_file() else []
            writes_codes = any("generative" in epoch for epoch in log)
        return cls(recommender, labels, writes_codes=bool(writes_codes))

    def of(self, recommender: Recommender) -> "Explainer":
        """The same for `recommender`, which is of the same run with more items, or fewer."""
        return Explainer(recommender, self.labels, writes_codes=self._writes_codes)

    def num_read(self, history: Sequence[str]) -> int:
        """How many events of a history an explanation is about: as often it is scored anew."""
        return min(sum(i in self._recommender.item_of_id for i in history), self._reach)

    @property
    def _reach(self) -> int:
        """The latest events that are read, but for what was had before: repeats know no age."""
        model = self._model
        if isinstance(self._ranker, GenerativeRanker):
            return model.max_history
        if isinstance(model, OnePassRecommender) and "neighbor" in model.dense_biases():
            return max(model.max_history, model.num_recent)
        return model.max_history

    def explain(self, history: Sequence[str], item_ids: Sequence[str]) -> list[Explanation]:
        """One explanation per item, after an oldest-first list of item ids.

        Unknown ids in the history are passed over, as in `Recommender.recommend`.

        Raises:
            RequestError: nothing in the history is known, so that no model was asked, or an item
                is not in the catalog.
        """
        known = self._recommender.item_of_id
        unknown = [item_id for item_id in item_ids if item_id not in known]
        if unknown:
            raise RequestError(
                f"there is no item {unknown[0]!r} in the catalog of {len(known)} items; check how "
                "its id is written"
            )
        events = torch.tensor([known[i] for i in history if i in known], dtype=torch.long)
        if not len(events):
            raise RequestError(
                "nothing in the history is in the catalog, so whoever asks gets popular items, "
                "and there is no more to explain"
            )
        if not item_ids:
            return []
        items = torch.tensor([known[item_id] for item_id in item_ids])
        model, device = self._model, self._ranker.device
        was_training = model.training
        model.train(False)
        try:
            with torch.inference_mode():
                scores = self._ranker.score(_with_each_left_out(events, self._reach), items)
                with autocast(self._ranker.precision, device):
                    return self._explain(events.to(device), items.to(device), scores)
        finally:
            model.train(was_training)

    def _explain(
        self,
        events: Int[Tensor, " event"],
        items: Int[Tensor, " item"],
        scores: Float[Tensor, "shortened item"],
    ) -> list[Explanation]:
        model, ranker = self._model, self._ranker
        whole = Histories(events, torch.tensor([0, len(events)], device=events.device))
        window = events[-model.max_history :][None]
        shares = attention_shares(model, window, items)
        rank_by = RANK_BY[type(ranker)]
        parts, log_p = self._parts(whole, window, items, scores[0])
        logits = None if parts is None else _sums(parts)
        levels = None
        if self._writes_codes or rank_by != "dense":
            levels = self._levels(window, items)
        first = max(0, len(events) - self._reach)  # of the events that are read
        explanations = []
        for row in range(len(items)):
            history = []
            for place in range(first, len(events)):
                age = len(events) - 1 - place
                position = place - (len(events) - window.shape[1])
                item = int(events[place])
                history.append(
                    HistoryPart(
                        self._recommender.dataset.item_ids[item],
                        self._recommender.dataset.titles[item],
                        float(shares.items[row, position]) if position >= 0 else None,
                        {n: float(x[position]) for n, x in shares.similarity.items()}
                        if position >= 0
                        else {},
                        _neighbor(parts, row, age),
                        float(scores[0, row] - scores[1 + place - first, row]),
                    )
                )
            explanations.append(
                Explanation(
                    score=float(scores[0, row]),
                    rank_by=rank_by,
                    logit=None if logits is None else float(logits[row]),
                    log_normalizer=None if logits is None else float(logits[row] - log_p[row]),
                    generative_weight=_generative_weight(ranker),
                    parts=None if parts is None else _parts(parts, row),
                    attention_elsewhere=float(1 - shares.items[row].sum()),
                    history=history,
                    levels=None if levels is None else levels[row],
                )
            )
        return explanations

    def _parts(
        self,
        whole: Histories,
        window: Int[Tensor, "1 position"],
        items: Int[Tensor, " item"],
        scores: Float[Tensor, " item"],
    ) -> tuple[ScoreParts | None, Float[Tensor, " item"]]:
        """The parts of the logits, where the ranker has such, and the log of what comes of them."""
        model, ranker = self._model, self._ranker
        if not isinstance(ranker, GenerativeRanker):
            assert isinstance(model, OnePassRecommender)
            boost = ranker.new_item_boost
            log_p = model.dense_scores(whole, new_item_boost=boost)[0, items]
            return dense_parts(model, whole, items, new_item_boost=boost), log_p
        log_p = scores.to(items.device)
        if not isinstance(model, OnePassRecommender) or not model.walks_by_items:
            return None, log_p
        read = Histories(window[0], whole.offsets.clamp(max=model.max_history))
        return walk_parts(model, read, items), log_p

    def _levels(
        self, window: Int[Tensor, "1 position"], items: Int[Tensor, " item"]
    ) -> list[list[LevelStep]]:
        """Per item how its semantic ID was written, code by code."""
        catalog = self._model.catalog
        codes = catalog.codes[items]  # (item, level)
        length = torch.tensor([window.shape[1]], device=window.device)
        session = self._model.begin(window, length)
        log_probs = session.first().expand(len(items), -1)  # (item, code)
        parents = torch.zeros_like(items)
        available = self._recommender.available
        if available is None:
            available = torch.ones(catalog.num_items, dtype=torch.bool)
        members = [available.nonzero()[:, 0]] * len(items)
        steps: list[list[LevelStep]] = [[] for _ in range(len(items))]
        table = catalog.codes.cpu()
        for level in range(catalog.num_levels):
            if level:
                chosen = codes[:, level - 1]
                log_probs = session.extend(parents[None], chosen[None])[0]
                parents = torch.arange(len(items), device=items.device)
            for row, row_codes in enumerate(codes.tolist()):
                of_members = table[members[row], level]
                code, prefix = row_codes[level], tuple(row_codes[:level])
                others = torch.unique(of_members)
                others = others[others != code]
                row_log_probs = log_probs[row].float().cpu()
                best = others[row_log_probs[others].argsort(descending=True, stable=True)]
                steps[row].append(
                    LevelStep(
                        *self._code(prefix, code, members[row], row_log_probs),
                        [
                            Code(*self._code(prefix, other, members[row], row_log_probs))
                            for other in best[:NUM_RUNNERS_UP].tolist()
                        ],
                    )
                )
                members[row] = members[row][of_members == code]
        return steps

    def _code(
        self, prefix: Prefix, code: int, members: Int[Tensor, " member"], log_probs: Tensor
    ) -> tuple[int, str, float]:
        """Number, label and log-probability of a code among the items of `prefix`."""
        alike = members[self._model.catalog.codes.cpu()[members, len(prefix)] == code]
        label = "" if len(alike) == 1 else self.labels.of((*prefix, code))
        if not label and len(alike):
            label = self._recommender.dataset.titles[int(alike[0])]
            label += f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        return code, label, float(log_probs[code])


def _with_each_left_out(events: Int[Tensor, " event"], reach: int) -> Histories:
    """The whole history, then the history without each of its last `reach` events."""
    num_left_out = min(reach, len(events))
    first = len(events) - num_left_out
    keeps: Bool[Tensor, "row event"] = torch.ones((1 + num_left_out, len(events)), dtype=torch.bool)
    keeps[1 + torch.arange(num_left_out), first + torch.arange(num_left_out)] = False
    offsets = torch.nn.functional.pad(keeps.sum(1).cumsum(0), (1, 0))
    return Histories(events.expand(len(keeps), -1)[keeps], offsets)


def _sums(parts: ScoreParts) -> Float[Tensor, " item"]:
    given = [gifts.sum(1) for gifts in parts.neighbors.values()]
    return torch.stack([*parts.compared.values(), parts.new, *given, parts.repeat]).sum(0)


def _parts(parts: ScoreParts, row: int) -> Parts:
    compared = {name: float(values[row]) for name, values in parts.compared.items()}
    content = {
        name.removeprefix("content."): value
        for name, value in compared.items()
        if name.startswith("content.")
    }
    return Parts(
        compared.get("tree", 0.0),
        compared.get("own", 0.0),
        content,
        compared.get("codes", 0.0),
        float(parts.new[row]),
        float(sum(gifts[row].sum() for gifts in parts.neighbors.values())),
        float(parts.repeat[row]),
    )


def _neighbor(parts: ScoreParts | None, row: int, age: int) -> dict[str, float]:
    """By kind of likeness what the event of this age gave."""
    if parts is None:
        return {}
    return {
        kind: float(gifts[row, age])
        for kind, gifts in parts.neighbors.items()
        if age < gifts.shape[1]
    }


def _generative_weight(ranker: DenseRanker | GenerativeRanker | BothRanker) -> float:
    if isinstance(ranker, BothRanker):
        return ranker.generative_weight
    return 1.0 if isinstance(ranker, GenerativeRanker) else 0.0
