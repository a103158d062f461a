"""Does a server keep what it should let go? `python benchmarks/soak.py runs/demo`.

Asks and writes events all the time, reloads the run once a minute, and reads the server's memory
and open files from /proc; exits with 1 when either grows.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serve import load, never_asked, request, start

WARM_UP_S = 120.0
MAX_GROWTH = 0.05  # of resident memory after the warm-up
MAX_MORE_FILES = 5
EVERY_S = 5.0
EVENT = (
    "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    "content-length: %d\r\n\r\n"
)
RELOAD = (
    b"POST /v1/admin/reload HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer soak\r\n"
    b"content-length: 0\r\n\r\n"
)


def event(items: list[str], number: int) -> bytes:
    item_id = items[number % len(items)]
    content = json.dumps({"events": [{"user_id": f"soak {number % 500}", "item_id": item_id}]})
    return (EVENT % len(content)).encode() + content.encode()


def resources(pid: int) -> tuple[float, int]:
    """Resident MiB and open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = int(status.partition("VmRSS:")[2].split()[0])
    return kib / 1024, len(os.listdir(f"/proc/{pid}/fd"))


async def soak(pid: int, port: int, items: list[str], minutes: float) -> dict[str, Any]:
    end = time.perf_counter() + 60 * minutes
    samples: list[tuple[float, float, int]] = []
    parts: list[dict[str, Any]] = []

    async def watch() -> None:
        begin = time.perf_counter()
        while time.perf_counter() < end:
            samples.append((time.perf_counter() - begin, *resources(pid)))
            await asyncio.sleep(EVERY_S)

    async def keep_on(messages: list[bytes], connections: int) -> None:
        parts.append(await load(port, messages, connections, 60 * minutes))

    async def swap() -> None:
        while time.perf_counter() + 60 < end:
            await asyncio.sleep(60)
            parts.append(await load(port, [RELOAD], 1, 0.0))

    explained = [
        request({"histories": [[items[n % len(items)]] * 3], "k": 2, "explain": True})
        for n in range(500)
    ]
    await asyncio.gather(
        watch(),
        swap(),
        keep_on([never_asked(items, number) for number in range(100_000)], 4),
        keep_on([request({"user_ids": [f"soak {number}"]}) for number in range(500)], 2),
        keep_on([event(items, number) for number in range(100_000)], 1),
        keep_on(explained, 1),
    )
    later = [sample for sample in samples if sample[0] >= min(WARM_UP_S, 60 * minutes / 4)]
    half = len(later) // 2
    before, after = (max(s[1] for s in part) for part in (later[:half], later[half:]))
    return {
        "requests_per_s": sum(part["requests_per_s"] for part in parts[-4:]),
        "failed": sum(part["failed"] for part in parts),
        "refused": sum(part["refused"] for part in parts),
        "resident_mib": [round(s[1]) for s in samples[:: max(1, len(samples) // 20)]],
        "growth": round(after / before - 1, 4),
        "open_files": [s[2] for s in samples[:: max(1, len(samples) // 20)]],
        "more_files": max(s[2] for s in later[half:]) - max(s[2] for s in later[:half]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    items = json.loads((arguments.run / "data" / "ids.json").read_text())["items"]
    os.environ["BBQREC_ADMIN_TOKEN"] = "soak"
    with tempfile.TemporaryDirectory() as folder:
        process, port, _ = start(arguments.run, Path(folder) / "events.sqlite3")
        try:
            result = asyncio.run(soak(process.pid, port, items, arguments.minutes))
        finally:
            process.kill()
            process.wait()
    print(json.dumps(result, indent=2))
    holds = {
        f"memory grows by less than {MAX_GROWTH:.0%}": result["growth"] < MAX_GROWTH,
        "no more files are open": result["more_files"] <= MAX_MORE_FILES,
        "nothing fails": not result["failed"],
    }
    for bar, is_met in holds.items():
        print(f"{'met   ' if is_met else 'MISSED'} {bar}")
    sys.exit(not all(holds.values()))


if __name__ == "__main__":
    main()
