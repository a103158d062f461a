"""When more comes in than can be answered: told by how full the model's calls are."""

import math
import time
from collections.abc import Callable

STANDING_S = 0.1  # a queue that stands longer is no burst, and a flood is over after as long
SHARE_WAITING = 0.625  # of a full call that may wait in a flood; less would make calls too small


class Flood:
    """Has begun where one full call has followed another for STANDING_S.

    A longer queue would then make all wait and answer nobody more. It goes on while calls are as
    full as what is let in can make them; in a flood, too, the queue runs dry for a moment.

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
        self._full_at = -math.inf
        self._is_calling = False

    @property
    def is_on(self) -> bool:
        now = self._clock()
        is_over = not self._is_calling and now - self._full_at > STANDING_S
        return self._since is not None and now - self._since > STANDING_S and not is_over

    def begin_call(self, size: int, waiting: int) -> None:
        """Of so many histories, while so many wait behind them."""
        now = self._clock()
        if now - self._full_at > STANDING_S:
            self._since = None
        self._is_calling = True
        if size >= self.room:
            self._full_at = now
            if self._since is None and waiting >= self._max_batch:
                self._since = now

    def end_call(self, size: int) -> None:
        self._is_calling = False
        if size >= self.room:
            self._full_at = self._clock()
