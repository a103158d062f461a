"""SIGINT and SIGTERM as a question that work asks where it can stop without loss."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Within this block the two signals only make the yielded question true.

    A second one raises KeyboardInterrupt at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def remember(signum: int, frame: FrameType | None) -> None:
        if received:  # a second Ctrl-C means now
            raise KeyboardInterrupt
        received.append(signum)

    previous = {
        number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
