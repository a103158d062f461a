"""Concurrent requests share model calls: what waits while the model works goes into one batch."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from bbqrec.errors import OverloadedError
from bbqrec.serving.flood import Flood

logger = logging.getLogger(__name__)

TOO_MANY_WAIT = "too many requests are waiting; come back in a second"

K = TypeVar("K")  # what can be computed together
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(eq=False)
class _Waiting(Generic[K, Q, A]):
    key: K
    questions: Sequence[Q]
    work: int
    answers: asyncio.Future[list[A]]


class Batcher(Generic[K, Q, A]):
    """Calls `compute` on one thread at a time with as many like questions as have come together.

    Nothing is waited for: a lone question is computed at once, and under load batches grow. How
    many may wait depends on whether they are a burst or a `Flood`.
    """

    def __init__(
        self,
        compute: Callable[[K, list[Q]], Sequence[A]],
        executor: Executor,
        *,
        max_batch: int,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._executor = executor
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._flood = Flood(max_batch, clock)
        self._waiting: list[_Waiting[K, Q, A]] = []
        self._num_waiting = 0  # kept, since a flood of requests asks for it
        self.num_asking = 0
        """Calls of `ask` that wait, those that the model has begun with among them."""
        self._arrived = asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Histories that the model has not begun with."""
        return self._num_waiting

    @property
    def is_flooded(self) -> bool:
        """More comes in than can be answered."""
        return self._flood.is_on

    @property
    def is_closed(self) -> bool:
        """Nobody else should wait now, though there may be room."""
        return self._flood.is_closed

    @property
    def max_waiting(self) -> int:
        """How many histories may wait now."""
        return min(self._flood.room, self._max_waiting) if self.is_flooded else self._max_waiting

    async def ask(self, key: K, questions: Sequence[Q], *, work: int | None = None) -> list[A]:
        """The answers to `questions`; OverloadedError at once when too many are waiting.

        Args:
            work: how many histories the model reads to answer; by default one per question.
        """
        work = len(questions) if work is None else work
        self._flood.note_waiting(self._num_waiting + work)
        if self._num_waiting and self._num_waiting + work > self.max_waiting:
            raise OverloadedError(TOO_MANY_WAIT)
        answers: asyncio.Future[list[A]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(key, questions, work, answers)
        self._waiting.append(waiting)
        self._num_waiting += work
        self._arrived.set()
        self.num_asking += 1
        try:
            return await answers
        except asyncio.CancelledError:
            if waiting in self._waiting:  # its place is for others, before the next call
                self._waiting.remove(waiting)
                self._num_waiting -= work
            raise
        finally:
            self.num_asking -= 1

    async def work(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._arrived.wait()
            self._flood.look(self._num_waiting)
            self._turn_away()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            questions = [question for waiting in batch for question in waiting.questions]
            self._flood.begin_call()
            loop = asyncio.get_running_loop()
            try:
                answers = await loop.run_in_executor(
                    self._executor, self._compute, batch[0].key, questions
                )
            except Exception as error:  # whoever asked gets it
                for waiting in batch:
                    with suppress(asyncio.InvalidStateError):
                        waiting.answers.set_exception(error)
                continue
            finally:
                self._flood.end_call()
            start = 0
            for waiting in batch:
                end = start + len(waiting.questions)
                with suppress(asyncio.InvalidStateError):  # who asked has gone
                    waiting.answers.set_result(list(answers[start:end]))
                start = end

    def _turn_away(self) -> None:
        """Who has waited longest, while more wait than may.

        When a burst turns out to be a flood, a long queue stands: to work it off would make all
        who come behind it wait as long, and answers that come this late help few.
        """
        while len(self._waiting) > 1 and self._num_waiting > self.max_waiting:
            oldest = self._waiting.pop(0)
            self._num_waiting -= oldest.work
            with suppress(asyncio.InvalidStateError):  # who asked has gone
                oldest.answers.set_exception(OverloadedError(TOO_MANY_WAIT))

    def _next_batch(self) -> list[_Waiting[K, Q, A]]:
        """The oldest question and those behind it that can be computed with it."""
        self._waiting = [w for w in self._waiting if not w.answers.done()]  # the others gave up
        batch: list[_Waiting[K, Q, A]] = []
        size = 0
        for waiting in self._waiting:
            fits = not batch or size + waiting.work <= self._max_batch
            if fits and (not batch or waiting.key == batch[0].key):
                batch.append(waiting)
                size += waiting.work
        chosen = set(map(id, batch))
        self._waiting = [w for w in self._waiting if id(w) not in chosen]
        self._num_waiting = sum(waiting.work for waiting in self._waiting)
        return batch
