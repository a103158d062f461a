"""Whatever is sent, the answer is a short problem, never a 500, never the sender's own words."""

import gzip
import json
import logging
from typing import Any

import pytest
from asking import Open, problem, recommended
from starlette.testclient import TestClient

from bbqrec.serving.refusals import MAX_LINES_PER_S, RefusalLog

JSON = {"content-type": "application/json"}
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "true", '"5"', "1.5", "-1", "0", str(2**63)]
NUMBERS += ["1" * 10_000, "null", "[]", "{}", "1001"]
ID_LISTS = [
    "null",
    "5",
    '"abc"',
    "[5]",
    "[null]",
    "[[5]]",
    '[""]',
    '["a\\u0000"]',
    "{}",
    '["\\ud800"]',
]
BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"{}",
    b'{"histories": [[]], "user_ids": ["u"]}',
    b'{"histories": []}',
    b'{"user_ids": []}',
    b'{"histories": [[]], "user_ids": null}',
    b'{"histories": [[]], "unknown": 1}',
    b'{"histories": [["\xff"]]}',
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000 + b"]" * 100_000,
    b'{"histories":' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'{"histories": [["' + b"a" * 1025 + b'"]]}',
    b'{"histories": [' + b",".join([b"[]"] * 257) + b"]}",
    b'{"histories": [[' + b",".join([b'"a"'] * 10_001) + b"]]}",
]


@pytest.fixture(scope="module")
def asked(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from bbqrec.serving import EventStore, ServeConfig, Service, create_app

    store = EventStore(str(tmp_path_factory.mktemp("bad") / "events.sqlite3"))
    service = Service(run, store, ServeConfig(max_body_bytes=300_000))
    with TestClient(create_app(service), base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_malformed_bodies(body: bytes, asked: TestClient) -> None:
    for path in ("/v1/recommend", "/v1/events", "/v1/items"):
        response = asked.post(path, content=body, headers=JSON)

        assert response.status_code in (400, 413, 422), response.text
        problem(response, response.status_code)


@pytest.mark.parametrize(("body", "place"), [(b"{bad", 2), (b"", None), (b'{"k": 1,', 9)])
def test_a_body_that_is_not_json_is_told_so_with_the_place(
    body: bytes, place: int | None, asked: TestClient
) -> None:
    answer = problem(asked.post("/v1/recommend", content=body, headers=JSON), 422)

    assert (answer["detail"] == "the body is not JSON") == (place is not None)
    if place is not None:
        why = f"not JSON from character {place} on"
        assert answer["errors"] == [{"where": "body", "why": why}]


def test_what_is_wrong_is_said_in_words_of_ours(asked: TestClient) -> None:
    event = {"user_id": "u", "item_id": "a", "time": "2024-09-01T00:00:00Z"}

    late = problem(asked.post("/v1/events", json={"events": [event]}), 422)
    nobody = problem(asked.post("/v1/recommend", json={}), 422)
    lost = problem(asked.get("/v1/recommendations"), 404)

    assert late["errors"][0]["why"].endswith("number, in seconds since 1970")
    assert nobody["errors"][0]["why"].startswith("give either user_ids or histories")
    assert lost["detail"] == "not found; /docs lists what can be asked"


@pytest.mark.parametrize("number", NUMBERS, ids=range(len(NUMBERS)))
def test_numbers_that_are_none(number: str, asked: TestClient) -> None:
    bodies = [
        ("/v1/recommend", f'{{"histories": [[]], "k": {number}}}'),
        ("/v1/recommend", f'{{"histories": [[]], "beam_width": {number}}}'),
        ("/v1/recommend", f'{{"histories": [[]], "exclude_seen": {number}}}'),
        ("/v1/events", f'{{"events": [{{"user_id": "u", "item_id": "a", "time": {number}}}]}}'),
    ]
    if number == "true":
        del bodies[2]
    if number in ("0", "1.5", "1001"):
        del bodies[-1]

    for path, body in bodies:
        response = asked.post(path, content=body, headers=JSON)

        problem(response, 422)
        assert number[:50] not in response.json()["detail"]


@pytest.mark.parametrize("value", ID_LISTS, ids=range(len(ID_LISTS)))
def test_lists_of_ids_that_are_none(value: str, asked: TestClient) -> None:
    for body in (
        f'{{"user_ids": {value}}}',
        f'{{"histories": {value}}}',
        f'{{"histories": [{value}]}}',
        f'{{"histories": [[]], "exclude": {value}}}',
        f'{{"histories": [[]], "allow": {value}}}',
    ):
        problem(asked.post("/v1/recommend", content=body, headers=JSON), 422)


def test_the_senders_words_are_not_sent_back(asked: TestClient) -> None:
    secret = "s3cret<script>"
    bodies = [{"histories": [[secret]], secret: 1}, {"histories": secret}, {"k": secret}]

    for body in bodies:
        response = asked.post("/v1/recommend", json=body, headers={"x-request-id": secret})
        assert secret not in response.text + str(response.headers)


def test_fields_that_do_not_exist_are_named_with_what_was_probably_meant(
    asked: TestClient,
) -> None:
    cases = [
        (
            {"histories": [[]], "exclud_seen": True},
            "body.exclud_seen",
            "did you mean exclude_seen?",
        ),
        ({"histories": [[]], "zzz": 1}, "body.zzz", "there is no such field"),
        ({"histories": [[]], "a b": 1}, "body.(unknown field)", "there is no such field"),
        ({"histories": [[]], "a" * 41: 1}, "body.(unknown field)", "there is no such field"),
    ]
    for body, where, why in cases:
        answer = problem(asked.post("/v1/recommend", json=body), 422)
        assert answer["detail"] == "one field is not as the description asks"
        assert answer["errors"][0]["where"] == where
        assert answer["errors"][0]["why"].endswith(why)


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/x-www-form-urlencoded"}, b"a=b", 415),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({}, b"{}", 415),
        ({**JSON, "content-encoding": "gzip"}, gzip.compress(b"{}", mtime=0), 415),
        ({**JSON, "x-large": "x" * 70_000}, b"{}", 431),
        ({**JSON, "host": "evil.example"}, b"{}", 421),
        ({**JSON, "sec-fetch-site": "cross-site"}, b"{}", 403),
        (JSON, b" " * 300_001, 413),
        ({**JSON, "content-length": "-5"}, b"{}", 413),
        ({**JSON, "content-length": "9" * 30}, b"{}", 413),
    ],
)
def test_requests_that_are_refused_by_their_head(
    headers: dict[str, str], content: bytes, status: int, asked: TestClient
) -> None:
    problem(asked.post("/v1/recommend", content=content, headers=headers), status)


def test_a_body_that_comes_in_pieces_is_counted(asked: TestClient) -> None:
    pieces = (b" " * 100_000 for _ in range(50))

    problem(asked.post("/v1/recommend", content=pieces, headers=JSON), 413)


def test_places_and_methods_that_do_not_exist(asked: TestClient) -> None:
    assert problem(asked.get("/v1/nothing"), 404)
    assert asked.get("/v1/recommend").headers["allow"] == "POST"
    for method, path in [
        ("GET", "/v1/recommend"),
        ("PUT", "/v1/events"),
        ("HEAD", "/v1/users/u"),
        ("POST", "/v1/items/x"),
        ("PATCH", "/health/live"),
    ]:
        assert asked.request(method, path).status_code == 405
    problem(asked.post("/v1/recommend/", content=b"{}", headers=JSON), 404)
    for path in ("/v1/users/", "/v1/items/", "/v1/items/%00", "/v1/items//similar"):
        assert asked.get(path).status_code in (404, 422)
    for k in ("0", "x", "1001", "1.5", "NaN", ""):
        problem(asked.get(f"/v1/items/x/similar?k={k}"), 422)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/users/u", {"GET", "DELETE"}),
        ("/v1/users/a/b", {"GET", "DELETE"}),
        ("/v1/items/x", {"GET", "DELETE"}),
        ("/v1/items", {"POST"}),
        ("/v1/withdrawn/x", {"DELETE"}),
        ("/v1/recommend", {"POST"}),
        ("/v1/search", {"GET"}),
        ("/health/live", {"GET"}),
        ("/static-offline-docs/swagger-ui.css", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_is_not_there_is_told_which_are(
    path: str, methods: set[str], asked: TestClient
) -> None:
    for method in {"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"} - methods:
        response = asked.request(method, path, headers={"content-type": "application/json"})

        problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == methods


def test_odd_but_proper_requests_are_answered(asked: TestClient) -> None:
    same = recommended(asked, histories=[["a"] * 10_000, ["a"]])
    repeated = asked.post(
        "/v1/recommend", content=b'{"histories": [[]], "k": 3, "k": 4}', headers=JSON
    )

    assert same[0]["items"] == same[1]["items"]
    assert len(same[0]["unknown_items"]) == 100
    assert len(repeated.json()["answers"][0]["items"]) == 4
    assert asked.get("/health/live", headers={"host": "LOCALHOST:8000"}).status_code == 200
    assert (
        asked.get("/health/live", headers={"x-request-id": "mine"}).headers["x-request-id"]
        == "mine"
    )


def test_a_mistake_of_ours_is_logged_and_not_told(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = opened()

    def fail(*_: Any) -> None:
        raise ValueError("secret path")

    monkeypatch.setattr(client.service, "item", fail)  # type: ignore[attr-defined]

    response = client.get("/v1/items/x")

    assert "secret" not in json.dumps(problem(response, 500))
    assert "secret path" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


def test_refusals_are_in_the_log_with_their_request_id_and_nothing_of_the_caller(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bbqrec")
    client = opened(max_body_bytes=100)
    refused = [
        client.post("/v1/recommend", json={"histories": [["secret"]], "k": -1}),
        client.get("/v1/users/secret"),
        client.get("/secret"),
        client.delete("/health/live"),
        client.post("/v1/events", content=b"secret" * 100, headers=JSON),
        client.post("/v1/events", content=b"secret", headers={"content-type": "text/plain"}),
        client.get("/health/live", headers={"host": "secret.example"}),
    ]
    problem(client.get("/v1/pictures/secret"), 404)  # pages ask for those of items that have none

    lines = {record.getMessage() for record in caplog.records if "request" in record.getMessage()}

    for response in refused:
        body = response.json()
        line = next(line for line in lines if body["request_id"] in line)
        assert f": {response.status_code}, " in line
        assert body["detail"] in line or response.status_code in (404, 405)
    assert "POST /v1/recommend: 422, one field is not as the description asks (body.k:" in str(
        lines
    )
    assert "GET /v1/users/{user_id:path}: 404" in str(lines)
    assert "secret" not in str(lines)
    assert len(lines) == len(refused)


def test_a_flood_of_refusals_is_counted_and_not_written_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "bbqrec")
    now = [5.2]
    log = RefusalLog(lambda: now[0])

    for number in range(1000):
        log.note(f"id{number}", "GET", "/v1/x", 503, "too many")
    now[0] = 6.0
    log.note("later", "GET", "/v1/x", 404, "not found")

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == MAX_LINES_PER_S + 2
    assert lines[0] == "request id0: GET /v1/x: 503, too many"
    assert lines[-2] == f"{1000 - MAX_LINES_PER_S} more refusals were not written down"
    assert [record.levelname for record in caplog.records][-3:] == ["WARNING", "WARNING", "INFO"]
