"""The command as a process of its own: what it says, and what a kill leaves behind."""

import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from bbqrec.cli import app
from bbqrec.serving import EventStore

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def server(run: Path, events: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address, as it says itself."""
    command = [sys.executable, "-m", "bbqrec", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--events", str(events)], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stderr is not None
    said = ""
    while not (found := re.search(r"answers at (http://127\.0\.0\.1:\d+) \(58 items", said)):
        line = process.stderr.readline()
        assert line, f"the server ended, saying {said}"
        said += line
    yield process, found[1]
    process.kill()
    process.wait()
    process.stderr.close()


def test_a_kill_loses_no_acknowledged_event_and_doubles_none(
    server: tuple[subprocess.Popen[str], str], events: Path
) -> None:
    process, address = server
    kept = 0
    with httpx.Client(base_url=address) as client:
        process.send_signal(signal.SIGHUP)  # takes the run anew, and goes on
        assert client.get("/health/ready").json()["status"] == "ready"
        with suppress(httpx.TransportError):
            while True:
                body = {"events": [{"user_id": "u", "item_id": f"item {kept}"}]}
                if kept == 30:
                    process.kill()
                stored = client.post("/v1/events", json=body).json()
                kept += stored["stored"]
    process.wait()

    store = EventStore(str(events))
    items = [event.item_id for event in store.events_of(["u"])[0]]
    store.close()
    connection = sqlite3.connect(events)
    is_whole = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()

    assert kept >= 30
    assert items[:kept] == [f"item {number}" for number in range(kept)]
    assert len(items) <= kept + 1  # one may have been stored before its answer was sent
    assert is_whole == ("ok",)
    assert events.stat().st_mode & 0o077 == 0


def test_a_killed_server_under_a_supervisor_costs_only_the_requests_it_was_answering(
    run: Path, events: Path
) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def start() -> subprocess.Popen[bytes]:
        """As systemd does: the socket is descriptor 3."""
        words = [sys.executable, "-m", "bbqrec", "serve", str(run), "--events", str(events), "-q"]
        command = "exec 3<&$FD; export LISTEN_PID=$$; exec " + shlex.join(words)
        number = listener.fileno()
        environment = {**ENVIRONMENT, "LISTEN_FDS": "1", "FD": str(number)}
        return subprocess.Popen(["bash", "-c", command], pass_fds=[number], env=environment)

    results: list[int] = []
    is_over = threading.Event()

    def ask_on() -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            while not is_over.is_set():
                try:
                    results.append(client.get("/v1/users/u").status_code)
                except httpx.TransportError:
                    results.append(0)

    process = start()
    httpx.post(
        f"{address}/v1/events", json={"events": [{"user_id": "u", "item_id": "a"}]}, timeout=120
    ).raise_for_status()
    clients = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in clients:
        thread.start()
    while len(results) < 50:
        time.sleep(0.01)
    process.kill()
    process.wait()
    process = start()
    answered = httpx.get(f"{address}/health/ready", timeout=120)
    before = len(results)
    while len(results) < before + 50:
        time.sleep(0.01)
    is_over.set()
    for thread in clients:
        thread.join()
    process.terminate()
    exit_code = process.wait(60)
    listener.close()

    assert answered.json()["status"] == "ready"
    assert results.count(0) <= len(clients)
    assert set(results) <= {0, 200}
    assert exit_code in (0, -signal.SIGTERM)


def refusal(*arguments: str | Path, **environment: str) -> str:
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)], env=environment)
    assert result.exit_code == 2, result
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_served_is_refused_in_one_sentence(
    run: Path, tmp_path: Path, events: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no database")
    store = EventStore(str(events))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            ((tmp_path / "nothing",), "there is no run folder at"),
            ((tmp_path / "empty",), "is not the folder of a run: it holds none of a run's parts"),
            ((run, "--port", port), f"cannot listen on 127.0.0.1:{port}: Address already in use"),
            ((run, "--host", "0.0.0.0"), "so a token is needed: set BBQREC_TOKEN"),
            ((run, "--events", events), "another server keeps its events in"),
            ((run, "--events", "/proc/x/y"), "cannot keep events in /proc/x/y"),
            ((run, "--events", tmp_path / "text"), "file is not a database"),
            ((run, "--events", "mysql://u:secret@h/d"), "or in PostgreSQL, not in 'mysql'"),
        ]
        for arguments, words in cases:
            own = () if "--port" in arguments else ("--port", "0")
            sentence = refusal(*arguments, *own)
            assert words in sentence
            assert "secret" not in sentence
    assert not any((tmp_path / "empty").iterdir())
    store.close()
