"""What users did is kept, counted once, in order, and gone when they ask for it."""

import sqlite3
from pathlib import Path

from asking import Open, ids, problem, recommended, take
from starlette.testclient import TestClient

from bbqrec.recommend import Recommender
from bbqrec.serving import EventStore, ServeConfig, Service, create_app


def test_a_repeated_request_is_stored_once_and_another_one_of_its_key_is_refused(
    client: TestClient,
) -> None:
    body = {"events": [{"user_id": "u", "item_id": "a"}, {"user_id": "u", "item_id": "b"}]}
    headers = {"Idempotency-Key": "once"}

    first = client.post("/v1/events", json=body, headers=headers)
    second = client.post("/v1/events", json=body, headers=headers)
    other = client.post("/v1/events", json={"events": body["events"][:1]}, headers=headers)
    without = client.post("/v1/events", json=body)

    assert first.json() == {"stored": 2, "is_replay": False}
    assert second.json() == {"stored": 0, "is_replay": True}
    problem(other, 409)
    assert without.json() == {"stored": 2, "is_replay": False}
    history = client.get("/v1/users/u").json()["history"]
    assert [entry["item_id"] for entry in history] == ["a", "b", "a", "b"]


def test_histories_are_in_order_of_time_then_of_arrival(client: TestClient) -> None:
    take(client, "u", "late", time=20)
    take(client, "u", "early", "then", time=10.5)
    take(client, "u", "also late", time=20.0)
    take(client, "u", "first", time=0)

    history = client.get("/v1/users/u").json()["history"]

    assert [entry["item_id"] for entry in history] == [
        "first",
        "early",
        "then",
        "late",
        "also late",
    ]
    assert [entry["time"] for entry in history] == [0, 10.5, 10.5, 20, 20]


def test_a_clock_that_goes_back_changes_no_order(run: Path, events: Path) -> None:
    times = iter([100.0, 40.0, 40.0, 101.5, 102.0])
    service = Service(run, EventStore(str(events)), ServeConfig(), clock=lambda: next(times))
    with TestClient(create_app(service), base_url="http://localhost") as client:
        for item_id in ("first", "second", "third", "fourth"):
            take(client, "u", item_id)
        take(client, "u", "given", time=100.0)

        history = client.get("/v1/users/u").json()["history"]

    assert [entry["item_id"] for entry in history] == [
        *("first", "second", "third", "given", "fourth")
    ]
    assert [entry["time"] for entry in history] == [100, 100, 100, 100, 101.5]


def test_a_clock_that_goes_back_while_the_server_is_down_changes_no_order(
    run: Path, events: Path
) -> None:
    for now, item_id in ((100.0, "first"), (40.0, "second"), (100.5, "third")):
        store = EventStore(str(events))
        service = Service(run, store, ServeConfig(), clock=lambda now=now: now)  # type: ignore[misc]
        with TestClient(create_app(service), base_url="http://localhost") as client:
            take(client, "u", item_id)
            take(client, "other", "in the far future", time=4e9)
            history = client.get("/v1/users/u").json()["history"]

    assert [entry["item_id"] for entry in history] == ["first", "second", "third"]
    assert [entry["time"] for entry in history] == [100, 100, 100.5]


def test_a_deleted_user_is_a_stranger_everywhere_and_may_come_back(
    run: Path, events: Path, opened: Open
) -> None:
    client = opened()
    library = Recommender.from_pretrained(run)
    user_id, items = library.dataset.user_ids[3], library.dataset.item_ids
    take(client, user_id, items[5], "a secret item")
    known = recommended(client, user_ids=[user_id])[0]

    assert client.delete(f"/v1/users/{user_id}").status_code == 204
    problem(client.get(f"/v1/users/{user_id}"), 404)
    gone = recommended(client, user_ids=[user_id])[0]
    client.__exit__(None, None, None)
    again = opened()
    restarted = recommended(again, user_ids=[user_id])[0]
    take(again, user_id, items[9])

    assert not known["is_fallback"]
    assert gone["is_fallback"]
    assert restarted == gone
    everything = b"".join(path.read_bytes() for path in events.parent.glob(events.name + "*"))
    assert b"a secret item" not in everything
    history = again.get(f"/v1/users/{user_id}").json()["history"]
    assert [entry["item_id"] for entry in history] == [items[9]]
    expected = library.recommend([[items[9]]])[0]
    assert ids(recommended(again, user_ids=[user_id])[0]) == [i.item_id for i in expected.items]


def test_ids_are_data_and_nothing_else(client: TestClient) -> None:
    hostile = [
        "'; DROP TABLE events; --",
        "../../etc/passwd",
        "{0.__class__}",
        "%s",
        "😀/é",
    ]
    for user_id in hostile:
        take(client, user_id, user_id)

    for user_id in hostile:
        path = "/v1/users/" + "".join(f"%{byte:02x}" for byte in user_id.encode())
        response = client.get(path)
        assert [entry["item_id"] for entry in response.json()["history"]] == [user_id]
        assert "x" not in response.headers
        assert client.delete(path).status_code == 204


def test_without_its_store_the_server_answers_from_the_run_and_says_so(
    run: Path, events: Path, opened: Open
) -> None:
    client = opened()
    user_id = Recommender.from_pretrained(run).dataset.user_ids[0]
    body = {"events": [{"user_id": user_id, "item_id": "a"}]}
    for path in events.parent.glob(events.name + "*"):
        path.rename(path.with_suffix(".moved"))

    answer = recommended(client, user_ids=[user_id, "stranger"])
    refused = client.post("/v1/events", json=body)

    assert [a["is_history_stale"] for a in answer] == [True, True]
    assert [a["is_fallback"] for a in answer] == [False, True]
    assert problem(refused, 503)["detail"].startswith("the event store cannot be used now")
    assert refused.headers["retry-after"] == "1"
    problem(client.get(f"/v1/users/{user_id}"), 503)
    assert client.get("/health/ready").status_code == 200
    assert "bbqrec_store_failures_total 3.0" in client.get("/metrics").text


def test_while_another_program_holds_the_store_writes_are_refused_and_answers_go_on(
    events: Path, opened: Open
) -> None:
    client = opened()
    body = {"events": [{"user_id": "u", "item_id": "a"}]}
    other = sqlite3.connect(events, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    refused = client.post("/v1/events", json=body)
    answer = recommended(client, user_ids=["u"])[0]
    other.execute("ROLLBACK")
    other.close()
    stored = client.post("/v1/events", json=body)

    problem(refused, 503)
    assert answer["items"]
    assert stored.json()["stored"] == 1
