"""3. Serve and ask: a run behind HTTP, events that count at once, and a new item.

pip install 'bbqrec[serve]'
python examples/3_ask_a_server.py runs/walk
"""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """`bbqrec serve` on a free port; yields its address once it answers."""
    command = [sys.executable, "-m", "bbqrec", "serve", str(run), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if found := re.search(r"http://[\d.]+:\d+", line):
                yield found[0]
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate()


def ask(url: str, body: Any = None, method: str | None = None) -> Any:
    """JSON in, JSON out."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as reply:
        return json.loads(reply.read() or b"null")


def titles(answer: Any) -> str:
    return ", ".join(item["title"] for item in answer["answers"][0]["items"])


def main(run: Path) -> None:
    with serving(run) as url:
        best = {"user_ids": ["somebody new"], "k": 3}
        answer = ask(f"{url}/v1/recommend", best)
        print("to somebody new, popular items:", titles(answer))

        item_id = answer["answers"][0]["items"][0]["item_id"]
        events = [{"user_id": "somebody new", "item_id": item_id}]
        ask(f"{url}/v1/events", {"events": events})
        print(f"after taking {item_id}:", titles(ask(f"{url}/v1/recommend", best)))

        new = {"item_id": "brand-new", "title": "large red teapot"}
        print("a new item gets the codes", ask(f"{url}/v1/items", new)["semantic_id"])
        similar = ask(f"{url}/v1/items/brand-new/similar?k=3")
        print("it is like", ", ".join(item["title"] for item in similar["items"]))
        ask(f"{url}/v1/items/brand-new", method="DELETE")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
