"""What the encoder made of each history, kept until the history changes.

Whoever asks again after the same history, for more items or without those just shown, waits for
the scores alone.
"""

from collections.abc import Callable
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bbqrec.serving.cache import RecentlyUsed


class EncodedHistories:
    """User states by what was read; see `OnePassRecommender.recall`.

    Of one model with fixed weights. Any thread may ask.

    Args:
        limit: states that are kept, each of about a kilobyte.
    """

    def __init__(self, limit: int) -> None:
        self._states: RecentlyUsed[bytes, bytes] = RecentlyUsed(limit)
        self._lock = Lock()

    def __call__(
        self,
        items: Int[Tensor, "batch position"],
        encode: Callable[[Int[Tensor, " row"]], Float[Tensor, "row dim"]],
    ) -> Float[Tensor, "batch dim"]:
        """The states of all rows, of which `encode` is asked for those that are new."""
        keys = [row[row >= 0].tobytes() for row in items.cpu().numpy()]
        with self._lock:
            kept = {key: self._states.get(key) for key in keys}
        new = {key: row for row, key in enumerate(keys) if kept[key] is None}
        if new:
            rows = torch.tensor(list(new.values()), device=items.device)
            states = encode(rows).float().cpu().numpy()
            with self._lock:
                for key, state in zip(new, states, strict=True):
                    kept[key] = state.tobytes()
                    self._states.put(key, state.tobytes(), 1)
        found = np.frombuffer(bytearray().join(kept[key] or b"" for key in keys), np.float32)
        return torch.from_numpy(found).view(len(keys), -1).to(items.device)
