"""How fast a run is served: `python benchmarks/serve.py runs/demo`.

Starts `bbqrec serve` and asks it over connections that are kept open, as many requests at once as
connections; exits with 1 when a bar is missed. The client shares the machine with the server.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

READY_S = 10.0
HEALTH_PER_S = 2000.0
CACHED_PER_S = 800.0
CACHED_P99_MS = 50.0
MODEL_PER_S = 20.0  # users, in requests of BATCH
FULL_PER_S = 15.0  # of full searches: 50 events, nothing remembered
FULL_CONNECTIONS = 8
FULL_P99 = 4.0  # times their median
BATCH = 64
HEALTH = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
HEAD = (
    "POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    "content-length: %d\r\n\r\n"
)


def request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return (HEAD % len(content)).encode() + content


def never_asked(items: list[str], number: int) -> bytes:
    """A history of up to 40 items that nothing is remembered of."""
    latest = [items[(7 * number + step) % len(items)] for step in range(1 + number % 40)]
    return request({"histories": [[f"unknown {number}", *latest]]})


def histories_never_asked(items: list[str], number: int, count: int) -> list[list[str]]:
    """So many users' latest 50 items, with something unknown that nobody else has."""
    return [
        [
            f"unknown {number}.{user}",
            *(items[(31 * user + step) % len(items)] for step in range(50)),
        ]
        for user in range(count)
    ]


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
) -> tuple[int, bytes]:
    """Status and body of the answer to one request."""
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    return int(head[9:12]), await reader.readexactly(int(length[1]))


async def recommended(port: int, messages: list[bytes]) -> list[list[str]]:
    """The item ids of every answer, request after request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for message in messages:
        status, body = await ask(reader, writer, message)
        assert status == 200, body
        for answer in json.loads(body)["answers"]:
            found.append([item["item_id"] for item in answer["items"]])
    writer.close()
    return found


async def load(port: int, messages: list[bytes], connections: int, seconds: float) -> Any:
    """Requests per second, percentiles in ms and the statuses, in a closed loop."""
    end = time.perf_counter() + seconds
    answers: list[tuple[int, float]] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while turn == number or time.perf_counter() < end:
            begin = time.perf_counter()
            status, _ = await ask(reader, writer, messages[turn % len(messages)])
            answers.append((status, time.perf_counter() - begin))
            turn += connections
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    took = time.perf_counter() - start
    times = sorted(seconds for _, seconds in answers)
    return {
        "requests_per_s": round(len(times) / took),
        "p50_ms": round(1000 * times[len(times) // 2], 2),
        "p99_ms": round(1000 * times[int(len(times) * 0.99)], 2),
        "refused": sum(status == 503 for status, _ in answers),
        "failed": sum(status not in (200, 503) for status, _ in answers),
    }


def start(run: Path, events: Path) -> tuple[subprocess.Popen[str], int, float]:
    """The server, its port, and the seconds until it was ready."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bbqrec", "serve", str(run), "--port", "0", "--events", str(events)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"answers at http://127\.0\.0\.1:(\d+)", line):
            port = int(found[1])
            # Else its log would fill the pipe, and the server wait for somebody to read it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            asyncio.run(load(port, [request({"histories": [[]]})], 1, 0.0001))
            return process, port, time.perf_counter() - begin
    raise SystemExit("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()
    ids = json.loads((arguments.run / "data" / "ids.json").read_text())
    users, items = ids["users"][:500], ids["items"]
    with tempfile.TemporaryDirectory() as folder:
        process, port, ready_s = start(arguments.run, Path(folder) / "events.sqlite3")
        try:
            health = asyncio.run(load(port, [HEALTH], arguments.connections, arguments.seconds))
            known = [request({"user_ids": [user]}) for user in users]
            asyncio.run(load(port, known, arguments.connections, 3))  # answered once each
            cached = asyncio.run(load(port, known, arguments.connections, arguments.seconds))
            fresh = [never_asked(items, number) for number in range(60_000)]
            alone = asyncio.run(load(port, fresh[:20_000], 1, arguments.seconds))
            model = asyncio.run(load(port, fresh[20_000:], 32, arguments.seconds))
            searches = [
                request({"histories": histories_never_asked(items, -3 - number, 1)})
                for number in range(20_000)
            ]
            full = asyncio.run(load(port, searches, FULL_CONNECTIONS, arguments.seconds))
            many = [
                request({"histories": histories_never_asked(items, number, BATCH)})
                for number in range(2000)
            ]
            batches = asyncio.run(load(port, many, 1, arguments.seconds))
            together = asyncio.run(
                recommended(port, [request({"histories": histories_never_asked(items, -1, BATCH)})])
            )
            one_by_one = [
                request({"histories": [history]})
                for history in histories_never_asked(items, -2, BATCH)
            ]
            is_same = together == asyncio.run(recommended(port, one_by_one))
        finally:
            process.kill()
            process.wait()
    result = {
        "ready_s": round(ready_s, 1),
        "health": health,
        "cached": cached,
        "model, one at a time": alone,
        "model, 32 at once": model,
        f"full searches, {FULL_CONNECTIONS} at once": full,
        f"model, {BATCH} users a request, one at a time": batches,
    }
    print(json.dumps(result, indent=2))
    holds = {
        f"ready in {READY_S:g} s": ready_s <= READY_S,
        f"{HEALTH_PER_S:g} times a second healthy": health["requests_per_s"] >= HEALTH_PER_S,
        f"{CACHED_PER_S:g} cached requests/s": cached["requests_per_s"] >= CACHED_PER_S,
        f"their p99 within {CACHED_P99_MS:g} ms": cached["p99_ms"] <= CACHED_P99_MS,
        f"{MODEL_PER_S:g} users/s of the model": BATCH * batches["requests_per_s"] >= MODEL_PER_S,
        f"{FULL_PER_S:g} full searches/s": full["requests_per_s"] >= FULL_PER_S,
        f"their p99 within {FULL_P99:g} times p50": full["p99_ms"] <= FULL_P99 * full["p50_ms"],
        "many at once get what each gets alone": is_same,
        "nothing fails": not any(
            p["failed"] for p in (health, cached, alone, model, full, batches)
        ),
    }
    for bar, is_met in holds.items():
        print(f"{'met   ' if is_met else 'MISSED'} {bar}")
    sys.exit(not all(holds.values()))


if __name__ == "__main__":
    main()
