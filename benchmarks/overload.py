"""What four times too many requests do to a server: `python benchmarks/overload.py runs/demo`.

Open loop: requests are sent at their times whether earlier ones were answered or not, as people do.
Measures the capacity first, then what is accepted and what is refused at four times that, then how
soon it is over; exits with 1 when a bar is missed.

Client and server get a core each where there are two, and the client does as little as it can. It
is Python all the same: answers that it read while it was itself late by more than LATE_MS are timed
by its own delay rather than by the server's, so they are counted and left out of the percentiles.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, cast

import uvloop
from serve import load, never_asked, request, start

FACTOR = 4
REFUSED_P99_MS = 50.0
SLOWER = 2.0  # accepted p99 beside that at capacity
RECOVERED_S = 5.0
CONNECTIONS = 600  # of the client; fewer than the server lets in
LATE_MS = 5.0
TICK_S = 0.001


class Answer(NamedTuple):
    """`is_timed` is False where the client was too late itself to say when the answer came."""

    seconds: float
    status: int
    retry_after: bool
    is_timed: bool


class Client:
    """Connections that are kept open, the answers to what they asked, and how late this is."""

    def __init__(self) -> None:
        # The one that has rested longest is next: after 5 s of rest a server closes it.
        self.free: deque[Connection] = deque()
        self.answers: list[Answer] = []
        self.num_open = 0
        self.num_unsent = 0
        self.lates: list[float] = []

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)

    async def open_loop(
        self, messages: list[bytes], per_s: float, seconds: float
    ) -> tuple[list[Answer], int]:
        """The answers to requests sent at even times, and how many found no connection free."""
        self.answers, self.num_unsent, self.lates = [], 0, []
        begin = time.perf_counter()
        number, total = 0, int(per_s * seconds)
        while number < total:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            due = min(total, int((now - begin) * per_s))
            # What is due since the last tick was sent late by the age of the oldest of it.
            self.lates.append(max(0.0, now - begin - number / per_s - TICK_S))
            for place in range(number, due):
                if self.free:
                    self.free.popleft().ask(messages[place % len(messages)])
                else:
                    self.num_unsent += 1
            number = due
        end = time.perf_counter() + 60
        while self.num_open and time.perf_counter() < end:
            await asyncio.sleep(0.01)
        return self.answers, self.num_unsent

    @property
    def is_late(self) -> bool:
        return bool(self.lates) and 1000 * self.lates[-1] > LATE_MS


class Connection(asyncio.Protocol):
    """One request at a time; of an answer only what is counted is looked at."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._missing = 0  # bytes of the answer; 0 before its head was read
        self._head = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.free.append(self)

    def ask(self, message: bytes) -> None:
        self._head, self._missing = b"", 0
        self._client.num_open += 1
        self._sent = time.perf_counter()
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            head = head.lower()
            self._head = head
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self._missing = length - len(body)
        if self._missing <= 0:
            self._finish(int(self._head[9:12]))
            self._client.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._client.free:
            self._client.free.remove(self)
        else:
            self._finish(0)

    def _finish(self, status: int) -> None:
        client = self._client
        client.num_open -= 1
        took = time.perf_counter() - self._sent
        comes_back = b"retry-after" in self._head
        client.answers.append(Answer(took, status, comes_back, not client.is_late))


def p99_ms(answers: list[Answer]) -> float:
    times = sorted(answer.seconds for answer in answers if answer.is_timed)
    return round(1000 * times[int(len(times) * 0.99)], 1) if times else 0.0


async def measure(
    port: int, items: list[str], seconds: float, offered: float | None
) -> dict[str, Any]:
    fresh = [never_asked(items, number) for number in range(200_000)]
    capacity = await load(port, fresh[:50_000], 64, min(seconds, 10))
    rate = capacity["requests_per_s"]
    offered = offered or FACTOR * rate
    client = Client()
    await client.connect(port)
    flood, num_unsent = await client.open_loop(fresh[50_000:], offered, seconds)
    lates = sorted(client.lates)
    over = time.perf_counter()
    recovered = None
    while time.perf_counter() - over < 2 * RECOVERED_S:
        calm, _ = await client.open_loop(fresh[:500], rate / 4, 0.5)
        if all(a.status == 200 for a in calm) and p99_ms(calm) <= capacity["p99_ms"]:
            recovered = round(time.perf_counter() - over, 1)
            break
    accepted = [a for a in flood if a.status == 200]
    refused = [a for a in flood if a.status == 503]
    return {
        "at capacity": capacity,
        "offered_per_s": round(offered),
        "accepted": {"per_s": round(len(accepted) / seconds), "p99_ms": p99_ms(accepted)},
        "refused": {"per_s": round(len(refused) / seconds), "p99_ms": p99_ms(refused)},
        "client": {
            "late_p50_ms": round(1000 * lates[len(lates) // 2], 1),
            "late_p99_ms": round(1000 * lates[int(len(lates) * 0.99)], 1),
            "answers_not_timed": sum(not a.is_timed for a in flood),
        },
        "unsent, since the client was out of connections": num_unsent,
        "failed": len(flood) - len(accepted) - len(refused),
        "refused_without_retry_after": sum(not a.retry_after for a in refused),
        "recovered_s": recovered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--rate", type=float, help=f"requests a second, instead of {FACTOR} times the capacity"
    )
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    items = json.loads((arguments.run / "data" / "ids.json").read_text())["items"]
    with tempfile.TemporaryDirectory() as folder:
        process, port, _ = start(arguments.run, Path(folder) / "events.sqlite3")
        if len(cores) > 1:
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cores[0]})
            os.sched_setaffinity(0, {cores[1]})
        try:
            asyncio.run(load(port, [request({"histories": [[items[0]]]})], 1, 1))  # warm
            result = uvloop.run(measure(port, items, arguments.seconds, arguments.rate))
        finally:
            process.kill()
            process.wait()
    print(json.dumps(result, indent=2))
    slowest = SLOWER * result["at capacity"]["p99_ms"]
    holds = {
        f"accepted within {slowest:g} ms (p99)": result["accepted"]["p99_ms"] <= slowest,
        f"refused within {REFUSED_P99_MS:g} ms (p99)": result["refused"]["p99_ms"]
        <= REFUSED_P99_MS,
        "refusals say when to come back": not result["refused_without_retry_after"],
        "nothing fails otherwise": not result["failed"],
        f"over within {RECOVERED_S:g} s": (result["recovered_s"] or 99) <= RECOVERED_S,
    }
    for bar, is_met in holds.items():
        print(f"{'met   ' if is_met else 'MISSED'} {bar}")
    sys.exit(not all(holds.values()))


if __name__ == "__main__":
    main()
