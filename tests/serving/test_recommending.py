"""Answers over HTTP are the library's, remembered or not, for one user or many."""

import json
from pathlib import Path

import pytest
from asking import ids, problem, recommended, take
from starlette.testclient import TestClient
from typer.testing import CliRunner

from bbqrec.cli import app
from bbqrec.recommend import Recommender


@pytest.fixture(scope="module")
def library(run: Path) -> Recommender:
    return Recommender.from_pretrained(run)


@pytest.fixture(scope="module")
def items(library: Recommender) -> list[str]:
    return library.dataset.item_ids


def test_what_is_right_and_what_is_not_is_counted_under_one_route(client: TestClient) -> None:
    for asked in ({"histories": [[]]}, {"histories": 5}, {"histories": [[]], "beam_width": 1000}):
        client.post("/v1/recommend", json=asked)
    counts = client.get("/metrics").text

    for status, number in (("200", 1), ("422", 2)):
        line = f'bbqrec_requests_total{{route="/v1/recommend",status="{status}"}} {number}.0'
        assert line in counts


def test_answers_are_the_librarys(
    client: TestClient, library: Recommender, items: list[str]
) -> None:
    histories = [items[:3], [items[7]], [], ["nonsense", items[4]]]

    answers = recommended(client, histories=histories, k=7)

    for answer, expected in zip(answers, library.recommend(histories, k=7), strict=True):
        assert ids(answer) == [item.item_id for item in expected.items]
        assert [i["log_probability"] for i in answer["items"]] == pytest.approx(
            [i.log_probability for i in expected.items], abs=1e-5
        )
        assert answer["is_fallback"] == expected.is_fallback
        assert answer["unknown_items"] == expected.unknown_items


def test_the_command_line_and_the_server_give_the_same_lists_to_the_same_users(
    run: Path, client: TestClient, library: Recommender
) -> None:
    users = library.dataset.user_ids
    command = ["recommend", str(run), "--all-users", "--out", "-", "-k", "7"]
    result = CliRunner().invoke(app, command)
    rows = [json.loads(line) for line in result.stdout.splitlines()]

    answers = recommended(client, user_ids=users, k=7)

    offline: dict[str, list[str]] = {user: [] for user in users}
    for row in rows:
        offline[row["user_id"]].append(row["item_id"])
    assert {a["user_id"]: ids(a) for a in answers} == offline
    scores = [item["log_probability"] for answer in answers for item in answer["items"]]
    assert scores == pytest.approx([row["log_probability"] for row in rows], abs=1e-5)


def test_a_remembered_answer_is_a_fresh_one_until_the_history_changes(
    client: TestClient, library: Recommender, items: list[str]
) -> None:
    user_id = library.dataset.user_ids[0]
    ask = {"user_ids": [user_id, "somebody new"], "k": 5}

    fresh, remembered = recommended(client, **ask), recommended(client, **ask)
    take(client, user_id, items[11])
    after = recommended(client, **ask)

    assert remembered == fresh
    assert after[1] == fresh[1]
    history = [*library.histories()[user_id], items[11]]
    assert ids(after[0]) == [i.item_id for i in library.recommend([history], k=5)[0].items]
    counts = client.get("/metrics").text
    assert 'bbqrec_answers_total{source="cache"} 3.0' in counts
    assert 'bbqrec_answers_total{source="model"} 3.0' in counts


def test_strangers_get_what_is_popular_and_are_flagged(
    client: TestClient, items: list[str]
) -> None:
    stranger, nobody = recommended(client, user_ids=["stranger", "x" * 1024], k=3)
    unknown = recommended(client, histories=[["no such item"]], k=3)[0]
    take(client, "stranger", items[0])
    known = recommended(client, user_ids=["stranger"], k=3)[0]

    assert stranger["is_fallback"]
    assert ids(stranger) == ids(nobody) == ids(unknown)
    assert not known["is_fallback"]
    assert items[0] not in ids(known)


def test_only_what_is_allowed_and_not_excluded_appears(
    client: TestClient, items: list[str]
) -> None:
    history = [items[0]]
    everything = ids(recommended(client, histories=[history], k=1000)[0])
    best = everything[:3]

    without = recommended(client, histories=[history], k=5, exclude=[*best, "unknown"])[0]
    only = recommended(client, histories=[history, []], allow=[*best, items[0], "unknown"])
    seen = recommended(client, histories=[history], allow=[items[0]], exclude_seen=False)[0]
    both = recommended(client, histories=[history], allow=best, exclude=best[:1])[0]
    nothing = recommended(client, histories=[history], allow=["unknown"])[0]

    assert len(everything) == len(set(everything)) == len(items) - 1
    assert ids(without) == everything[3:8]
    assert ids(only[0]) == best
    assert set(ids(only[1])) == {*best, items[0]}
    assert ids(seen) == [items[0]]
    assert ids(both) == best[1:]
    assert ids(nothing) == []


def test_a_beam_as_wide_as_the_catalog_searches_exactly_and_wider_than_the_cap_is_refused(
    opened: object, library: Recommender, items: list[str]
) -> None:
    client = opened(max_beam=60)  # type: ignore[operator]

    narrow = recommended(client, histories=[items[:2]], k=5, beam_width=60)[0]
    wide = recommended(client, histories=[items[:2]], k=60, beam_width=60)[0]

    assert ids(narrow) == ids(wide)[:5]
    refused = client.post("/v1/recommend", json={"histories": [[]], "beam_width": 61})
    assert "at most 60" in problem(refused, 422)["detail"]


def test_similar_items_are_others_and_know_their_own(client: TestClient, items: list[str]) -> None:
    answer = client.get(f"/v1/items/{items[0]}/similar?k=59").json()
    again = client.get(f"/v1/items/{answer['items'][0]['item_id']}/similar?k=59").json()

    assert {i["item_id"] for i in answer["items"]} == set(items[1:])
    cosines = [i["cosine"] for i in answer["items"]]
    assert cosines == sorted(cosines, reverse=True)
    back = {i["item_id"]: i["cosine"] for i in again["items"]}
    assert back[items[0]] == pytest.approx(cosines[0], abs=1e-5)
