"""Which requests for the model are read at all; the others are refused by their heads.

To read a request, check it and find the queue full costs ten times as much as to refuse it unread.
In a flood that is time that the model and those who wait for it do not get.
"""

import time
from collections.abc import Callable
from typing import Any

from bbqrec.serving.batcher import Batcher

SHARE_BUSY = 0.125  # of the queue; below it the model keeps up, however many are being read
READS_PER_S = 200  # when the queue is full: some of them are answered from memory
MAX_READS_SAVED = 16


class Admission:
    """Counts the requests for the model that are open, and says whether to begin another."""

    def __init__(
        self,
        batcher: Batcher[Any, Any, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batcher = batcher
        self._clock = clock
        self._num_open = 0
        self._reads_saved, self._saved_at = float(MAX_READS_SAVED), clock()

    def admit(self) -> bool:
        """Whether to read one request more; if so, it counts until `leave`."""
        batcher = self._batcher
        # A sweep of the event loop begins with hundreds of requests before the first is queued:
        # what the queue alone says of room is stale by then.
        num_read = self._num_open - batcher.num_asking
        is_full = batcher.num_waiting + num_read >= batcher.max_waiting or batcher.is_closed
        is_busy = batcher.is_flooded or batcher.num_waiting >= SHARE_BUSY * batcher.max_waiting
        if is_full and is_busy and not self._may_look():
            return False
        self._num_open += 1
        return True

    def leave(self) -> None:
        self._num_open -= 1

    def _may_look(self) -> bool:
        now = self._clock()
        saved = self._reads_saved + READS_PER_S * (now - self._saved_at)
        self._reads_saved, self._saved_at = min(saved, MAX_READS_SAVED), now
        if self._reads_saved < 1:
            return False
        self._reads_saved -= 1
        return True
