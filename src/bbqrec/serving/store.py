"""What a server must not forget: events, posted items, withdrawals, users who want to be forgotten.

SQLite in WAL mode, or any PostgreSQL; every method is one transaction, durable when it returns.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from bbqrec.data import Collected, Event, PostedItem, hash_user
from bbqrec.errors import ConflictError, MissingDependencyError, RunBusyError, StorageError

__all__ = ["Event", "EventStore", "PostedItem", "hash_user", "read_collected"]

FORMAT_VERSION = 1
MAX_HISTORY = 10_000
KEY_LIFETIME_S = 30 * 86_400
ADVISORY_LOCK = 0x62627172  # "bbqr"
LOCKED_S = 2.0  # how long a write waits for another program that holds the file

TABLES = sql.MetaData()
EVENTS = sql.Table(
    "events",
    TABLES,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("user_id", sql.Text, nullable=False),
    sql.Column("item_id", sql.Text, nullable=False),
    sql.Column("time", sql.Double, nullable=False),
    sql.Index("events_by_user", "user_id", "time", "number"),
)
KEYS = sql.Table(
    "idempotency_keys",
    TABLES,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("time", sql.Double, nullable=False),
)
ITEMS = sql.Table(
    "items",
    TABLES,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("item_id", sql.Text, nullable=False, unique=True),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("text", sql.Text),
    sql.Column("image", sql.LargeBinary),
)
WITHDRAWN = sql.Table("withdrawn", TABLES, sql.Column("item_id", sql.Text, primary_key=True))
RESTORED = sql.Table("restored", TABLES, sql.Column("item_id", sql.Text, primary_key=True))
FORGOTTEN = sql.Table("forgotten", TABLES, sql.Column("user_hash", sql.Text, primary_key=True))
ABOUT = sql.Table(
    "about",
    TABLES,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)


class EventStore:
    """Opened once by one server; StorageError whenever the database cannot do what is asked."""

    def __init__(self, place: str) -> None:
        """
        Args:
            place: the path of an SQLite file, made if need be, or a postgresql:// URL.
        """
        self._inode: int | None = None
        self._lock: IO[str] | None = None
        self._engine: sql.Engine | None = None
        self._claim: sql.Connection | None = None
        self.path = None if "://" in place else Path(place)
        dialect: Any = sqlite if self.path is not None else postgresql
        self._insert: Callable[..., Any] = dialect.insert
        try:
            if self.path is not None:
                self._lock = _claim_file(self.path)
                self._engine = _open_file(self.path)
            else:
                self._engine = _open_url(place)
                self._claim = self._claim_database(self._engine)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _claim_database(self, engine: sql.Engine) -> sql.Connection:
        """As for a file; the lock ends with its connection."""
        try:
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            taken = sql.select(sql.func.pg_try_advisory_lock(ADVISORY_LOCK))
            if connection.execute(taken).scalar_one():
                return connection
            connection.close()
        except sql.exc.SQLAlchemyError as error:
            raise StorageError(f"cannot use the database of --events: {_reason(error)}") from None
        raise RunBusyError(
            "another server keeps its events in this database; stop it, or give another --events"
        )

    def _prepare(self) -> None:
        with self._transaction(checks_file=False) as db:
            TABLES.create_all(db)
            self._add(db, ABOUT, name="format_version", value=str(FORMAT_VERSION))
            found = db.execute(sql.select(ABOUT.c.value)).scalar_one()
            if found != str(FORMAT_VERSION):
                raise StorageError(
                    f"the event store has format {found}, this version reads {FORMAT_VERSION}; "
                    "give another place as --events"
                )
            db.execute(sql.delete(KEYS).where(KEYS.c.time < time.time() - KEY_LIFETIME_S))
        if self.path is not None:
            self._inode = self.path.stat().st_ino

    @contextmanager
    def _transaction(self, *, checks_file: bool = True) -> Iterator[sql.Connection]:
        try:
            if checks_file and self.path is not None and self.path.stat().st_ino != self._inode:
                raise FileNotFoundError
            assert self._engine is not None
            with self._engine.begin() as db:
                yield db
        except (sql.exc.SQLAlchemyError, OSError) as error:
            raise StorageError(f"the event store cannot be used now: {_reason(error)}") from None

    def _add(self, db: sql.Connection, table: sql.Table, **values: Any) -> bool:
        """Whether the row was new."""
        insert = self._insert(table).values(**values).on_conflict_do_nothing()
        # Not by `rowcount`, which PostgreSQL's driver does not tell.
        return db.execute(insert.returning(*table.primary_key)).first() is not None

    def append(self, events: Sequence[Event], key: str | None = None, digest: str = "") -> bool:
        """Add events; False if that was done before under the same key.

        Args:
            digest: of the request that brought the events, to tell a repetition from a mistake.

        Raises:
            ConflictError: the key came with another request before.
        """
        with self._transaction() as db:
            if key is not None and not self._add(
                db, KEYS, key=key, digest=digest, time=time.time()
            ):
                kept = sql.select(KEYS.c.digest).where(KEYS.c.key == key)
                if db.execute(kept).scalar_one() != digest:
                    raise ConflictError("this Idempotency-Key came with other events before")
                return False
            db.execute(sql.insert(EVENTS), [event._asdict() for event in events])
        return True

    def events_of(self, user_ids: Sequence[str]) -> list[list[Event]]:
        """Each user's latest events in order of time, equal times in order of arrival."""
        columns = (EVENTS.c.user_id, EVENTS.c.item_id, EVENTS.c.time)
        newest = (EVENTS.c.time.desc(), EVENTS.c.number.desc())
        result = []
        with self._transaction() as db:
            for user_id in user_ids:
                of_user = sql.select(*columns).where(EVENTS.c.user_id == user_id)
                rows = db.execute(of_user.order_by(*newest).limit(MAX_HISTORY)).all()
                result.append([Event(*row) for row in reversed(rows)])
        return result

    def forget(self, user_id: str) -> None:
        """Delete a user's events; what the run knows of the user is not used any more either."""
        with self._transaction() as db:
            db.execute(sql.delete(EVENTS).where(EVENTS.c.user_id == user_id))
            self._add(db, FORGOTTEN, user_hash=hash_user(user_id))
        if self.path is not None:
            with self._transaction() as db:  # the log still holds the deleted pages
                db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def forgotten(self) -> set[str]:
        """Users, by `hash_user`, of whom nothing older than their deletion may be used."""
        with self._transaction() as db:
            return set(db.execute(sql.select(FORGOTTEN.c.user_hash)).scalars())

    def items(self) -> Iterator[PostedItem]:
        """Posted items in order of arrival, withdrawn ones too: later IDs depend on them."""
        rows = sql.select(ITEMS.c.item_id, ITEMS.c.title, ITEMS.c.text, ITEMS.c.image)
        with self._transaction() as db:
            for row in db.execute(rows.order_by(ITEMS.c.number)):
                yield PostedItem(*row)

    def picture(self, item_id: str) -> bytes | None:
        """The image file that a posted item came with."""
        with self._transaction() as db:
            image = sql.select(ITEMS.c.image).where(ITEMS.c.item_id == item_id)
            return db.execute(image).scalar_one_or_none()

    def add_item(self, item: PostedItem) -> None:
        """Keep a posted item; ConflictError when its id is taken."""
        with self._transaction() as db:
            if not self._add(db, ITEMS, **item._asdict()):
                raise ConflictError("an item of this id was posted before")

    def withdrawn(self) -> set[str]:
        """Ids that must never be recommended."""
        with self._transaction() as db:
            return set(db.execute(sql.select(WITHDRAWN.c.item_id)).scalars())

    def restored(self) -> set[str]:
        """Ids that may be recommended whatever the run says of them."""
        with self._transaction() as db:
            return set(db.execute(sql.select(RESTORED.c.item_id)).scalars())

    def withdraw(self, item_id: str) -> None:
        with self._transaction() as db:
            db.execute(sql.delete(RESTORED).where(RESTORED.c.item_id == item_id))
            self._add(db, WITHDRAWN, item_id=item_id)

    def restore(self, item_id: str) -> None:
        """Undo `withdraw`, also where the run itself was updated in between."""
        with self._transaction() as db:
            db.execute(sql.delete(WITHDRAWN).where(WITHDRAWN.c.item_id == item_id))
            self._add(db, RESTORED, item_id=item_id)

    def close(self) -> None:
        """Let another server have it."""
        if self._claim is not None:
            self._claim.close()
        if self._engine is not None:
            self._engine.dispose()
        if self._lock is not None:
            self._lock.close()


def read_collected(place: str) -> Collected:
    """Everything in an event store at one moment, while a server may go on writing into it.

    Nothing is changed, and no lock is taken that a server would need.

    Args:
        place: the path of an SQLite file, or a postgresql:// URL.

    Raises:
        StorageError: there is no store, or it is not one of ours.
    """
    engine: sql.Engine
    if "://" in place:
        engine = _open_url(place).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    elif not Path(place).is_file():
        raise StorageError(f"there is no event store at {place}; `bbqrec serve` keeps one")
    else:
        path = quote(str(Path(place).resolve()))
        engine = sql.create_engine(
            f"sqlite:///file:{path}?mode=ro&uri=true", connect_args={"timeout": LOCKED_S}
        )
    shown = "the database of --events" if "://" in place else place
    try:
        with engine.connect() as db:
            if engine.dialect.name == "sqlite":
                db.exec_driver_sql("BEGIN")  # one snapshot for all that follows
            there = set(sql.inspect(db).get_table_names())
            if not {table.name for table in (EVENTS, ITEMS, WITHDRAWN, FORGOTTEN)} <= there:
                raise StorageError(f"{shown} holds no events of bbqrec; give what a server keeps")
            found = db.execute(sql.select(ABOUT.c.value)).scalar_one()
            if found != str(FORMAT_VERSION):
                raise StorageError(
                    f"{shown} has format {found}, this version reads {FORMAT_VERSION}"
                )
            events = sql.select(EVENTS.c.user_id, EVENTS.c.item_id, EVENTS.c.time)
            items = sql.select(ITEMS.c.item_id, ITEMS.c.title, ITEMS.c.text, ITEMS.c.image)

            def ids(column: sql.Column[str]) -> frozenset[str]:
                is_there = column.table.name in there
                return frozenset(db.execute(sql.select(column)).scalars() if is_there else ())

            return Collected(
                [Event(*row) for row in db.execute(events.order_by(EVENTS.c.number))],
                [PostedItem(*row) for row in db.execute(items.order_by(ITEMS.c.number))],
                ids(WITHDRAWN.c.item_id),
                ids(RESTORED.c.item_id),
                ids(FORGOTTEN.c.user_hash),
            )
    except sql.exc.SQLAlchemyError as error:
        raise StorageError(f"{shown} cannot be read: {_reason(error)}") from None
    finally:
        engine.dispose()


def _claim_file(path: Path) -> IO[str]:
    """The file is the owner's alone, and of one server at a time: others' caches would lie."""
    lock = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        lock = path.with_name(path.name + ".lock").open("w")
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


def _open_file(path: Path) -> sql.Engine:
    url = sql.URL.create("sqlite", database=str(path))
    engine = sql.create_engine(url, connect_args={"timeout": LOCKED_S})

    def prepare(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    sql.event.listen(engine, "connect", prepare)
    return engine


def _open_url(url: str) -> sql.Engine:
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


def _reason(error: Exception) -> str:
    """What the database said, without the statement and its values."""
    if isinstance(error, OSError):
        return error.strerror or "its file is gone or was replaced; start the server again"
    original = getattr(error, "orig", None)
    return str(original or type(error).__name__).splitlines()[0][:200]
