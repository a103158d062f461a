"""A shop with nearly everything wrong that need not end a job, and the run made of it."""

import csv
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import NUM_ITEMS, answer, item_name
from PIL import Image
from tiny_run import tiny_config

from bbqrec.config import as_toml
from bbqrec.storage import write_json


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shop.csv, pictures beside it, and nearly everything wrong that need not end a job."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "pics").mkdir()
    draw = random.Random(0)
    for item in range(NUM_ITEMS):
        color = tuple(draw.randrange(256) for _ in range(3))
        picture = Image.new("RGB", (24, 24), color)
        picture.paste("white", (0, 0, draw.randrange(24), 12))
        picture.save(folder / "pics" / f"p{item}.png")
    whole = (folder / "pics" / "p0.png").read_bytes()
    (folder / "pics" / "p0.png").write_bytes(whole[:60])
    (folder / "pics" / "p1.png").write_text("<html>404</html>")
    (folder / "pics" / "p2.png").unlink()
    Image.new("1", (20_000, 20_000)).save(folder / "pics" / "p3.png")  # decodes to 400 megapixels
    (folder / "pics" / "p4.png").write_bytes(b"")
    (folder / "secret.png").write_bytes(whole)

    def row(user: int, item: int) -> list[Any]:
        path = {6: "https://example.org/p6.png", 7: "../../secret.png"}.get(
            item, f"pics/p{item}.png"
        )
        title = (
            ""
            if item == 2
            else f"{'[/x]' if item == 8 else ''}{('red', 'blue', 'green')[item % 3]} thing {item}"
        )
        return [f"u{user}", item_name(item), 1_600_000_000 + draw.randrange(10**6), title, path]

    rows = [row(user, draw.randrange(NUM_ITEMS)) for user in range(80) for _ in range(6)]
    rows += [row(100, 8), row(101, 9), row(101, 10)]  # too short for validation and test
    draw.shuffle(rows)
    with (folder / "shop.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp", "title", "image"])
        writer.writerows([*rows, *rows[:5]])
        file.write("u1,i9,yesterday,red thing 9,pics/p9.png\n")
        file.write("u1,i9\n")
    (folder / "tiny.toml").write_text(as_toml(tiny_config()))
    return folder


@pytest.fixture(scope="session")
def finished(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `shop`, made by one command; its JSON is kept beside it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    metrics = answer("run", shop / "tiny.toml", "--data", shop / "shop.csv", "--out", run)
    write_json(run.parent / "printed.json", metrics)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")
