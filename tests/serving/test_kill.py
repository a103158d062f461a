"""A server that is killed again and again, under writes, forgets nothing that it acknowledged."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

NUM_KILLS = 30
NUM_WRITERS = 4

# Imports once and forks a whole server for every line that it reads, so that a life takes a
# second: that of `bbqrec serve` with its socket, its store and its lock on it.
LAUNCHER = """
import os, sys
from pathlib import Path
from bbqrec import serving

run, events = sys.argv[1:]
for _ in iter(sys.stdin.readline, ""):
    child = os.fork()
    if child == 0:
        serving.serve(
            Path(run),
            host="127.0.0.1",
            port=0,
            events=events,
            config=serving.ServeConfig(hosts=("127.0.0.1",)),
            say=lambda sentence: print(os.getpid(), sentence, flush=True),
        )
    os.waitpid(child, 0)
"""


class Writer(threading.Thread):
    """Appends event 0, 1, 2 ... of a user; what was not acknowledged is sent again, as it was."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.user_id = f"writer-{number}"
        self.num_acknowledged = 0
        self.problems: list[str] = []
        self.address: str | None = None
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            address = self.address
            if address is None:
                time.sleep(0.002)
                continue
            with httpx.Client(base_url=address) as client:
                self._write(client, address)

    def _write(self, client: httpx.Client, address: str) -> None:
        while not self.is_over and self.address == address:
            number = self.num_acknowledged
            event = {"user_id": self.user_id, "item_id": f"event {number}", "time": number}
            headers = {"Idempotency-Key": f"{self.user_id}/{number}"}
            try:
                answer = client.post("/v1/events", json={"events": [event]}, headers=headers)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                self.num_acknowledged += 1
            else:
                self.problems.append(answer.text)


def _wait_for_more(writers: list[Writer], *, than: int) -> None:
    deadline = time.monotonic() + 20
    while sum(writer.num_acknowledged for writer in writers) <= than:
        assert time.monotonic() < deadline, "nothing was acknowledged"
        time.sleep(0.005)


def test_thirty_kills_lose_no_acknowledged_event_and_double_none(run: Path, events: Path) -> None:
    moments = random.Random(0)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(run), str(events)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    writers = [Writer(number) for number in range(NUM_WRITERS)]
    for writer in writers:
        writer.start()

    acknowledged = []
    for life in range(NUM_KILLS):
        launcher.stdin.write("live\n")
        launcher.stdin.flush()
        while not (found := re.search(r"(\d+) .* answers at (\S+)", launcher.stdout.readline())):
            assert launcher.poll() is None
        for writer in writers:
            writer.address = found[2]
        if life % 4:  # a busy machine may need a while; every fourth is killed whatever it did
            _wait_for_more(writers, than=acknowledged[-1] if acknowledged else 0)
        time.sleep(moments.uniform(0.05, 0.4))
        os.kill(int(found[1]), signal.SIGKILL)
        for writer in writers:
            writer.address = None
        acknowledged.append(sum(writer.num_acknowledged for writer in writers))
    for writer in writers:
        writer.is_over = True
        writer.join()
    launcher.stdin.close()
    launcher.stdout.close()
    launcher.wait()

    assert [problem for writer in writers for problem in writer.problems] == []
    assert len(set(acknowledged)) > NUM_KILLS // 2  # most lives got something done
    connection = sqlite3.connect(events)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for writer in writers:
        rows = connection.execute(
            "SELECT item_id FROM events WHERE user_id = ? ORDER BY time", (writer.user_id,)
        )
        stored = [item_id for (item_id,) in rows]
        kept = writer.num_acknowledged
        assert stored[:kept] == [f"event {number}" for number in range(kept)]
        # The last one may have been stored before the kill cut off its answer.
        assert stored[kept:] in ([], [f"event {kept}"])
    connection.close()
