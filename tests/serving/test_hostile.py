"""What the process itself keeps: memory, secrets, files of its owner, whole lines in its log."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from gate import wait_for

TOKEN = "the-right-and-secret-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
READY_S = 60  # 10 on an idle machine; see benchmarks/serve.py


class Running(NamedTuple):
    process: subprocess.Popen[bytes]
    address: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def start(run: Path, log: Path) -> Running:
    """`bbqrec serve` with a token, as careless as the shell that starts it may be."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BBQREC_TOKEN": TOKEN}
    command = [sys.executable, "-m", "bbqrec", "serve", str(run), "--port", "0"]
    with log.open("ab") as file:
        process = subprocess.Popen(command, stderr=file, env=environment, umask=0)
    begin, size = time.monotonic(), log.stat().st_size
    while not (found := re.search(r"answers at (http://\S+)", log.read_text()[size:])):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < begin + READY_S
        time.sleep(0.02)
    return Running(process, found[1], log)


@pytest.fixture(scope="module")
def linked(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder by way of a symbolic link, in which nothing was served yet."""
    folder = tmp_path_factory.mktemp("hostile")
    real = folder / "real"
    real.mkdir()
    for path in run.iterdir():
        (real / path.name).symlink_to(path)
    (folder / "link").symlink_to(real)
    return folder / "link"


@pytest.fixture(scope="module")
def server(linked: Path) -> Iterator[Running]:
    running = start(linked, linked.parent / "log")
    yield running
    running.process.kill()
    running.process.wait()


def test_files_are_the_owners_alone_whatever_the_umask_and_through_a_link(
    server: Running, linked: Path
) -> None:
    body = {"events": [{"user_id": "u", "item_id": "a"}]}
    httpx.post(f"{server.address}/v1/events", json=body, headers=HEADERS).raise_for_status()

    folder = linked.resolve() / "serving"
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    ends = ("", "-wal", "-shm", ".lock")
    assert files == {f"events.sqlite3{end}": 0o600 for end in ends}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_bodies_beyond_the_limit_take_no_memory(server: Running) -> None:
    head = (
        f"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
        "content-type: application/json\r\n"
    ).encode()
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    cases = [
        (b"content-length: 300000000\r\n\r\n", b" " * 0x10000),
        (b"transfer-encoding: chunked\r\n\r\n", piece),
        (b"content-length: 1000\r\n\r\n", b" " * 0x10000),  # a lie: the rest is no request
        (b"content-encoding: gzip\r\ncontent-length: 300000000\r\n\r\n", b"\x1f" * 0x10000),
    ]
    ask = {"histories": [["x" * 1000] * 900]}
    httpx.post(f"{server.address}/v1/recommend", json=ask, headers=HEADERS).raise_for_status()
    before = server.peak_bytes()

    statuses = [[flood(server.port, head + more, part) for _ in range(3)] for more, part in cases]

    assert statuses[0] == statuses[1] == [413] * 3
    assert max(statuses[2]) < 500
    assert statuses[3] == [415] * 3
    assert server.peak_bytes() - before < 20e6


def flood(port: int, head: bytes, part: bytes) -> int:
    """The status of the answer, while up to 100 MB are sent whatever it is; 0 where none came."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(head)
            for _ in range(100_000_000 // len(part)):
                connection.sendall(part)
        except (ConnectionResetError, BrokenPipeError):
            pass
        try:
            return int(connection.recv(100)[9:12] or 0)
        except ConnectionResetError:  # what was sent after the answer may overtake it
            return 413 if b"gzip" not in head else 415


def test_no_token_opens_but_the_right_one_and_none_is_ever_logged(server: Running) -> None:
    url = f"{server.address}/v1/users/u"
    guesses = ["Bearer", "Bearer wrong-token", f"Basic {TOKEN}", f"Bearer {TOKEN}x"]
    guesses += ["Bearer " + "huge-token" * 1000, f"Bearer {TOKEN[:-1]}", "Bearer t\u00f6ken"]

    with httpx.Client() as client:
        refused = [
            client.get(url, headers={"Authorization": guess.encode("latin-1")}) for guess in guesses
        ]
        refused += [client.get(url), client.get(f"{url}?token={TOKEN}")]
        enormous = client.get(url, headers={"Authorization": "Bearer " + "huge-token" * 5000})
        let_in = client.get(url, headers=HEADERS)

    assert {response.status_code for response in refused} == {401}
    assert enormous.status_code == 431
    assert let_in.status_code in (200, 404)
    log = server.log.read_text()
    for secret in (TOKEN[:-1], "wrong-token", "huge-token", "t\u00f6ken"):
        assert secret not in log
    for response in (*refused, enormous):
        assert TOKEN not in response.text + str(response.headers)


def test_a_request_id_finds_the_whole_line_in_the_log(server: Running) -> None:
    request_id = "i" * 64
    headers = {**HEADERS, "x-request-id": request_id}
    time.sleep(1.1)  # a new second of the log, in which nothing is left out

    body = {"histories": [[]], "k": 10**6}
    refused = httpx.post(f"{server.address}/v1/recommend", json=body, headers=headers)

    assert refused.status_code == 422
    wait_for(lambda: request_id in server.log.read_text())
    lines = [line for line in server.log.read_text().splitlines() if request_id in line]
    assert len(lines) == 1
    assert "POST /v1/recommend: 422, one field is not as the description asks (body.k: " in lines[0]
    assert lines[0].endswith(")")
    assert len(lines[0]) > 150


def test_a_killed_server_is_ready_again_soon_and_remembers_though_its_log_was_deleted(
    linked: Path, server: Running
) -> None:
    with httpx.Client(base_url=server.address, headers=HEADERS) as client:
        for number in range(6):
            body = {"events": [{"user_id": "v", "item_id": f"item {number}"}]}
            assert client.post("/v1/events", json=body).json()["stored"] == 1
            if number == 3:
                (linked / "serving" / "events.sqlite3-wal").unlink()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()

    again = start(linked, server.log)
    try:
        with httpx.Client(base_url=again.address, headers=HEADERS) as client:
            assert client.get("/health/ready").json()["status"] == "ready"
            history = client.get("/v1/users/v").json()["history"]
            assert client.get("/v1/users/u").status_code == 200
    finally:
        again.process.terminate()
        again.process.wait(30)

    assert [entry["item_id"] for entry in history] == [f"item {number}" for number in range(6)]
