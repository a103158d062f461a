"""What four times too many requests do to a server: `python benchmarks/overload.py runs/demo`.

Open loop: requests are sent at their times whether earlier ones were answered or not, as people do.
Measures the capacity first, then what is accepted and what is refused at four times that, then how
soon it is over; exits with 1 when a bar is missed. The client shares the machine with the server.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from serve import load, never_asked, request, start

FACTOR = 4
REFUSED_P99_MS = 50.0
SLOWER = 2.0  # accepted p99 beside that at capacity
RECOVERED_S = 5.0
CONNECTIONS = 600  # of the client; the server waits for at most 256 histories


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer(NamedTuple):
    seconds: float
    status: int
    retry_after: bool


async def connect(port: int) -> list[Connection]:
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]


async def send(connection: Connection, message: bytes) -> Answer:
    sent = time.perf_counter()
    reader, writer = connection
    status, comes_back = 0, False
    try:
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        status, comes_back = int(head[9:12]), b"retry-after" in head
    except (OSError, asyncio.IncompleteReadError):
        pass
    return Answer(time.perf_counter() - sent, status, comes_back)


async def open_loop(
    free: list[Connection], messages: list[bytes], per_s: float, seconds: float
) -> tuple[list[Answer], int]:
    """The answers to requests sent at even times, and how many found no connection free."""
    answers: list[Answer] = []
    num_unsent = 0

    async def one(connection: Connection, message: bytes) -> None:
        answers.append(await send(connection, message))
        free.append(connection)

    tasks = set()
    begin = time.perf_counter()
    for number in range(int(per_s * seconds)):
        wait = begin + number / per_s - time.perf_counter()
        if wait > 0 or number % 20 == 0:  # else the answers would never be read
            await asyncio.sleep(max(0.0, wait))
        if not free:
            num_unsent += 1
            continue
        task = asyncio.create_task(one(free.pop(), messages[number % len(messages)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if not number % 5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return answers, num_unsent


def p99_ms(answers: list[Answer]) -> float:
    times = sorted(answer.seconds for answer in answers)
    return round(1000 * times[int(len(times) * 0.99)], 1) if times else 0.0


async def measure(port: int, items: list[str], seconds: float) -> dict[str, Any]:
    fresh = [never_asked(items, number) for number in range(200_000)]
    capacity = await load(port, fresh[:50_000], 64, min(seconds, 10))
    rate = capacity["requests_per_s"]
    free = await connect(port)
    flood, num_unsent = await open_loop(free, fresh[50_000:], FACTOR * rate, seconds)
    over = time.perf_counter()
    recovered = None
    while time.perf_counter() - over < 2 * RECOVERED_S:
        calm, _ = await open_loop(free, fresh[:500], rate / 4, 0.5)
        if all(a.status == 200 for a in calm) and p99_ms(calm) <= capacity["p99_ms"]:
            recovered = round(time.perf_counter() - over, 1)
            break
    accepted = [a for a in flood if a.status == 200]
    refused = [a for a in flood if a.status == 503]
    return {
        "at capacity": capacity,
        "offered_per_s": round(FACTOR * rate),
        "accepted": {"per_s": round(len(accepted) / seconds), "p99_ms": p99_ms(accepted)},
        "refused": {"per_s": round(len(refused) / seconds), "p99_ms": p99_ms(refused)},
        "unsent, since the client was out of connections": num_unsent,
        "failed": len(flood) - len(accepted) - len(refused),
        "refused_without_retry_after": sum(not a.retry_after for a in refused),
        "recovered_s": recovered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    items = json.loads((arguments.run / "data" / "ids.json").read_text())["items"]
    with tempfile.TemporaryDirectory() as folder:
        process, port, _ = start(arguments.run, Path(folder) / "events.sqlite3")
        try:
            asyncio.run(load(port, [request({"histories": [[items[0]]]})], 1, 1))  # warm
            result = asyncio.run(measure(port, items, arguments.seconds))
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
