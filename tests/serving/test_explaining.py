"""Explanations over HTTP are the library's, of the answer they come with, and wait their turn."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from asking import Open, ids, problem, recommended, take
from gate import wait_for
from starlette.testclient import TestClient

from bbqrec.bundle import RunFolder
from bbqrec.explain import Explainer
from bbqrec.recommend import Recommender
from bbqrec.serving import Version
from bbqrec.serving.api import ExplanationOut


@pytest.fixture(scope="module")
def library(run: Path) -> Recommender:
    return Recommender.from_pretrained(run)


@pytest.fixture(scope="module")
def items(library: Recommender) -> list[str]:
    return library.dataset.item_ids


def close(found: Any, expected: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return bool(found == pytest.approx(expected, abs=1e-4))


def test_explanations_are_the_librarys_and_as_described(
    client: TestClient, run: Path, library: Recommender, items: list[str]
) -> None:
    history = [items[4], "nonsense", items[9], items[4]]
    explainer = Explainer.of_run(RunFolder(run), library)

    answer = recommended(client, histories=[history], k=12, explain=True)[0]
    plain = recommended(client, histories=[history], k=12)[0]

    expected = explainer.explain(history, ids(answer)[:10])
    for item, explanation in zip(answer["items"], expected, strict=False):
        assert close(item["explanation"], orjson.loads(orjson.dumps(asdict(explanation))))
        assert item["explanation"]["score"] == pytest.approx(item["log_probability"], abs=1e-4)
        described = ExplanationOut.model_validate(item["explanation"], strict=False)
        assert described.model_dump(mode="json") == item["explanation"]
        assert [part["item_id"] for part in item["explanation"]["history"]] == [
            items[4],
            items[9],
            items[4],
        ]
    assert [item.get("explanation") is None for item in answer["items"]] == [False] * 10 + [
        True
    ] * 2
    for item in answer["items"]:
        item.pop("explanation", None)
    assert answer == plain


def test_popular_items_and_the_ninth_user_go_without(client: TestClient, items: list[str]) -> None:
    histories = [[], ["nonsense"], *([item] for item in items[:8])]

    answers = recommended(client, histories=histories, k=2, explain=True)
    nothing = recommended(client, histories=[[items[0]]], allow=["nonsense"], explain=True)[0]

    explained = [
        all(item.get("explanation") is not None for item in answer["items"]) for answer in answers
    ]
    assert explained == [False] * 2 + [True] * 6 + [False] * 2
    assert nothing["items"] == []


def test_posted_and_withdrawn_items_are_explained_too(
    client: TestClient, library: Recommender, items: list[str]
) -> None:
    title = library.dataset.titles[3]
    post = {"item_id": "new", "title": title}
    assert client.post("/v1/items", json=post).status_code == 201
    client.delete(f"/v1/items/{items[5]}")

    answer = recommended(
        client,
        histories=[["new", items[5], "gone", items[7]]],
        allow=["new"],
        exclude_seen=False,
        explain=True,
    )[0]
    after = recommended(client, histories=[["new", items[5]]], k=60, explain=True)[0]

    explanation = answer["items"][0]["explanation"]
    assert [part["item_id"] for part in explanation["history"]] == ["new", items[5], items[7]]
    assert explanation["history"][0]["title"] == title
    assert answer["withdrawn_items"] == [items[5]]
    assert answer["unknown_items"] == ["gone"]
    assert answer["num_recommendable"] == 1
    assert after["num_recommendable"] == len(after["items"]) == len(items) - 1
    labels = [
        code["label"]
        for item in after["items"][:10]
        for level in item["explanation"]["levels"]
        for code in level["runners_up"]
    ]
    assert library.dataset.titles[5] not in labels


def test_how_many_there_are_is_said_where_more_were_asked_for(
    client: TestClient, library: Recommender, items: list[str]
) -> None:
    ask = {"histories": [[items[0], items[0], items[1]], []], "k": 1000}
    allow = [items[0], items[2], items[3], "unknown"]

    everything = recommended(client, **ask)
    seen = recommended(client, **ask, exclude_seen=False)
    few = recommended(client, **ask, allow=allow, exclude=[items[3]])
    none = recommended(client, **ask, allow=["unknown"])

    for answers, expected in [
        (everything, [len(items) - 2, len(items)]),
        (seen, [len(items)] * 2),
        (few, [1, 2]),
        (none, [0, 0]),
    ]:
        assert [answer["num_recommendable"] for answer in answers] == expected
        assert [len(answer["items"]) for answer in answers] == expected


def test_explanations_wait_for_the_model_by_the_histories_they_need(
    opened: Open, items: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened(max_waiting=5)
    batcher = client.service._batcher  # type: ignore[attr-defined]
    go_on, threads_used = threading.Event(), []
    explain = Version.explain

    def held(version: Version, history: Any, item_ids: Sequence[str]) -> Any:
        threads_used.append(threading.current_thread().name)
        assert go_on.wait(20)
        return explain(version, history, item_ids)

    monkeypatch.setattr(Version, "explain", held)
    ask = {"histories": [[items[1], items[2], items[3]]], "k": 1}
    recommended(client, **ask)  # remembered: only the explanation waits

    def explained() -> Any:
        return client.post("/v1/recommend", json={**ask, "explain": True})

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(explained)
        wait_for(lambda: len(threads_used) == 1)
        second = threads.submit(explained)
        wait_for(lambda: batcher.num_waiting == 4)  # the history, and without each of its events
        refused = explained()
        remembered = recommended(client, **ask)
        go_on.set()
        answers = [future.result() for future in (first, second)]

    assert "waiting" in problem(refused, 503)["detail"]
    assert refused.headers["retry-after"] == "1"
    assert len(remembered[0]["items"]) == 1
    assert answers[0].json() == answers[1].json()
    assert {name.partition("_")[0] for name in threads_used} == {"model"}


def test_a_users_own_events_are_what_counts(client: TestClient, items: list[str]) -> None:
    take(client, "somebody new", items[11], items[12], time=5.0)

    answer = recommended(client, user_ids=["somebody new"], k=1, explain=True)[0]

    history = answer["items"][0]["explanation"]["history"]
    assert [part["item_id"] for part in history] == [items[11], items[12]]
