"""Slow, silent and endless senders are cut in time while others are served, over real sockets."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from gate import Gate, wait_for
from raw_requests import RECOMMEND, answers_of, connect, everything

HEAD = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"


def healthy(connection: socket.socket) -> None:
    """Ask one question over a connection that stays open, and read its whole answer."""
    connection.sendall(HEAD + b"\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")


def refused(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    found: dict[str, Any] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % found["status"])
    assert found["request_id"].encode() in head
    return found


def test_a_hundred_half_open_senders_are_cut_and_the_others_served(
    start: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bbqrec")
    port = start(receive_s=1.5)
    begin = time.monotonic()
    with ExitStack() as stack:
        half_open = [stack.enter_context(connect(port)) for _ in range(100)]
        for number, connection in enumerate(half_open):
            if number % 4:  # the others say nothing at all
                connection.sendall(HEAD[: 5 * (number % 4)])

        with httpx.Client(base_url=f"http://localhost:{port}") as client:
            served = []
            while time.monotonic() < begin + 1:
                served.append(client.post("/v1/recommend", json={"histories": [[]], "k": 3}))
        answers = [everything(connection) for connection in half_open]
        took_s = time.monotonic() - begin

    assert len(served) > 5
    assert all(response.status_code == 200 for response in served)
    assert took_s < 6
    for number, answer in enumerate(answers):
        if number % 4:
            assert refused(answer)["detail"].startswith("the head of the request did not come")
        else:
            assert answer == b""
    assert any("408, the head of the request" in record.getMessage() for record in caplog.records)


def test_a_byte_now_and_then_does_not_stop_the_clock_not_even_on_a_used_connection(
    start: Callable[..., int],
) -> None:
    port = start(receive_s=1.0)
    with connect(port) as connection:
        healthy(connection)
        begin = time.monotonic()
        answer = b""
        connection.settimeout(0.1)
        for byte in HEAD * 10:
            try:
                connection.sendall(bytes([byte]))
                answer = connection.recv(65536)
                connection.settimeout(20)
                answer += everything(connection)
                break
            except TimeoutError:
                continue
        took_s = time.monotonic() - begin

    assert refused(answer)["status"] == 408
    assert 0.8 < took_s < 4


def test_a_body_that_drips_is_cut_at_the_deadline(start: Callable[..., int]) -> None:
    port = start(receive_s=1.0)
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    begin = time.monotonic()
    with connect(port) as connection:
        connection.sendall(head + b"content-length: 1000\r\n\r\n")
        connection.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() < begin + 10:
            try:
                connection.sendall(b" ")
                answer = connection.recv(65536)
                connection.settimeout(20)
                answer += everything(connection)
            except TimeoutError:
                continue
        took_s = time.monotonic() - begin

    assert refused(answer)["detail"] == "the body did not come within 1 s"
    assert 0.8 < took_s < 4


def test_an_endless_head_is_cut_before_it_is_long(start: Callable[..., int]) -> None:
    port = start(receive_s=20.0)
    sent = 0
    with connect(port) as connection:
        connection.sendall(HEAD)
        try:
            while sent < 20_000_000:
                sent += connection.send(b"x-more: " + b"a" * 4000 + b"\r\n")
        except (ConnectionResetError, BrokenPipeError):
            pass

    assert sent < 20_000_000


def test_what_is_no_http_is_refused_as_everything_else(start: Callable[..., int]) -> None:
    port = start()
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HELLO\r\n\r\n",
        b"GET /\x00 HTTP/9.9\r\n\r\n",
    ):
        with connect(port) as connection:
            connection.sendall(garbage)
            assert refused(everything(connection))["detail"] == "this is not an HTTP request"


def test_too_many_connections_are_turned_away_and_later_ones_let_in(
    start: Callable[..., int],
) -> None:
    port = start(max_connections=5)
    with ExitStack() as stack:
        kept = [stack.enter_context(connect(port)) for _ in range(5)]
        for connection in kept:
            healthy(connection)
        with connect(port) as one_more:
            turned_away = refused(everything(one_more))
    time.sleep(0.2)

    assert turned_away["status"] == 503
    with connect(port) as connection:
        healthy(connection)


@pytest.fixture
def full(start: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that computes an answer and holds all that may wait for the model."""
    monkeypatch.setattr("bbqrec.serving.admission.MAX_READS_SAVED", 0)
    monkeypatch.setattr("bbqrec.serving.admission.READS_PER_S", 0)
    port = start(max_waiting=1, receive_s=1.0)
    gate = Gate(monkeypatch)
    content = json.dumps({"histories": [["first"]]}).encode()
    with ExitStack() as stack:
        for number in range(2):
            connection = stack.enter_context(connect(port))
            connection.sendall(RECOMMEND + b"content-length: %d\r\n\r\n" % len(content) + content)
            if number == 0:
                wait_for(lambda: gate.sizes == [1])
        time.sleep(0.2)  # by then the second waits
        yield port
        gate.is_open.set()


def test_what_a_full_server_turns_away_is_told_so_in_order_and_may_go_on(full: int) -> None:
    body = b'{"histories": [["a"]]}'
    plain = RECOMMEND + b"content-length: %d\r\n" % len(body)
    live = HEAD + b"\r\n"
    with connect(full) as connection:
        connection.sendall(plain + b"x-request-id: mine\r\n\r\n" + body[:5])
        time.sleep(0.1)
        connection.sendall(body[5:])
        first = answers_of(connection, 1)[0]
        connection.sendall(plain + b"x-request-id: not {mine}\r\n\r\n" + body)
        second = answers_of(connection, 1)[0]
        connection.sendall((plain + b"\r\n" + body) * 3 + live + plain + b"\r\n" + body)
        third, fourth, fifth, alive, last = answers_of(connection, 5)
        connection.sendall(plain + b"connection: close\r\n\r\n" + body)
        closing = refused(everything(connection))
    with connect(full) as connection:
        ids = []
        for more in (b"connection: keep-alive\r\n", b"accept: */*\r\n"):
            connection.sendall(plain + more + b"\r\n" + body)
            ids.append(answers_of(connection, 1)[0][1]["request_id"])

    assert len(set(ids)) == 2
    assert b"x-request-id: mine\r\n" in first[0]
    assert first[1]["request_id"] == "mine"
    assert "mine" not in second[1]["request_id"]
    for head, found in (first, second, third, fourth, fifth, last):
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"content-type: application/problem+json" in head
        assert b"retry-after: 1" in head
        assert b"x-content-type-options: nosniff" in head
        assert b"connection: close" not in head
        assert found["status"] == 503
    assert alive[1]["status"] == "live"
    assert closing["detail"] == first[1]["detail"]


def test_what_is_turned_away_is_counted(full: int) -> None:
    with connect(full) as connection:
        connection.sendall(RECOMMEND + b"content-length: 2\r\n\r\n{}")
        answers_of(connection, 1)
    counts = httpx.get(f"http://localhost:{full}/metrics").text

    assert 'bbqrec_requests_total{route="/v1/recommend",status="503"} 1.0' in counts
    assert 'bbqrec_request_seconds_count{route="/v1/recommend"} 1.0' in counts


def test_a_full_server_does_not_wait_for_the_rest_of_what_it_turns_away(full: int) -> None:
    begin = time.monotonic()
    with connect(full) as connection:
        connection.sendall(RECOMMEND + b"content-length: 500000\r\n\r\n" + b" " * 200_000)
        answer = refused(everything(connection))
        took_s = time.monotonic() - begin

    assert answer["status"] == 503
    assert 0.8 < took_s < 4


@pytest.mark.parametrize("head", [b"expect: 100-continue\r\n", b""])
def test_unusual_requests_are_turned_away_too(full: int, head: bytes) -> None:
    with connect(full) as connection:
        message = RECOMMEND + head + b"content-length: 2\r\n\r\n{}"
        connection.sendall(message if head else message.replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = answers_of(connection, 1)[0]

    assert answer[1]["status"] == 503
    assert b"retry-after: 1" in answer[0]


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ncontent-length: 3\r\n",
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 2\r\nno colon\r\n",
        b"content-length: +2\r\n",
    ],
)
def test_what_frames_its_body_in_two_ways_is_no_request_not_even_where_all_are_turned_away(
    full: int, head: bytes
) -> None:
    with connect(full) as connection:
        connection.sendall(RECOMMEND + head + b"\r\n{}")
        answer = refused(everything(connection))

    assert answer["status"] == 400


def test_what_was_let_in_and_is_no_request_leaves_its_place(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbqrec.serving.admission.MAX_READS_SAVED", 0)
    monkeypatch.setattr("bbqrec.serving.admission.READS_PER_S", 0)
    port = start(max_waiting=8)
    gate = Gate(monkeypatch)
    bodies = [b'{"histories": [["%d"]]}' % number for number in range(3)]
    messages = [RECOMMEND + b"content-length: %d\r\n\r\n" % len(b) + b for b in bodies]
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in messages]
        clients[0].sendall(messages[0])  # computed
        wait_for(lambda: gate.sizes == [1])
        clients[1].sendall(messages[1])  # waits
        for _ in range(20):
            with connect(port) as connection:
                connection.sendall(RECOMMEND + b"x: \x01\r\ncontent-length: 2\r\n\r\n{}")
                assert refused(everything(connection))["status"] == 400
        clients[2].sendall(messages[2])
        time.sleep(0.2)
        gate.is_open.set()
        answers = [answers_of(client, 1)[0] for client in clients]

    assert [head[9:12] for head, _ in answers] == [b"200"] * 3


def test_when_it_is_over_all_are_let_in_again(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbqrec.serving.admission.MAX_READS_SAVED", 0)
    monkeypatch.setattr("bbqrec.serving.admission.READS_PER_S", 0)
    port = start(max_waiting=1)
    body = b'{"histories": [["%d"]]}'
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(40)]
        statuses = []
        for turn in range(5):
            for number, client in enumerate(clients):
                content = body % (100 * turn + number)
                head = b"content-length: %d\r\n\r\n" % len(content)
                client.sendall(RECOMMEND + head + content)
                if number == 20 and turn % 2:  # somebody hangs up in the middle
                    client.close()
                    clients[number] = stack.enter_context(connect(port))
            for number, client in enumerate(clients):
                if number != 20 or turn % 2 == 0:
                    statuses.append(answers_of(client, 1)[0][0][9:12])
        time.sleep(0.3)
        content = body % 12345
        clients[0].sendall(RECOMMEND + b"content-length: %d\r\n\r\n" % len(content) + content)
        calm = answers_of(clients[0], 1)[0]

    assert set(statuses) == {b"200", b"503"}
    assert calm[0].startswith(b"HTTP/1.1 200")
