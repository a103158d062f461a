"""When more comes in than can be answered: told by the queue before calls, and how it fills."""

import math
import time
from collections.abc import Callable

STANDING_S = 0.1  # a queue that stands longer is no burst, and a flood is over after as long
SHARE_WAITING = 0.625  # of a full call that may wait in a flood; less would make calls too small
LONGER_S = 0.002  # of a pause, at most, after one call: others are shorter


class Flood:
    """Has begun where enough for two calls have waited before each for STANDING_S.

    A longer queue would then make all wait and answer nobody more. It goes on while the little
    room that is left fills up again; in a flood, too, the queue runs dry for a moment.

    In a flood that room fills at once, and who found a place would wait for all of the call before.
    So the queue stays closed for a part of each call: longer and longer while it has been full for
    some time before the next call, half as long where it was not full by then.

    Args:
        max_batch: histories in a full call.
        clock: seconds.
    """

    def __init__(self, max_batch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.room = max(1, int(SHARE_WAITING * max_batch))
        """Histories that may wait while it is on."""
        self._max_batch = max_batch
        self._clock = clock
        self._since: float | None = None
        self._has_begun = False
        self._filled_at: float | None = None  # since the latest call began
        self._was_full_at = -math.inf
        self._is_calling = False
        self._pause_s = 0.0
        self._opens_at = -math.inf

    @property
    def is_on(self) -> bool:
        is_over = not self._is_calling and self._clock() - self._was_full_at > STANDING_S
        return self._has_begun and not is_over

    @property
    def is_closed(self) -> bool:
        """Those who come a little later will be answered sooner."""
        return self._clock() < self._opens_at and self.is_on

    def note_waiting(self, waiting: int) -> None:
        """So many histories wait, or would if all who have just come were let in."""
        if self._filled_at is None and waiting >= self.room:
            self._filled_at = self._clock()

    def look(self, waiting: int) -> None:
        """Before a call: so many histories wait for it and behind it."""
        now = self._clock()
        if now - self._was_full_at > STANDING_S:
            self._since, self._has_begun = None, False
        if waiting < 2 * self._max_batch:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since > STANDING_S:
            self._has_begun = True

    def begin_call(self) -> None:
        now = self._clock()
        if not self.is_on:
            self._pause_s = 0.0
        elif self._filled_at is None:
            self._pause_s /= 2
        else:
            self._pause_s += min((now - self._filled_at) / 2, LONGER_S)
        if self._filled_at is not None:
            self._was_full_at = now
        self._is_calling, self._filled_at = True, None
        self._opens_at = now + self._pause_s

    def end_call(self) -> None:
        self._is_calling = False
        if self._filled_at is not None:
            self._was_full_at = self._clock()
