"""Whatever is asked, in whatever order: nothing is counted twice, lost, or shown against orders."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from asking import ids, recommended
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from starlette.testclient import TestClient

from bbqrec.recommend import Recommender
from bbqrec.serving import EventStore, ServeConfig, Service, create_app

NOW = 1e9  # stands for the server's clock
ADMIN = {"Authorization": "Bearer sesame"}


def may_load(server: "Server") -> bool:
    """Loading a run takes as long as a hundred requests."""
    return server.num_starts < 4


class Server(RuleBasedStateMachine):
    """A server and what must be true of it."""

    runs: tuple[Path, Path]
    folder: Path
    num_servers = 0

    def __init__(self) -> None:
        super().__init__()
        dataset = Recommender.from_pretrained(self.runs[0]).dataset
        Server.num_servers += 1
        self.place = self.folder / f"{Server.num_servers}.sqlite3"
        self.link = self.folder / f"run {Server.num_servers}"
        self.link.symlink_to(self.runs[0])
        self.titles = dataset.titles
        histories = Recommender.from_pretrained(self.runs[0]).histories()
        self.in_run = {user: list(histories[user]) for user in dataset.user_ids[:2]}
        self.users = [*self.in_run, "new 1", "new/2"]
        self.catalog = set(dataset.item_ids)
        self.items = [*dataset.item_ids[:3], "posted 1", "posted/similar", "no such item"]
        self.events: dict[str, list[tuple[float, str]]] = {user: [] for user in self.users}
        self.keys: dict[str, dict[str, Any]] = {}
        self.withdrawn: set[str] = set()
        self.which = 0
        self.num_starts = 0
        self.start()

    def start(self) -> None:
        self.num_starts += 1
        config = ServeConfig(admin_token="sesame")
        service = Service(self.link, EventStore(str(self.place)), config)
        self.client = TestClient(create_app(service), base_url="http://localhost")
        self.client.__enter__()

    def teardown(self) -> None:
        self.client.__exit__(None, None, None)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        response = self.client.request(method, path, **more)
        assert response.status_code < 500, response.text
        return response

    @rule(
        user=st.integers(0, 3),
        items=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        time=st.none() | st.integers(0, 2),
        key=st.none() | st.sampled_from(["k1", "k2"]),
    )
    def append(self, user: int, items: list[int], time: int | None, key: str | None) -> None:
        given = {} if time is None else {"time": time}
        taken = [self.items[item] for item in items]
        events = [{"user_id": self.users[user], "item_id": item, **given} for item in taken]
        headers = {} if key is None else {"Idempotency-Key": key}
        response = self.ask("POST", "/v1/events", json={"events": events}, headers=headers)
        if key is not None and key in self.keys:
            is_same = self.keys[key] == events
            assert response.status_code == (200 if is_same else 409)
            return
        assert response.json()["stored"] == len(events)
        at = NOW if time is None else time
        self.events[self.users[user]] += [(at, item) for item in taken]
        if key is not None:
            self.keys[key] = events  # type: ignore[assignment]

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def append_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.keys)))
        headers = {"Idempotency-Key": key}
        again = self.ask("POST", "/v1/events", json={"events": self.keys[key]}, headers=headers)
        assert again.json() == {"stored": 0, "is_replay": True}

    @rule(k=st.sampled_from([1, 5, 1000]), exclude_seen=st.booleans())
    def recommend(self, k: int, exclude_seen: bool) -> None:
        asked = {"user_ids": self.users, "k": k, "exclude_seen": exclude_seen}
        answers = recommended(self.client, **asked)
        may_be_shown = self.catalog - self.withdrawn
        for user, answer in zip(self.users, answers, strict=True):
            history = self.history(user)
            listed = ids(answer)
            assert len(listed) == len(set(listed))
            assert set(listed) <= may_be_shown - (set(history) if exclude_seen else set())
            assert not answer["is_history_stale"]
            assert answer["is_fallback"] == (not self.catalog & set(history))
            if k == 1000 and not exclude_seen:
                assert set(listed) == may_be_shown

    @rule(item=st.integers(0, 5))
    def withdraw(self, item: int) -> None:
        item_id = self.items[item]
        is_there = item_id in self.catalog - self.withdrawn
        status = self.ask("DELETE", f"/v1/items/{path(item_id)}").status_code
        assert status == (204 if is_there else 404)
        if is_there:
            self.withdrawn.add(item_id)

    @rule(item=st.integers(0, 5))
    def restore(self, item: int) -> None:
        item_id = self.items[item]
        status = self.ask("DELETE", f"/v1/withdrawn/{path(item_id)}").status_code
        assert status == (204 if item_id in self.withdrawn else 404)
        self.withdrawn.discard(item_id)

    @rule(item=st.integers(2, 4))
    def post(self, item: int) -> None:
        body = {"item_id": self.items[item], "title": self.titles[item]}
        status = self.ask("POST", "/v1/items", json=body).status_code
        assert status == (409 if self.items[item] in self.catalog else 201)
        self.catalog.add(self.items[item])

    @rule(user=st.integers(0, 3))
    def delete_user(self, user: int) -> None:
        user_id = self.users[user]
        assert self.ask("DELETE", f"/v1/users/{path(user_id)}").status_code == 204
        self.in_run.pop(user_id, None)
        self.events[user_id] = []

    @precondition(may_load)
    @rule()
    def swap(self) -> None:
        self.num_starts += 1
        self.which = 1 - self.which
        fresh = self.link.with_suffix(".fresh")
        fresh.symlink_to(self.runs[self.which])
        fresh.rename(self.link)
        swapped = self.ask("POST", "/v1/admin/reload", headers=ADMIN).json()
        assert swapped["model_version"] != swapped["previous"]

    @precondition(may_load)
    @rule()
    def restart(self) -> None:
        self.teardown()
        self.start()

    @rule()
    def users_are_known_by_what_they_did(self) -> None:
        for user_id in self.users:
            history = self.history(user_id)
            response = self.ask("GET", f"/v1/users/{path(user_id)}")
            assert response.status_code == (200 if history else 404)
            if history:
                assert [e["item_id"] for e in response.json()["history"]] == history

    @rule()
    def items_are_there_unless_withdrawn(self) -> None:
        for item_id in self.items:
            status = self.ask("GET", f"/v1/items/{path(item_id)}").status_code
            assert status == (200 if item_id in self.catalog - self.withdrawn else 404)

    def history(self, user_id: str) -> list[str]:
        in_order = sorted(self.events[user_id], key=lambda event: event[0])  # stable
        return [*self.in_run.get(user_id, []), *(item for _, item in in_order)]


def path(name: str) -> str:
    return name.replace("/", "%2F").replace(" ", "%20")


def test_any_order_of_requests_keeps_every_promise(
    run: Path, other_version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "runs", (run, other_version), raising=False)
    monkeypatch.setattr(Server, "folder", tmp_path, raising=False)
    some = settings(
        max_examples=6,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    run_state_machine_as_test(Server, settings=some)  # type: ignore[no-untyped-call]

    assert Server.num_servers >= 6
    shutil.rmtree(tmp_path)
