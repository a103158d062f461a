"""Requests that come together share model calls; more than can be answered are told so."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asking import Open, ids, problem, recommended, take
from gate import Gate, wait_for
from starlette.testclient import TestClient


def ask(client: TestClient, name: str) -> Any:
    return client.post("/v1/recommend", json={"histories": [[name]], "k": 3})


def test_what_waits_is_answered_by_one_call(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened()
    items = [f"i{n}" for n in range(12)]
    alone = [ids(recommended(client, histories=[[name]], k=3)[0]) for name in items]
    gate = Gate(monkeypatch)
    batcher = client.service._batcher  # type: ignore[attr-defined]

    with ThreadPoolExecutor(13) as threads:
        first = threads.submit(ask, client, "first")
        wait_for(lambda: gate.sizes == [1])
        rest = [threads.submit(ask, client, f"{name} again") for name in items]
        wait_for(lambda: batcher.num_waiting == 12)
        gate.is_open.set()
        answers = [future.result() for future in (first, *rest)]

    assert gate.sizes == [1, 12]
    assert [ids(answer.json()["answers"][0]) for answer in answers[1:]] == alone


def test_beyond_the_queue_requests_are_refused_at_once_and_the_others_answered(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened(max_waiting=2)
    known = client.post("/v1/recommend", json={"histories": [["known"]]})
    gate = Gate(monkeypatch)
    batcher = client.service._batcher  # type: ignore[attr-defined]

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(ask, client, "first")]
        wait_for(lambda: gate.sizes == [1])
        waiting += [threads.submit(ask, client, name) for name in "ab"]
        wait_for(lambda: batcher.num_waiting == 2)
        start = time.monotonic()
        refused = ask(client, "c")
        remembered = client.post("/v1/recommend", json={"histories": [["known"]]})
        took_s = time.monotonic() - start
        gate.is_open.set()
        answers = [future.result() for future in waiting]

    assert "waiting" in problem(refused, 503)["detail"]
    assert refused.headers["retry-after"] == "1"
    assert took_s < 1
    assert remembered.json() == known.json()
    assert [answer.status_code for answer in answers] == [200] * 3
    assert ask(client, "c").status_code == 200


def test_when_the_queue_is_full_few_requests_for_the_model_are_read_and_all_others(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbqrec.serving.admission.MAX_READS_SAVED", 3)
    monkeypatch.setattr("bbqrec.serving.admission.READS_PER_S", 0)
    client = opened(max_waiting=2)
    gate = Gate(monkeypatch)
    batcher = client.service._batcher  # type: ignore[attr-defined]
    nonsense = {"histories": 5}

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(ask, client, "first")]
        wait_for(lambda: gate.sizes == [1])
        waiting.append(threads.submit(ask, client, "a"))
        wait_for(lambda: batcher.num_waiting == 1)
        before = [client.post("/v1/recommend", json=nonsense) for _ in range(5)]
        waiting.append(threads.submit(ask, client, "b"))
        wait_for(lambda: batcher.num_waiting == 2)
        read = [client.post("/v1/recommend", json=nonsense) for _ in range(3)]
        refused = client.post("/v1/recommend", json=nonsense)
        healthy = client.get("/health/ready")
        take(client, "u", "an item")
        gate.is_open.set()
        answers = [future.result() for future in waiting]

    for response in before + read:
        problem(response, 422)
    assert "at once" in problem(refused, 503)["detail"]
    assert refused.headers["retry-after"] == "1"
    assert healthy.status_code == 200
    assert [answer.status_code for answer in answers] == [200] * 3
    problem(client.post("/v1/recommend", json=nonsense), 422)
    assert "bbqrec_event_loop_lag_seconds" in client.get("/metrics").text


def test_a_slow_model_is_a_504_and_does_not_exhaust_the_server(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened(answer_s=0.5)
    gate = Gate(monkeypatch)
    batcher = client.service._batcher  # type: ignore[attr-defined]

    slow = [ask(client, f"slow {n}") for n in range(3)]
    healthy = client.get("/health/ready")
    gate.is_open.set()
    wait_for(lambda: ask(client, "quick").status_code == 200)

    for response in slow:
        problem(response, 504)
    assert healthy.status_code == 200
    assert batcher.num_waiting == 0
    # What nobody waits for any more is not computed.
    assert [name for name in gate.asked if name.startswith("slow")] == ["slow 0"]


def test_too_many_requests_at_once_are_refused(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened(max_in_flight=1)
    gate = Gate(monkeypatch)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, client, "first")
        wait_for(lambda: gate.sizes == [1])
        refused = client.get("/health/live")
        gate.is_open.set()

    assert problem(refused, 503)
    assert refused.headers["retry-after"] == "1"
    assert first.result().status_code == 200


def test_an_event_during_the_reading_of_a_history_is_not_forgotten(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened()
    store = client.service._store  # type: ignore[attr-defined]
    read, go_on, events_of = threading.Event(), threading.Event(), store.events_of

    def slowly(user_ids: Sequence[str], after: Sequence[int]) -> Any:
        found = events_of(user_ids, after)
        read.set()
        assert go_on.wait(10)
        return found

    monkeypatch.setattr(store, "events_of", slowly)
    with ThreadPoolExecutor(1) as threads:
        early = threads.submit(recommended, client, user_ids=["u"])
        assert read.wait(10)
        take(client, "u", "no such item")
        go_on.set()
        before = early.result()
    monkeypatch.setattr(store, "events_of", events_of)
    after = recommended(client, user_ids=["u"])

    assert before[0]["unknown_items"] == []
    assert after[0]["unknown_items"] == ["no such item"]
