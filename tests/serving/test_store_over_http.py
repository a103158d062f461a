"""With a store that is down, full or not to be written, answers go on and say what they are."""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asking import Open, problem, recommended, take
from databases import PostgresServer, for_all_connections
from starlette.testclient import TestClient

from bbqrec.recommend import Recommender


def refuses_to_write(client: TestClient, titles: list[str]) -> None:
    """All that would have to be remembered is refused, with when to come back."""
    events = {"events": [{"user_id": "u", "item_id": "never"}]}
    for method, path, body in (
        ("POST", "/v1/events", events),
        ("POST", "/v1/items", {"item_id": "never", "title": titles[0]}),
        ("DELETE", "/v1/users/somebody", None),
    ):
        refused = client.request(method, path, json=body)
        assert "the event store cannot be used now" in problem(refused, 503)["detail"]
        assert refused.headers["retry-after"] == "1"


def users_items(client: TestClient, user_id: str) -> list[str]:
    history = client.get(f"/v1/users/{user_id}").json()["history"]
    return [entry["item_id"] for entry in history]


def test_a_database_that_is_down_is_missed_until_it_is_back(
    run: Path, postgres: PostgresServer, opened: Open
) -> None:
    dataset = Recommender.from_pretrained(run).dataset
    user_id = dataset.user_ids[0]
    client = opened(place=postgres.url)
    take(client, "u", dataset.item_ids[0])

    postgres.stop()
    down = recommended(client, user_ids=[user_id, "u"])
    refuses_to_write(client, dataset.titles)
    problem(client.get("/v1/users/u"), 503)
    ready = client.get("/health/ready").status_code
    postgres.start()
    take(client, "u", dataset.item_ids[1])
    back = recommended(client, user_ids=[user_id, "u"])

    assert [answer["is_history_stale"] for answer in down] == [True, True]
    assert [answer["is_fallback"] for answer in down] == [False, True]
    assert ready == 200
    assert [answer["is_history_stale"] for answer in back] == [False, False]
    assert [answer["is_fallback"] for answer in back] == [False, False]
    assert users_items(client, "u") == dataset.item_ids[:2]


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_answers_are_not_stale_and_writes_go_on_when_there_is_room(
    run: Path, events: Path, opened: Open
) -> None:
    dataset = Recommender.from_pretrained(run).dataset
    client = opened()
    take(client, "u", dataset.item_ids[0])

    with full_disk(events.with_name(events.name + "-wal").stat().st_size):
        refuses_to_write(client, dataset.titles)
        answer = recommended(client, user_ids=["u"])[0]
    take(client, "u", dataset.item_ids[1])

    assert not answer["is_history_stale"]
    assert not answer["is_fallback"]
    assert users_items(client, "u") == dataset.item_ids[:2]
    assert client.get("/v1/items/never").status_code == 404


def test_a_store_that_may_only_be_read_is_read(run: Path, opened: Open) -> None:
    dataset = Recommender.from_pretrained(run).dataset
    client = opened()
    take(client, "u", dataset.item_ids[0])
    store: Any = client.service._store  # type: ignore[attr-defined]

    for_all_connections(store, "PRAGMA query_only = ON")  # root may write whatever the mode says
    refuses_to_write(client, dataset.titles)
    answer = recommended(client, user_ids=["u"])[0]
    for_all_connections(store, "PRAGMA query_only = OFF")
    take(client, "u", dataset.item_ids[1])

    assert not answer["is_history_stale"]
    assert not answer["is_fallback"]
    assert users_items(client, "u") == dataset.item_ids[:2]


def test_what_a_posted_item_names_is_never_fetched(run: Path, client: TestClient) -> None:
    title = Recommender.from_pretrained(run).dataset.titles[0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        for number, link in enumerate((url, "file:///etc/passwd", "/etc/passwd", f"@{url}")):
            item = {"item_id": f"i{number}", "title": title, "image": link}
            problem(client.post("/v1/items", json=item), 422)
            problem(client.post("/v1/items", json={**item, "image": "", "image_url": link}), 422)
        words = {"item_id": url, "title": f"{title} {url}", "text": f"<img src='{url}'>"}
        posted = client.post("/v1/items", json=words)
        shown = recommended(client, histories=[[url]])
        listener.settimeout(0.3)
        try:
            listener.accept()
            was_called = True
        except TimeoutError:
            was_called = False

    assert posted.status_code == 201
    assert not shown[0]["is_fallback"]
    assert not was_called
