"""Who hangs up waits for nothing any more, and keeps nobody else waiting."""

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from gate import Gate, wait_for
from raw_requests import answers_of, connect, message


def asks_of(port: int) -> float:
    """How many histories wait for the model."""
    counts = httpx.get(f"http://localhost:{port}/metrics").text
    return float(counts.partition("\nbbqrec_waiting_histories ")[2].partition("\n")[0])


def test_who_hangs_up_leaves_the_place_to_others_and_is_not_computed(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = start(max_waiting=4)
    gate = Gate(monkeypatch)
    with ExitStack() as stack:
        begun = stack.enter_context(connect(port))
        begun.sendall(message(b'{"histories": [["begun"]]}'))
        wait_for(lambda: gate.sizes == [1])
        gone = [stack.enter_context(connect(port)) for _ in range(4)]
        for number, client in enumerate(gone):
            client.sendall(message(b'{"histories": [["gone %d"]]}' % number))
        wait_for(lambda: asks_of(port) == 4)
        for client in (begun, *gone):
            client.close()
        wait_for(lambda: asks_of(port) == 0)
        others = [stack.enter_context(connect(port)) for _ in range(4)]
        for number, client in enumerate(others):
            client.sendall(message(b'{"histories": [["other %d"]]}' % number))
        wait_for(lambda: asks_of(port) == 4)
        gate.is_open.set()
        answers = [answers_of(client, 1)[0] for client in others]
    counts = httpx.get(f"http://localhost:{port}/metrics").text

    assert [head[9:12] for head, _ in answers] == [b"200"] * 4
    assert not [name for name in gate.asked if name.startswith("gone")]
    assert 'bbqrec_requests_total{route="/v1/recommend",status="499"} 5.0' in counts
    assert "bbqrec_requests_in_flight 1.0" in counts  # the one that asks


def test_who_hangs_up_after_several_questions_at_once_leaves_with_all_of_them(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = start(max_waiting=4)
    gate = Gate(monkeypatch)
    with ExitStack() as stack:
        first = stack.enter_context(connect(port))
        first.sendall(message(b'{"histories": [["first"]]}'))
        wait_for(lambda: gate.sizes == [1])
        several = stack.enter_context(connect(port))
        several.sendall(b"".join(message(b'{"histories": [["gone %d"]]}' % n) for n in range(3)))
        wait_for(lambda: asks_of(port) == 1)
        several.close()
        wait_for(lambda: asks_of(port) == 0)
        gate.is_open.set()
        answer = answers_of(first, 1)[0]

    assert answer[0].startswith(b"HTTP/1.1 200")
    assert gate.asked == ["first"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_event_is_stored_though_who_sent_it_has_gone(
    start: Callable[..., int], events: Path
) -> None:
    port = start()
    other = sqlite3.connect(events, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    body = b'{"events": [{"user_id": "u", "item_id": "a"}]}'
    with connect(port) as connection:
        connection.sendall(message(body).replace(b"recommend", b"events"))
        time.sleep(0.3)  # by then it waits for the other to have done
    time.sleep(0.2)
    other.execute("ROLLBACK")
    other.close()

    address = f"http://localhost:{port}/v1/users/u"
    wait_for(lambda: httpx.get(address).status_code == 200)
    assert [e["item_id"] for e in httpx.get(address).json()["history"]] == ["a"]
