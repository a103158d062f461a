"""Progress with time left, on a terminal as a bar and elsewhere as an occasional log line."""

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOG_EVERY_S = 15.0
PACE_LINES = 4  # the time that is left is told from the pace of so many log lines
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_shown: Progress | None = None


def printable(text: str) -> str:
    """Text from strangers without control characters, which a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


@contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Within this block, `track` draws bars on `console` if it is a terminal, else logs."""
    global _shown
    if not console.is_terminal:
        yield
        return
    _shown = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
    try:
        with _shown:
            yield
    finally:
        _shown = None


class Tracker:
    """Counts one task's steps; `note` appends a few words such as the current loss."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description = description
        self._total = total
        self._done = 0
        self._note = ""
        # Where the pace is measured from: not the work of an earlier run, nor of long ago.
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=PACE_LINES)
        self._task = (
            _shown.add_task(description, total=total, note="") if _shown is not None else None
        )

    def resume(self, steps: int) -> None:
        """Count steps that an earlier run had done, which say nothing about the pace of this."""
        self._done += steps
        self._marks = deque([(time.monotonic(), self._done)], maxlen=PACE_LINES)
        if _shown is not None and self._task is not None:
            _shown.reset(self._task, completed=self._done)

    def advance(self, steps: int = 1, *, note: str | None = None) -> None:
        self._done += steps
        self._note = self._note if note is None else note
        if _shown is not None and self._task is not None:
            _shown.update(self._task, advance=steps, note=self._note)
            return
        now = time.monotonic()
        if now - self._marks[-1][0] >= LOG_EVERY_S:
            logger.info("%s", self._line(now))
            self._marks.append((now, self._done))

    def close(self) -> None:
        if _shown is not None and self._task is not None:
            _shown.remove_task(self._task)

    def _line(self, now: float) -> str:
        since, done_then = self._marks[0]
        parts = [f"{self._description}: {self._done:,} done"]
        if self._total:
            parts = [f"{self._description}: {self._done:,}/{self._total:,}"]
            if self._done > done_then:
                left = (now - since) / (self._done - done_then) * (self._total - self._done)
                parts.append(f"{_duration(left)} left")
        return ", ".join([*parts, *([self._note] if self._note else [])])


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def tracker(description: str, total: int | None) -> Iterator[Tracker]:
    """A `Tracker` for work that is not a simple loop."""
    task = Tracker(description, total)
    try:
        yield task
    finally:
        task.close()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing how many are done and how long the rest will take."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with tracker(description, total) as task:
        for item in items:
            yield item
            task.advance()
