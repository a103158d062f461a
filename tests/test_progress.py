"""What a long task says of itself where no terminal is watching."""

import logging

import pytest

from bbqrec import progress
from bbqrec.progress import tracker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that trackers see, to be set by the test."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_how_much_is_done_how_long_the_rest_takes_and_the_note(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    with tracker("training", 2000) as task:
        clock[0] += 20
        task.advance(100, note="loss 3.2")

    assert caplog.messages == ["training: 100/2,000, 6 min left, loss 3.2"]


def test_work_of_an_earlier_run_says_nothing_about_the_pace(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    with tracker("training", 1000) as task:
        task.resume(900)
        clock[0] += 20
        task.advance(20)

    assert caplog.messages == ["training: 920/1,000, 80 s left"]


def test_the_time_left_follows_a_change_of_pace(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    with tracker("evaluating", 2000) as task:
        for steps in (1000, *[10] * (progress.PACE_LINES + 1)):
            clock[0] += 20
            task.advance(steps)

    # 950 are left; at 10 in 20 s they take 32 minutes, at the pace since the start two.
    assert caplog.messages[-1] == "evaluating: 1,050/2,000, 32 min left"


def test_work_of_unknown_size_is_counted(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    with tracker("reading", None) as task:
        clock[0] += 20
        task.advance(5)

    assert caplog.messages == ["reading: 5 done"]
