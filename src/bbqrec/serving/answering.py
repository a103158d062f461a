"""From histories to answers: remembered, or computed with others that came at the same time."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import orjson

from bbqrec.errors import RequestError
from bbqrec.explain import Explanation
from bbqrec.recommend import Recommendation
from bbqrec.serving.api import MAX_EXPLAINED, MAX_EXPLAINED_USERS, RecommendRequest
from bbqrec.serving.batcher import Batcher
from bbqrec.serving.cache import RecentlyUsed
from bbqrec.serving.config import ServeConfig
from bbqrec.serving.histories import Remembered
from bbqrec.serving.metrics import Metrics
from bbqrec.serving.version import History, Options, Version

MAX_NAMED = 100


class Answer(NamedTuple):
    """A recommendation as it is remembered: the items are JSON already."""

    items: bytes
    is_fallback: bool
    unknown_items: tuple[str, ...]
    withdrawn_items: tuple[str, ...]
    num_recommendable: int


class Why(NamedTuple):
    """A question: why these items after this history?"""

    history: History
    item_ids: list[str]


class State(NamedTuple):
    """A version and what was computed with it; they are swapped together, so none can be stale."""

    version: Version
    answers: RecentlyUsed[tuple[Any, ...], tuple[Any, ...]]
    """By history and options; see `_key` and `Answer`."""
    histories: Remembered


# What the model is asked: to recommend as the options say, or (None) to explain.
Job = tuple[Version, Options | None]
Result = Recommendation | list[Explanation]


class Answering:
    """Asks the model on its thread; lives in one event loop."""

    def __init__(self, model_thread: Executor, config: ServeConfig, metrics: Metrics) -> None:
        self._config, self._metrics = config, metrics
        self.batcher: Batcher[Job, History | Why, Result] = Batcher(
            self._compute,
            model_thread,
            max_batch=config.max_batch,
            max_waiting=config.max_waiting,
        )

    async def recommend(
        self, state: State, asked: RecommendRequest, histories: Sequence[History], is_stale: bool
    ) -> bytes:
        """JSON of `RecommendOut`."""
        if asked.beam_width is not None and asked.beam_width > self._config.max_beam:
            raise RequestError(f"beam_width may be at most {self._config.max_beam} here")
        options = Options(
            asked.k,
            asked.exclude_seen,
            None if asked.allow is None else frozenset(asked.allow),
            frozenset(asked.exclude),
            asked.beam_width,
        )
        answers = await self.answers(state, histories, options)
        if asked.explain:
            answers = await self._explained(state.version, histories, answers)
        user_ids: Sequence[str | None] = asked.user_ids or [None] * len(histories)
        return orjson.dumps(
            {
                "model_version": state.version.name,
                "answers": [
                    {
                        "user_id": user_id,
                        "items": orjson.Fragment(answer.items),
                        "is_fallback": answer.is_fallback,
                        "unknown_items": answer.unknown_items,
                        "withdrawn_items": answer.withdrawn_items,
                        "num_recommendable": answer.num_recommendable,
                        "is_history_stale": is_stale,
                    }
                    for user_id, answer in zip(user_ids, answers, strict=True)
                ],
            }
        )

    async def answers(
        self, state: State, histories: Sequence[History], options: Options
    ) -> list[Answer]:
        """One answer per history, remembered ones without asking the model."""
        found: dict[History, Answer | None] = {}
        for history in histories:
            remembered = state.answers.get(_key(history, options))
            found[history] = None if remembered is None else Answer._make(remembered)
        missing = [history for history, answer in found.items() if answer is None]
        self._metrics.cached.labels("cache").inc(len(histories) - len(missing))
        if missing:
            self._metrics.cached.labels("model").inc(len(missing))
            computed = await self.batcher.ask((state.version, options), missing)
            for history, recommendation in zip(missing, computed, strict=True):
                assert isinstance(recommendation, Recommendation)
                fresh = found[history] = _as_answer(state.version, history, recommendation)
                weight = 1 + len(history) + options.k
                state.answers.put(_key(history, options), tuple(fresh), weight)
        return [answer for history in histories if (answer := found[history]) is not None]

    async def _explained(
        self, version: Version, histories: Sequence[History], answers: Sequence[Answer]
    ) -> list[Answer]:
        """The same answers, the first items of the first of them with explanations.

        One user after another, so that a large request does not fill the queue.
        """
        explainer = version.explainer
        if not explainer.labels.is_prepared:
            await asyncio.to_thread(explainer.labels.prepare)
        explained = []
        for number, (history, answer) in enumerate(zip(histories, answers, strict=True)):
            items = orjson.loads(answer.items)
            first = items[:MAX_EXPLAINED]
            if number < MAX_EXPLAINED_USERS and first and not answer.is_fallback:
                why = Why(history, [item["item_id"] for item in first])
                work = 1 + explainer.num_read(history)
                found = (await self.batcher.ask((version, None), [why], work=work))[0]
                for item, explanation in zip(first, found, strict=True):
                    item["explanation"] = explanation
                answer = answer._replace(items=orjson.dumps(items))
            explained.append(answer)
        return explained

    def _compute(self, job: Job, questions: list[History | Why]) -> Sequence[Result]:
        version, options = job
        self._metrics.batch.observe(len(questions))
        if options is None:
            return [version.explain(q.history, q.item_ids) for q in questions if isinstance(q, Why)]
        return version.recommend([q for q in questions if not isinstance(q, Why)], options)


def _key(history: History, options: Options) -> tuple[Any, ...]:
    k, exclude_seen, allow, exclude, beam_width = options
    return history, k, exclude_seen, allow, exclude or None, beam_width


def _as_answer(version: Version, history: History, recommendation: Recommendation) -> Answer:
    known = version.recommender.item_of_id
    withdrawn = list(dict.fromkeys(i for i in history if i in version.withdrawn and i in known))
    return Answer(
        orjson.dumps([item._asdict() for item in recommendation.items]),
        recommendation.is_fallback,
        tuple(recommendation.unknown_items[:MAX_NAMED]),
        tuple(withdrawn[:MAX_NAMED]),
        recommendation.num_recommendable,
    )
