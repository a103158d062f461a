"""A tiny run that generates, another version of it, and clients of servers in this process."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from asking import Open
from databases import PostgresServer, postgres_server
from looking import Look, check_none, leave, note
from needs import chromium
from on_socket import on_socket
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.testclient import TestClient
from tiny_run import GENERATES, draw_tiny_shop, tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.pipeline import run_stages
from bbqrec.serving import EventStore, ServeConfig, Service, create_app
from bbqrec.serving.server import uvicorn_settings


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """58 items, 150 users."""
    folder = tmp_path_factory.mktemp("serving")
    shop = draw_tiny_shop(folder / "shop")
    config = tiny_config(**GENERATES)
    run_stages(RunFolder(folder / "run"), config, source=shop, until="train")
    return folder / "run"


@pytest.fixture(scope="session")
def other_version(run: Path) -> Path:
    """The same shop, trained otherwise."""
    other = shutil.copytree(run, run.parent / "other")
    config = tiny_config(**GENERATES, training={"epochs": 1})
    run_stages(RunFolder(other), config, source=None, until="train")
    return other


@pytest.fixture(scope="session")
def evaluated(run: Path) -> Path:
    """The same run, measured."""
    folder = shutil.copytree(run, run.parent / "evaluated")
    config = tiny_config(**GENERATES)
    run_stages(RunFolder(folder), config, source=None, until="evaluate")
    return folder


@pytest.fixture(scope="session")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without pictures that ranks by the dense score."""
    folder = tmp_path_factory.mktemp("wordy")
    shop = draw_tiny_shop(folder / "shop")
    (shop / "images.parquet").unlink()
    run_stages(RunFolder(folder / "run"), tiny_config(), source=shop, until="train")
    return folder / "run"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def opened(run: Path, events: Path) -> Iterator[Open]:
    """Starts servers that end with the test; `.service` of a client is what it talks to."""
    with ExitStack() as stack:

        def open_server(
            run_dir: Path = run, place: Path | str = events, **config: Any
        ) -> TestClient:
            service = Service(run_dir, EventStore(str(place)), ServeConfig(**config))
            client = TestClient(create_app(service), base_url="http://localhost")
            client.service = service  # type: ignore[attr-defined]
            return stack.enter_context(client)

        yield open_server


@pytest.fixture
def start(run: Path, events: Path) -> Iterator[Callable[..., int]]:
    """Starts a server with these settings in a thread; its port."""
    with ExitStack() as stack:

        def start_server(**config: Any) -> int:
            service = Service(run, EventStore(str(events)), ServeConfig(**config))
            server = uvicorn.Server(uvicorn_settings(service))
            listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            listener.setblocking(False)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(20)
                listener.close()
                assert not thread.is_alive()

            stack.callback(stop)
            while not server.started:
                time.sleep(0.01)
            port: int = listener.getsockname()[1]
            return port

        yield start_server


@pytest.fixture
def client(opened: Open) -> TestClient:
    return opened()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser without a window; its own sandbox wants a user who is not root."""
    path = str(chromium())
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that no test changes the catalog of."""
    store = EventStore(str(tmp_path_factory.mktemp("site") / "events.sqlite3"))
    with on_socket(Service(evaluated, store, ServeConfig())) as address:
        yield address


@pytest.fixture
def look(browser: Browser) -> Iterator[Look]:
    """Opens pages of which nothing may leave the server or complain; they close with the test."""
    with ExitStack() as stack:

        def open_page(address: str, *, waits_for: str = "main h1", **context: Any) -> Page:
            opened = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
            stack.callback(opened.close)
            opened.set_default_timeout(15_000)
            page = opened.new_page()
            complaints: list[str] = []
            origin = address.partition("/#")[0]
            stack.callback(lambda: check_none(complaints))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: note(message, complaints))
            page.on("request", lambda request: leave(request.url, origin, complaints))
            page.goto(address)
            page.wait_for_selector(waits_for)
            return page

        yield open_page
