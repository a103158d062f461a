"""Twenty hot swaps of a server under load: no request fails, each answer is of one version."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from bbqrec.bundle import RunFolder
from bbqrec.data import Collected, Event
from bbqrec.lineage import use_version
from bbqrec.news import News
from bbqrec.serving import Options, Version
from bbqrec.update import update_run

NUM_SWAPS = 20
NUM_CLIENTS = 4


@pytest.fixture(scope="module")
def updated(run: Path) -> Path:
    """A run with two versions of the same shop."""
    root = shutil.copytree(run, run.parent / "updated")
    dataset = RunFolder(root).dataset()
    events = [
        Event(user, dataset.item_ids[place % 7], 1.9e9 + place)
        for place, user in enumerate(dataset.user_ids)
    ]
    news = News(collected=Collected(events))
    assert update_run(root, news).version == 1
    return root


class Client(threading.Thread):
    """Asks on one connection until told to stop, every other time something never asked before."""

    def __init__(self, address: str, number: int, histories: list[list[str]]) -> None:
        super().__init__()
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.failures: list[str] = []
        self.is_over = threading.Event()
        self._address = address
        self._number = number
        self._histories = histories

    def run(self) -> None:
        with httpx.Client(base_url=self._address, timeout=30) as client:
            turn = 0
            while not self.is_over.is_set():
                which = turn % len(self._histories)
                asked: dict[str, Any] = {"histories": [self._histories[which]], "k": 5}
                if turn % 2:
                    asked["exclude"] = [f"nothing {self._number} {turn}"]
                try:
                    answer = client.post("/v1/recommend", json=asked)
                    answer.raise_for_status()
                    self.answers.append((which, answer.json()))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                turn += 1


def test_no_request_fails_while_versions_are_swapped(updated: Path, events: Path) -> None:
    dataset = RunFolder(updated, 0).dataset()
    histories = [dataset.item_ids[n : n + 3] for n in range(10)]
    expected = {}
    for number in (1, 0):
        use_version(updated, number)
        version = Version.load(updated, (), ())
        answers = version.recommend([tuple(history) for history in histories], Options(5))
        expected[version.name] = [[item.item_id for item in a.items] for a in answers]
    command = [sys.executable, "-m", "bbqrec", "serve", str(updated), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--events", str(events)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "BBQREC_ADMIN_TOKEN": "sesame"},
    )
    assert server.stderr is not None
    while not (found := re.search(r"answers at (\S+)", line := server.stderr.readline())):
        assert line, "the server ended"
    clients = [Client(found[1], number, histories) for number in range(NUM_CLIENTS)]
    for client in clients:
        client.start()

    swaps = []
    with httpx.Client(base_url=found[1], timeout=30) as admin:
        for turn in range(NUM_SWAPS):
            use_version(updated, (turn + 1) % 2)
            swap = admin.post("/v1/admin/reload", headers={"Authorization": "Bearer sesame"})
            swaps.append((swap.status_code, swap.json()))
        metrics = admin.get("/metrics").text
    for client in clients:
        client.is_over.set()
        client.join()
    server.kill()
    server.wait()
    server.stderr.close()

    assert [status for status, _ in swaps] == [200] * NUM_SWAPS
    assert all(swap["model_version"] != swap["previous"] for _, swap in swaps)
    assert f'bbqrec_swaps_total{{result="done"}} {NUM_SWAPS}.0' in metrics
    assert [failure for client in clients for failure in client.failures] == []
    answers_given = [answer for client in clients for answer in client.answers]
    assert len(answers_given) > 2 * NUM_SWAPS  # on a busy machine; hundreds on a quiet one
    assert len({body["model_version"] for _, body in answers_given}) == len(expected) == 2
    for which, body in answers_given:
        listed = [item["item_id"] for item in body["answers"][0]["items"]]
        assert listed == expected[body["model_version"]][which]
