"""What an event store is kept in, an SQLite file or PostgreSQL: of one server at a time, and whole.

Both notice when the world changes under a running server, a file deleted or a database restarted,
and set right what can be set right. Whatever else is wrong is an OSError or SQLAlchemy's error.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from bbqrec.errors import MissingDependencyError, RunBusyError, StorageError

ADVISORY_LOCK = 0x62627172  # "bbqr"
LOCKED_S = 2.0  # how long a write waits for another program that holds the file
NUM_CONNECTIONS = 4  # to a file
OPENS_LOG = "SELECT count(*) FROM sqlite_master"

logger = logging.getLogger(__name__)


class SqliteFile:
    """A file in WAL mode: the latest commits are in a second file, the log, until moved over.

    A server whose log is deleted goes on writing into what nobody will ever read. So all of its
    connections are opened at the start and belong to one log, which is looked for before and after
    every transaction; when it is gone, what it held is moved into the file and a new one is begun.
    """

    insert = staticmethod(sqlite.insert)

    def __init__(self, path: Path) -> None:
        self._path = path
        # The second holds the locks between processes: without it two would overwrite each other.
        self._companions = [path.with_name(path.name + end) for end in ("-wal", "-shm")]
        self._mending = threading.Lock()
        self._lock = _claim_file(path)
        url = sql.URL.create("sqlite", database=str(path))
        self.engine = sql.create_engine(
            url,
            pool_size=NUM_CONNECTIONS,
            max_overflow=0,
            pool_timeout=2 * LOCKED_S,
            connect_args={"timeout": LOCKED_S},
        )
        sql.event.listen(self.engine, "connect", _prepare_connection)
        self._inode = path.stat().st_ino
        self._known: list[int | None] = []

    def open(self) -> None:
        """To be called once before the first transaction."""
        with self._all_connections() as held:
            self._begin_log(held)

    @contextmanager
    def transaction(self) -> Iterator[sql.Connection]:
        """Durable when it is left without an error, whatever was deleted meanwhile."""
        self._ensure()
        with self.engine.begin() as db:
            yield db
        self._ensure()

    def empty_log(self) -> bool:
        """Leave nothing of what was deleted in the log; False while somebody is reading it."""
        with self.engine.connect() as db:
            found = db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        return bool(found[0] == 0)

    def close(self) -> None:
        self.engine.dispose()
        self._lock.close()

    def _ensure(self) -> None:
        if self._path.stat().st_ino != self._inode:
            raise FileNotFoundError
        if self._found() != self._known:
            with self._mending:
                if self._found() != self._known:
                    self._mend()

    def _found(self) -> list[int | None]:
        return [_inode(path) for path in self._companions]

    def _mend(self) -> None:
        with self._all_connections() as held:
            self._save_log(held)
            self._begin_log(held)
        logger.warning("the log of %s was deleted or replaced; nothing was lost", self._path.name)

    @contextmanager
    def _all_connections(self) -> Iterator[list[sql.Connection]]:
        """While they are held nobody else can write, or open another."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.engine.connect()) for _ in range(NUM_CONNECTIONS)]

    def _begin_log(self, held: list[sql.Connection]) -> None:
        """Let all connections belong to one log, also if it is deleted while they open it."""
        for connection in held:  # each may have found another one when it was made
            connection.invalidate()
        for _ in range(NUM_CONNECTIONS):
            held[0].exec_driver_sql(OPENS_LOG)
            found = self._found()
            for connection in held[1:]:
                connection.exec_driver_sql(OPENS_LOG)
            if self._found() == found and None not in found:
                self._known = found
                return
            self._save_log(held)
        raise OSError(0, "its log is deleted again and again")

    def _save_log(self, held: list[sql.Connection]) -> None:
        """Move what the log of the connections holds into the file, and leave that log."""
        if held[0].exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
            raise OSError(0, "its log was deleted and another program reads what it held")
        for connection in held:
            connection.rollback()
            connection.invalidate()
        for path in self._companions:  # a foreign log would be taken for ours
            path.unlink(missing_ok=True)


class Postgres:
    """A database that one server claims by a lock, which lives as long as its connection."""

    insert = staticmethod(postgresql.insert)

    def __init__(self, url: str) -> None:
        self.engine = open_url(url)
        self._claiming = threading.Lock()
        self._claim: sql.Connection | None = None
        try:
            is_ours = self._take()
        except sql.exc.SQLAlchemyError as error:
            self.engine.dispose()
            raise StorageError(f"cannot use the database of --events: {reason(error)}") from None
        if not is_ours:
            self.engine.dispose()
            raise RunBusyError(
                "another server keeps its events in this database; stop it, or give another "
                "--events"
            )

    def open(self) -> None:
        """Nothing to do; see `SqliteFile`."""

    @contextmanager
    def transaction(self) -> Iterator[sql.Connection]:
        """Durable when it is left without an error."""
        self._ensure()
        with self.engine.begin() as db:
            yield db

    def empty_log(self) -> bool:
        return True  # the database's own affair

    def close(self) -> None:
        if self._claim is not None:
            self._claim.close()
        self.engine.dispose()

    def _ensure(self) -> None:
        """The lock is gone when the database was restarted: take it again, unless others have."""
        with self._claiming:
            if self._claim is not None:
                try:
                    self._claim.exec_driver_sql("SELECT 1")
                    return
                except sql.exc.SQLAlchemyError:
                    self._claim.invalidate()
                    self._claim.close()
                    self._claim = None
            if not self._take():
                raise OSError(0, "the database was restarted and another server has claimed it")
            logger.warning("the database of --events was restarted; it is claimed again")

    def _take(self) -> bool:
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        taken = sql.select(sql.func.pg_try_advisory_lock(ADVISORY_LOCK))
        if not connection.execute(taken).scalar_one():
            connection.close()
            return False
        self._claim = connection
        return True


def open_url(url: str) -> sql.Engine:
    """An engine for a postgresql:// URL; StorageError for any other."""
    try:
        parsed = sql.make_url(url)
    except sql.exc.ArgumentError:
        raise StorageError("--events is neither a path nor a postgresql:// URL") from None
    if parsed.get_backend_name() != "postgresql":
        raise StorageError(
            f"events are kept in an SQLite file or in PostgreSQL, not in {parsed.drivername!r}; "
            "give a path or a postgresql:// URL as --events"
        )
    try:
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sql.create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    except ImportError:
        raise MissingDependencyError(
            "PostgreSQL needs psycopg: pip install 'bbqrec[postgres]'"
        ) from None


def reason(error: Exception) -> str:
    """What the database said, without the statement and its values."""
    if isinstance(error, OSError):
        return error.strerror or "its file is gone or was replaced; start the server again"
    original = getattr(error, "orig", None)
    return str(original or type(error).__name__).splitlines()[0][:200]


def _claim_file(path: Path) -> IO[str]:
    """The file is the owner's alone, and of one server at a time: others' caches would lie."""
    lock = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        lock = os.fdopen(descriptor, "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if lock is not None:
            lock.close()
        if isinstance(error, BlockingIOError):
            raise RunBusyError(
                f"another server keeps its events in {path}; stop it, or give another --events"
            ) from None
        raise StorageError(
            f"cannot keep events in {path}: {getattr(error, 'strerror', error)}; give another "
            "place as --events"
        ) from None


def _prepare_connection(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
