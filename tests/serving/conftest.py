"""A tiny run that generates, another version of it, and clients of servers in this process."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from asking import Open
from starlette.testclient import TestClient
from tiny_run import draw_tiny_shop, tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.pipeline import run_stages
from bbqrec.serving import EventStore, ServeConfig, Service, create_app


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """58 items, 150 users."""
    folder = tmp_path_factory.mktemp("serving")
    shop = draw_tiny_shop(folder / "shop")
    config = tiny_config(ranking={"rank_by": "generative", "beam_width": 20})
    run_stages(RunFolder(folder / "run"), config, source=shop, until="train")
    return folder / "run"


@pytest.fixture(scope="session")
def other_version(run: Path) -> Path:
    """The same shop, trained otherwise."""
    other = shutil.copytree(run, run.parent / "other")
    config = tiny_config(
        ranking={"rank_by": "generative", "beam_width": 20}, training={"epochs": 1}
    )
    run_stages(RunFolder(other), config, source=None, until="train")
    return other


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
def opened(run: Path, events: Path) -> Iterator[Open]:
    """Starts servers that end with the test; `.service` of a client is what it talks to."""
    with ExitStack() as stack:

        def open_server(run_dir: Path = run, place: Path = events, **config: Any) -> TestClient:
            service = Service(run_dir, EventStore(str(place)), ServeConfig(**config))
            client = TestClient(create_app(service), base_url="http://localhost")
            client.service = service  # type: ignore[attr-defined]
            return stack.enter_context(client)

        yield open_server


@pytest.fixture
def client(opened: Open) -> TestClient:
    return opened()
