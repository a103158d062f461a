"""How much of what comes is let in: bursts wait, floods do not."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bbqrec.errors import OverloadedError
from bbqrec.serving.admission import MAX_READS_SAVED, READS_PER_S, Admission
from bbqrec.serving.batcher import Batcher
from bbqrec.serving.flood import STANDING_S, Flood


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Held:
    """A batcher whose every call waits to be let go on; at most 4 histories a call, 20 waiting."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.clock = Clock()
        self.sizes: list[int] = []
        self._go_on = threading.Semaphore(0)
        self.batcher: Batcher[None, str, str] = Batcher(
            self._compute, threads, max_batch=4, max_waiting=20, clock=self.clock
        )
        self.asked: list[asyncio.Task[list[str]]] = []

    def _compute(self, _: None, questions: list[str]) -> Sequence[str]:
        self.sizes.append(len(questions))
        assert self._go_on.acquire(timeout=20)
        return [question.upper() for question in questions]

    async def ask(self, number: int) -> int:
        """How many of so many questions at once are let in."""
        tasks = [asyncio.create_task(self.batcher.ask(None, [f"q{n}"])) for n in range(number)]
        await asyncio.sleep(0.01)
        refused = [task for task in tasks if task.done() and task.exception() is not None]
        assert all(isinstance(task.exception(), OverloadedError) for task in refused)
        self.asked += [task for task in tasks if task not in refused]
        return number - len(refused)

    async def answer(self, calls: int) -> None:
        for _ in range(calls):
            before = len(self.sizes)
            self._go_on.release()
            for _ in range(200):
                if len(self.sizes) > before:
                    break
                await asyncio.sleep(0.005)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """On a thread of its own: a browser's test may have left a loop running on this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, scenario).result()


async def begin(held: Held) -> asyncio.Task[None]:
    worker = asyncio.create_task(held.batcher.work())
    assert await held.ask(1) == 1
    assert held.sizes == [1]
    return worker


async def end(held: Held, worker: asyncio.Task[None]) -> None:
    for _ in range(20):
        held._go_on.release()
    assert [answer[0][0] for answer in await asyncio.gather(*held.asked)] == ["Q"] * len(held.asked)
    worker.cancel()


def test_a_burst_may_wait_and_in_a_flood_less_than_a_call() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as threads:
            held = Held(threads)
            worker = await begin(held)
            burst = await held.ask(30)
            held.clock.now += 10 * STANDING_S  # one slow call is no sign of a flood
            await held.answer(1)  # a full batch of 4 is begun, 16 wait
            early = await held.ask(30)
            held.clock.now += 2 * STANDING_S  # full all the time since
            late = await held.ask(30)
            await held.answer(1)
            waited_longest, held.asked = held.asked[5:23], held.asked[:5] + held.asked[23:]
            standing = await held.ask(30)
            await held.answer(2)  # those too, and then nothing is left
            dry = await held.ask(30)
            await held.answer(2)
            held.clock.now += 2 * STANDING_S
            calm = await held.ask(30)
            await end(held, worker)

        assert (burst, early, late, standing, dry) == (20, 4, 0, 2, 2)
        assert held.sizes[:5] == [1, 4, 2, 2, 2]
        assert all(isinstance(task.exception(), OverloadedError) for task in waited_longest)
        assert calm >= 20

    run(scenario())


def flood(calls: Sequence[int], clock: Clock, seconds: float = 0.06) -> Flood:
    """In the last of calls so long of at most 4, before each of which so many waited."""
    flood = Flood(4, clock)
    for waiting in calls:
        flood.note_waiting(waiting)
        flood.end_call()
        flood.look(waiting)
        flood.begin_call()
        clock.now += seconds
    return flood


@pytest.mark.parametrize(
    ("calls", "is_on"),
    [
        ([8, 8, 8], True),
        ([8, 8, 8, 1, 3], True),  # dry for a moment
        ([7, 7, 7, 7], False),  # as many asking in turn as two calls take
        ([8], False),  # a burst
        ([8, 8, 4, 8, 8], False),  # and another
        ([8, 8, 8, 1, 1, 1], False),
    ],
)
def test_a_flood_is_a_queue_that_stands_and_then_fills_again_and_again(
    calls: list[int], is_on: bool
) -> None:
    flooded = flood(calls, Clock())
    flooded.end_call()
    assert flooded.is_on == is_on


@pytest.mark.parametrize("later", [1, 8])
def test_a_flood_is_over_when_nothing_came_for_a_while(later: int) -> None:
    clock = Clock()
    after = flood([8, 8, 8], clock)
    after.end_call()
    was_on = after.is_on
    clock.now += 2 * STANDING_S
    is_over = not after.is_on
    after.note_waiting(later)
    after.look(later)
    after.begin_call()
    clock.now += 2 * STANDING_S

    assert was_on
    assert is_over
    assert not after.is_on


def test_one_long_call_neither_begins_nor_ends_a_flood() -> None:
    clock = Clock()
    flooded = flood([8], clock, seconds=10 * STANDING_S)
    has_begun = flooded.is_on
    flooded = flood([8, 8], clock, seconds=10 * STANDING_S)
    is_on = flooded.is_on
    flooded.note_waiting(4)
    clock.now += 10 * STANDING_S
    flooded.end_call()

    assert not has_begun
    assert is_on
    assert flooded.is_on


def next_call(flooded: Flood, clock: Clock, seconds: float) -> float:
    """For how long nobody is let into the queue, which then takes 10 ms to fill."""
    flooded.begin_call()
    begin = clock.now
    while flooded.is_closed:
        clock.now += 0.001
    closed = clock.now - begin
    clock.now += 0.01
    flooded.note_waiting(4)
    clock.now = max(clock.now, begin + seconds)
    flooded.end_call()
    return closed


def test_a_flood_closes_the_queue_until_it_fills_just_before_the_next_call() -> None:
    clock = Clock()
    flooded = flood([8, 8, 8], clock)
    flooded.end_call()

    closed = [next_call(flooded, clock, 0.06) for _ in range(60)]

    assert closed[0] < 0.003
    assert closed == sorted(closed)
    assert closed[-1] == pytest.approx(0.05, abs=0.002)
    flooded.begin_call()  # it is full to the end
    flooded.end_call()
    flooded.begin_call()  # and now it was not
    clock.now += 0.02
    assert flooded.is_closed
    clock.now += 0.01
    assert not flooded.is_closed


def test_one_long_call_closes_the_queue_hardly_longer() -> None:
    clock = Clock()
    flooded = flood([8, 8, 8], clock)
    flooded.end_call()
    before = [next_call(flooded, clock, 0.012) for _ in range(9)][-1]

    next_call(flooded, clock, 0.5)

    assert next_call(flooded, clock, 0.012) < before + 0.004


def test_nobody_is_admitted_while_a_flood_keeps_the_queue_closed() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as threads:
            held = Held(threads)
            admission = Admission(held.batcher, clock=held.clock)
            worker = await begin(held)
            await held.ask(20)
            await held.answer(1)
            held.clock.now += 2 * STANDING_S
            await held.ask(4)
            await held.answer(1)  # it stands since the call before: a flood
            held.asked = [task for task in held.asked if not task.done() or not task.exception()]
            is_flooded = held.batcher.is_flooded
            held.clock.now += 0.05  # and the room that is left is full for so long
            await held.ask(2)
            held.clock.now += 0.05
            await held.answer(1)
            for _ in range(MAX_READS_SAVED):
                admission.admit()
                admission.leave()

            at_once = admission.admit()
            is_empty = held.batcher.num_waiting == 0
            held.clock.now += 0.0025
            later = admission.admit()
            await end(held, worker)

        assert is_flooded
        assert is_empty
        assert (at_once, later) == (False, True)

    run(scenario())


def test_what_is_being_read_counts_as_if_it_waited_already() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as threads:
            held = Held(threads)
            admission = Admission(held.batcher, clock=held.clock)
            worker = await begin(held)
            idle = [admission.admit() for _ in range(100)]  # as answers from memory come
            for _ in range(100):
                admission.leave()
            for _ in range(11):  # the first question, and ten that wait
                admission.admit()
            await held.ask(10)

            room = [admission.admit() for _ in range(10)]
            looks = [admission.admit() for _ in range(MAX_READS_SAVED)]
            refused = admission.admit()
            held.clock.now += 2.5 / READS_PER_S
            later = [admission.admit() for _ in range(3)]
            admission.leave()
            again = admission.admit()
            await end(held, worker)

        assert all(idle)
        assert all(room)
        assert all(looks)
        assert not refused
        assert later == [True, True, False]
        assert not again

    run(scenario())


@pytest.mark.parametrize("work", [1, 50])
def test_a_request_of_any_size_is_let_in_where_none_waits(work: int) -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as threads:
            held = Held(threads)
            worker = await begin(held)
            held.asked.append(asyncio.create_task(held.batcher.ask(None, ["q"] * work)))
            await asyncio.sleep(0.01)
            assert held.batcher.num_waiting == work
            await end(held, worker)

    run(scenario())
