"""What the server's log says of requests that were refused: never more than it can bear."""

import logging
import time
from collections.abc import Callable

MAX_LINES_PER_S = 10

logger = logging.getLogger(__name__)


class RefusalLog:
    """One line per refusal, with the request id that the answer has, too.

    In a flood the lines beyond the first of each second are counted, not written: writing them
    would take longer than refusing. Neither ids nor paths of the caller's are written, only routes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = -1
        self._num_lines = 0
        self._num_left_out = 0

    def note(self, request_id: str, method: str, route: str, status: int, detail: str) -> None:
        second = int(self._clock())
        if second != self._second:
            if self._num_left_out:
                logger.warning("%d more refusals were not written down", self._num_left_out)
            self._second, self._num_lines, self._num_left_out = second, 0, 0
        if self._num_lines == MAX_LINES_PER_S:
            self._num_left_out += 1
            return
        self._num_lines += 1
        level = logging.WARNING if status >= 500 else logging.INFO
        logger.log(level, "request %s: %s %s: %d, %s", request_id, method, route, status, detail)
