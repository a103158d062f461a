"""What a server must not forget: events, posted items, withdrawals, users who want to be forgotten.

SQLite in WAL mode, or any PostgreSQL; every method is one transaction, durable when it returns.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sql

from bbqrec.data import Collected, Event, PostedItem, hash_user
from bbqrec.errors import ConflictError, StorageError
from bbqrec.serving.database import LOCKED_S, Postgres, SqliteFile, open_url, reason
from bbqrec.serving.tables import (
    ABOUT,
    EVENTS,
    FORGOTTEN,
    FORMAT_VERSION,
    ITEMS,
    KEYS,
    RESTORED,
    TABLES,
    WITHDRAWN,
    about,
)

__all__ = [
    "Event",
    "EventStore",
    "PostedItem",
    "hash_user",
    "read_collected",
    "read_forgotten",
]

MAX_HISTORY = 10_000
KEY_LIFETIME_S = 30 * 86_400
ITEMS_AT_ONCE = 16  # each may have a picture of megabytes


class EventStore:
    """Opened once by one server; StorageError whenever the database cannot do what is asked.

    What locks cannot keep out, since they were lost, is told by the owner that the store names: it
    is read in every transaction, and whoever finds another one there changes nothing any more.
    """

    def __init__(self, place: str) -> None:
        """
        Args:
            place: the path of an SQLite file, made if need be, or a postgresql:// URL.
        """
        self._owner = uuid.uuid4().hex
        self.identity = ""
        self._holds_deleted = False
        self._database = Postgres(place) if "://" in place else SqliteFile(Path(place))
        self._insert: Callable[..., Any] = self._database.insert
        try:
            with self._errors_told():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._database.open()
        with self._database.transaction() as db:
            TABLES.create_all(db)
            self._add(db, ABOUT, name="identity", value=uuid.uuid4().hex)
            self.identity = db.execute(about("identity")).scalar_one()
            self._add(db, ABOUT, name="format_version", value=str(FORMAT_VERSION))
            found = db.execute(about("format_version")).scalar_one()
            if found != str(FORMAT_VERSION):
                raise StorageError(
                    f"the event store has format {found}, this version reads {FORMAT_VERSION}; "
                    "give another place as --events"
                )
            self._set(db, "owner", self._owner)
            db.execute(sql.delete(KEYS).where(KEYS.c.time < time.time() - KEY_LIFETIME_S))

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except (sql.exc.SQLAlchemyError, OSError) as error:
            raise StorageError(f"the event store cannot be used now: {reason(error)}") from None

    @contextmanager
    def _reading(self, *, writes: bool = False) -> Iterator[sql.Connection]:
        owner = about("owner")
        if writes:
            # In PostgreSQL nobody can become the owner before this is over, and no later number
            # be there before an earlier one, which an update would then never read.
            owner = owner.with_for_update()
        with self._errors_told(), self._database.transaction() as db:
            if db.execute(owner).scalar_one_or_none() != self._owner:
                raise StorageError("another server has used the event store; start this one again")
            yield db

    def _writing(self) -> AbstractContextManager[sql.Connection]:
        return self._reading(writes=True)

    def _add(self, db: sql.Connection, table: sql.Table, **values: Any) -> bool:
        """Whether the row was new."""
        insert = self._insert(table).values(**values).on_conflict_do_nothing()
        # Not by `rowcount`, which PostgreSQL's driver does not tell.
        return db.execute(insert.returning(*table.primary_key)).first() is not None

    def _set(self, db: sql.Connection, name: str, value: str, *, only_more: bool = False) -> None:
        insert = self._insert(ABOUT).values(name=name, value=value)
        is_more = sql.cast(ABOUT.c.value, sql.Double) < float(value) if only_more else None
        db.execute(
            insert.on_conflict_do_update(
                index_elements=["name"], set_={"value": value}, where=is_more
            )
        )

    def check(self) -> None:
        """Notice what was done to the database before a request does, and mend what can be."""
        with self._reading():
            pass
        if self._holds_deleted:
            self._empty_log()

    def _empty_log(self) -> None:
        with self._errors_told():
            self._holds_deleted = not self._database.empty_log()

    def append(
        self,
        events: Sequence[Event],
        key: str | None = None,
        digest: str = "",
        *,
        given_time: float | None = None,
    ) -> bool:
        """Add events; False if that was done before under the same key.

        Args:
            digest: of the request that brought the events, to tell a repetition from a mistake.
            given_time: what the server's clock said, where it is the time of one of them.

        Raises:
            ConflictError: the key came with another request before.
        """
        with self._writing() as db:
            if key is not None and not self._add(
                db, KEYS, key=key, digest=digest, time=time.time()
            ):
                kept = sql.select(KEYS.c.digest).where(KEYS.c.key == key)
                if db.execute(kept).scalar_one() != digest:
                    raise ConflictError("this Idempotency-Key came with other events before")
                return False
            db.execute(sql.insert(EVENTS), [event._asdict() for event in events])
            if given_time is not None:
                self._set(db, "latest_time", str(given_time), only_more=True)
        return True

    def latest_time(self) -> float:
        """The latest time that a server gave to an event; 0 if none did."""
        with self._reading() as db:
            return float(db.execute(about("latest_time")).scalar_one_or_none() or 0)

    def events_of(
        self, user_ids: Sequence[str], after: Sequence[int] | None = None
    ) -> list[list[Event]]:
        """Each user's latest events in order of time, equal times in order of arrival.

        Args:
            after: for each user the number of the event to begin behind; None: all.
        """
        columns = (EVENTS.c.user_id, EVENTS.c.item_id, EVENTS.c.time)
        newest = (EVENTS.c.time.desc(), EVENTS.c.number.desc())
        result = []
        with self._reading() as db:
            for user_id, number in zip(user_ids, after or [0] * len(user_ids), strict=True):
                of_user = sql.select(*columns).where(EVENTS.c.user_id == user_id)
                of_user = of_user.where(EVENTS.c.number > number)
                rows = db.execute(of_user.order_by(*newest).limit(MAX_HISTORY)).all()
                result.append([Event(*row) for row in reversed(rows)])
        return result

    def forget(self, user_id: str) -> None:
        """Delete a user's events; what the run knows of the user is not used any more either."""
        with self._writing() as db:
            db.execute(sql.delete(EVENTS).where(EVENTS.c.user_id == user_id))
            self._add(db, FORGOTTEN, user_hash=hash_user(user_id))
        self._holds_deleted = True  # the log does; while it is read elsewhere, it is tried again
        self._empty_log()

    def forgotten(self) -> set[str]:
        """Users, by `hash_user`, of whom nothing older than their deletion may be used."""
        with self._reading() as db:
            return set(db.execute(sql.select(FORGOTTEN.c.user_hash)).scalars())

    def items(self) -> Iterator[PostedItem]:
        """Posted items in order of arrival, withdrawn ones too: later IDs depend on them."""
        columns = (ITEMS.c.number, ITEMS.c.item_id, ITEMS.c.title, ITEMS.c.text, ITEMS.c.image)
        rows = sql.select(*columns).order_by(ITEMS.c.number).limit(ITEMS_AT_ONCE)
        last = -1
        while True:  # whoever encodes them must not hold a transaction open meanwhile
            with self._reading() as db:
                found = db.execute(rows.where(ITEMS.c.number > last)).all()
            if not found:
                return
            for row in found:
                yield PostedItem(*row[1:])
            last = found[-1].number

    def picture(self, item_id: str) -> bytes | None:
        """The image file that a posted item came with."""
        with self._reading() as db:
            image = sql.select(ITEMS.c.image).where(ITEMS.c.item_id == item_id)
            return db.execute(image).scalar_one_or_none()

    def add_item(self, item: PostedItem) -> None:
        """Keep a posted item; ConflictError when its id is taken."""
        with self._writing() as db:
            if not self._add(db, ITEMS, **item._asdict()):
                raise ConflictError("an item of this id was posted before")

    def withdrawn(self) -> set[str]:
        """Ids that must never be recommended."""
        with self._reading() as db:
            return set(db.execute(sql.select(WITHDRAWN.c.item_id)).scalars())

    def restored(self) -> set[str]:
        """Ids that may be recommended whatever the run says of them."""
        with self._reading() as db:
            return set(db.execute(sql.select(RESTORED.c.item_id)).scalars())

    def withdraw(self, item_id: str) -> None:
        with self._writing() as db:
            db.execute(sql.delete(RESTORED).where(RESTORED.c.item_id == item_id))
            self._add(db, WITHDRAWN, item_id=item_id)

    def restore(self, item_id: str) -> None:
        """Undo `withdraw`, also where the run itself was updated in between."""
        with self._writing() as db:
            db.execute(sql.delete(WITHDRAWN).where(WITHDRAWN.c.item_id == item_id))
            self._add(db, RESTORED, item_id=item_id)

    def close(self) -> None:
        """Let another server have it."""
        self._database.close()


def read_collected(place: str) -> Collected:
    """Everything in an event store at one moment, while a server may go on writing into it.

    Nothing is changed, and no lock is taken that a server would need.

    Args:
        place: the path of an SQLite file, or a postgresql:// URL.

    Raises:
        StorageError: there is no store, or it is not one of ours.
    """
    events = sql.select(EVENTS.c.user_id, EVENTS.c.item_id, EVENTS.c.time)
    items = sql.select(ITEMS.c.item_id, ITEMS.c.title, ITEMS.c.text, ITEMS.c.image)
    with _opened_to_read(place) as db:
        return Collected(
            [Event(*row) for row in db.execute(events.order_by(EVENTS.c.number))],
            [PostedItem(*row) for row in db.execute(items.order_by(ITEMS.c.number))],
            _ids(db, WITHDRAWN.c.item_id),
            _ids(db, RESTORED.c.item_id),
            _ids(db, FORGOTTEN.c.user_hash),
            db.execute(about("identity")).scalar_one_or_none(),
            db.execute(sql.select(sql.func.max(EVENTS.c.number))).scalar_one() or 0,
        )


def read_forgotten(place: str) -> frozenset[str]:
    """As `read_collected`, but only who wants to be forgotten, by `hash_user`."""
    with _opened_to_read(place) as db:
        return _ids(db, FORGOTTEN.c.user_hash)


@contextmanager
def _opened_to_read(place: str) -> Iterator[sql.Connection]:
    engine: sql.Engine
    if "://" in place:
        engine = open_url(place).execution_options(
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
            found = db.execute(about("format_version")).scalar_one()
            if found != str(FORMAT_VERSION):
                raise StorageError(
                    f"{shown} has format {found}, this version reads {FORMAT_VERSION}"
                )
            yield db
    except sql.exc.SQLAlchemyError as error:
        raise StorageError(f"{shown} cannot be read: {reason(error)}") from None
    finally:
        engine.dispose()


def _ids(db: sql.Connection, column: "sql.Column[str]") -> frozenset[str]:
    is_there = sql.inspect(db).has_table(column.table.name)  # `restored` came later than the rest
    return frozenset(db.execute(sql.select(column)).scalars() if is_there else ())
