"""Databases to keep events in, and what can happen to them."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from needs import lacking

from bbqrec.serving import EventStore
from bbqrec.serving.database import NUM_CONNECTIONS


class PostgresServer:
    """A fresh server that listens on a socket in its folder alone."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        self.url = f"postgresql://bbqrec@/postgres?host={folder}"
        data = str(folder / "data")
        self._call("initdb", "-D", data, "-A", "trust", "-U", "bbqrec", "--no-sync")
        self.start()

    def start(self) -> None:
        # Its output to a file, or `capture_output` waits for ever.
        options = f"-k {self._folder} -c listen_addresses='' -F"
        self._control("-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")

    def _control(self, *arguments: str) -> None:
        self._call("pg_ctl", "-D", str(self._folder / "data"), "-w", *arguments)

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        where = {"user": self._user, "cwd": self._folder}
        subprocess.run(command, check=True, capture_output=True, timeout=60, **where)  # type: ignore[call-overload]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """It refuses to run as root, so then it runs as its own user."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        lacking("PostgreSQL is not installed (Debian: apt install postgresql)")
    user = None
    if os.getuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            lacking("there is no user postgres to run PostgreSQL as")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if user is not None:
        shutil.chown(folder, user)
    server = PostgresServer(found[-1].parent, folder, user)
    yield server
    server.stop()
    shutil.rmtree(folder)


def for_all_connections(store: EventStore, pragma: str) -> None:
    """What SQLite keeps for a connection, for every one that the store has."""
    with ExitStack() as stack:
        for _ in range(NUM_CONNECTIONS):
            stack.enter_context(store._database.engine.connect()).exec_driver_sql(pragma)


def killed_now(place: Path, folder: Path) -> str:
    """The store as a restart would find it if its server were killed at this moment."""
    folder.mkdir()
    for path in place.parent.glob(place.name + "*"):
        if not path.name.endswith((".lock", "-shm")):
            shutil.copy(path, folder)
    return str(folder / place.name)
