"""The tables of an event store, the same in SQLite and in PostgreSQL."""

import sqlalchemy as sql

FORMAT_VERSION = 1

TABLES = sql.MetaData()
EVENTS = sql.Table(
    "events",
    TABLES,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("user_id", sql.Text, nullable=False),
    sql.Column("item_id", sql.Text, nullable=False),
    sql.Column("time", sql.Double, nullable=False),
    sql.Index("events_by_user", "user_id", "time", "number"),
    sqlite_autoincrement=True,  # no number comes twice: an update remembers how far it has read
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


def about(name: str) -> "sql.Select[str]":
    """One fact about the store: its format_version, identity, owner, the latest_time it gave."""
    return sql.select(ABOUT.c.value).where(ABOUT.c.name == name)
