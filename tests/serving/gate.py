"""A model that answers when it is told to, to see what comes meanwhile."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bbqrec.serving import Version


class Gate:
    """Holds the model until it is opened, and notes what it was asked at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.sizes: list[int] = []
        self.asked: list[str] = []
        recommend: Callable[..., Any] = Version.recommend

        def held(version: Version, histories: Sequence[Any], options: Any) -> Any:
            self.asked.extend(item_id for history in histories for item_id in history)
            self.sizes.append(len(histories))
            assert self.is_open.wait(20)
            return recommend(version, histories, options)

        monkeypatch.setattr(Version, "recommend", held)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
