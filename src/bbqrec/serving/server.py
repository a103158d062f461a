"""A server from start to end: the socket, the signals, the words at the start."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import uvicorn

from bbqrec.bundle import RunFolder, not_a_run
from bbqrec.errors import BBQRecError, RequestError, StorageError
from bbqrec.serving.app import create_app
from bbqrec.serving.config import ServeConfig
from bbqrec.serving.connections import connections
from bbqrec.serving.service import Service
from bbqrec.serving.store import EventStore

LOOPBACK = ("127.0.0.1", "::1", "localhost")
GRACE_S = 10
# To look through what hundreds of open connections hold takes 25 ms of a slow core, and by Python's
# own thresholds is done every three seconds in a flood: all that wait then wait so much longer.
_THRESHOLDS = (700, 10, 100)
# The loop and the model hand the interpreter to each other of their own accord, thousands of times
# a second; to be made to, as after 5 ms by default, makes both slower where they share a core.
_SWITCH_S = 0.02
FIRST_HANDED_DOWN = 3  # the descriptor, after those of input, output and errors

logger = logging.getLogger(__name__)


def serve(
    run_dir: Path,
    *,
    host: str,
    port: int,
    events: str | None,
    config: ServeConfig,
    say: Callable[[str], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM; SIGHUP reads the run folder again.

    Args:
        host, port: 0 takes any free port; neither counts where a supervisor hands a socket down.
        events: an SQLite file or a postgresql:// URL; None keeps them in the run folder.

    Raises:
        RequestError: open to other machines without a token.
        StorageError: the address or the event store cannot be used.
    """
    handed = _handed_down()
    if handed is not None:
        host = str(handed.getsockname()[0])
    if host not in LOOPBACK and config.token is None:
        raise RequestError(
            f"--host {host} lets other machines in, so a token is needed: set BBQREC_TOKEN to a "
            "long random word, which requests then send as Authorization: Bearer ..."
        )
    torch.set_num_threads(1)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # the rest we say ourselves
    listener = handed if handed is not None else _listen(host, port)
    try:
        if events is None:
            events = str(run_dir / "serving" / "events.sqlite3")
        service = _load(run_dir, events, config)
    except BaseException:
        listener.close()
        raise
    # What was loaded stays: to look through all of it for garbage, over and over, would stop
    # every answer for a fifth of a second each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_S)
    settings = uvicorn_settings(service)
    server = uvicorn.Server(settings)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    where = events if "://" not in events else "PostgreSQL"
    dataset = service.version.recommender.dataset

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: tasks.add(asyncio.create_task(_reload(service)))
        )
        say(
            f"version {service.version.name} of {run_dir} answers at {address} "
            f"({dataset.num_items:,} items, {dataset.num_users:,} users)"
        )
        say(f"  what it can be asked: {address}/docs   its events: {where}")
        await server.serve(sockets=[listener])

    tasks: set[asyncio.Task[None]] = set()
    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(run())


def uvicorn_settings(service: Service) -> uvicorn.Config:
    """How uvicorn serves: it parses and writes, all else is ours."""
    return uvicorn.Config(
        create_app(service),
        http=connections(service.config, service.admission, service.metrics),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        backlog=1024,
    )


async def _reload(service: Service) -> None:
    try:
        await service.reload()
    except BBQRecError as error:
        logger.error("%s", error)


def _load(run_dir: Path, events: str, config: ServeConfig) -> Service:
    if not run_dir.is_dir():  # else the store would make it one
        raise StorageError(not_a_run(run_dir))
    RunFolder(run_dir).manifest("train")  # before the store puts its file into it
    store = EventStore(events)
    try:
        return Service(run_dir, store, config)
    except BaseException:
        store.close()
        raise


def _handed_down() -> socket.socket | None:
    """The socket that systemd, or another supervisor, opened for this process (sd_listen_fds).

    It outlives the process: who asks while a killed server is started again waits, and is answered.
    """
    is_ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    if not is_ours or os.environ.get("LISTEN_FDS") != "1":
        return None
    listener = socket.socket(fileno=FIRST_HANDED_DOWN)
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        raise StorageError("the socket that was handed down is not one of TCP; use ListenStream=")
    listener.setblocking(False)
    return listener


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
        listener.setblocking(False)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from None


def tokens() -> tuple[str | None, str | None]:
    """BBQREC_TOKEN and BBQREC_ADMIN_TOKEN: not options, which every user of a machine can list."""
    return os.environ.get("BBQREC_TOKEN") or None, os.environ.get("BBQREC_ADMIN_TOKEN") or None
