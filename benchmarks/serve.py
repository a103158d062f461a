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
CACHED_PER_S = 800.0
CACHED_P99_MS = 50.0
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


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
) -> tuple[int, float]:
    """Status and seconds of one request."""
    start = time.perf_counter()
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    await reader.readexactly(int(length[1]))
    return int(head[9:12]), time.perf_counter() - start


async def load(port: int, messages: list[bytes], connections: int, seconds: float) -> Any:
    """Requests per second, percentiles in ms and the statuses, in a closed loop."""
    end = time.perf_counter() + seconds
    answers: list[tuple[int, float]] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while turn == number or time.perf_counter() < end:
            answers.append(await ask(reader, writer, messages[turn % len(messages)]))
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
            known = [request({"user_ids": [user]}) for user in users]
            asyncio.run(load(port, known, arguments.connections, 3))  # answered once each
            cached = asyncio.run(load(port, known, arguments.connections, arguments.seconds))
            fresh = [never_asked(items, number) for number in range(60_000)]
            alone = asyncio.run(load(port, fresh[:20_000], 1, arguments.seconds))
            model = asyncio.run(load(port, fresh[20_000:], 32, arguments.seconds))
        finally:
            process.kill()
            process.wait()
    result = {
        "ready_s": round(ready_s, 1),
        "cached": cached,
        "model, one at a time": alone,
        "model, 32 at once": model,
    }
    print(json.dumps(result, indent=2))
    holds = {
        f"ready in {READY_S:g} s": ready_s <= READY_S,
        f"{CACHED_PER_S:g} cached requests/s": cached["requests_per_s"] >= CACHED_PER_S,
        f"their p99 within {CACHED_P99_MS:g} ms": cached["p99_ms"] <= CACHED_P99_MS,
        "nothing fails": not any(part["failed"] for part in (cached, alone, model)),
    }
    for bar, is_met in holds.items():
        print(f"{'met   ' if is_met else 'MISSED'} {bar}")
    sys.exit(not all(holds.values()))


if __name__ == "__main__":
    main()
