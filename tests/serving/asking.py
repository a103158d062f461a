"""Short words for what tests of the server do over and over."""

from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

Open = Callable[..., TestClient]  # with settings of the server; see conftest.opened
NUM_ITEMS = 58  # of the tiny shop


def recommended(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    """The answers to a request that must succeed."""
    response = client.post("/v1/recommend", json=asked)
    assert response.status_code == 200, response.text
    answers: list[dict[str, Any]] = response.json()["answers"]
    return answers


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def take(client: TestClient, user_id: str, *item_ids: str, **more: Any) -> None:
    """Post one event per item."""
    events = [{"user_id": user_id, "item_id": item_id, **more} for item_id in item_ids]
    response = client.post("/v1/events", json={"events": events})
    assert response.status_code == 200, response.text


def problem(response: Any, status: int) -> dict[str, Any]:
    """The problem that a response must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 2048
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    return body
