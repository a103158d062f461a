"""The store keeps the same promises in SQLite and in PostgreSQL."""

from pathlib import Path

import pytest
from databases import PostgresServer, for_all_connections

from bbqrec.errors import ConflictError, RunBusyError, StorageError
from bbqrec.serving import Event, EventStore, PostedItem
from bbqrec.serving.store import hash_user, read_collected


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.url
    return str(tmp_path / "deep" / "events.sqlite3")


def test_what_is_stored_is_found_by_whoever_opens_it_next(place: str) -> None:
    store = EventStore(place)
    events = [Event("ü", "late", 2.5), Event("ü", "early", 1.0), Event("other", "x", 0.0)]
    picture = bytes(range(256))

    assert store.append(events, "key", "digest")
    assert not store.append(events, "key", "digest")
    with pytest.raises(ConflictError):
        store.append(events[:1], "key", "another digest")
    store.append([Event("ü", "also late", 2.5)])
    for item_id in ("b", "a"):
        store.add_item(PostedItem(item_id, "Title", None, picture))
    with pytest.raises(ConflictError):
        store.add_item(PostedItem("a", "Title", "text", None))
    for item_id in ("gone", "gone", "back"):
        store.withdraw(item_id)
    store.restore("back")
    store.forget("other")
    with pytest.raises(RunBusyError, match="another server keeps its events"):
        EventStore(place)
    store.close()

    again = EventStore(place)
    mine, others, nobodys = again.events_of(["ü", "other", "nobody"])
    assert [event.item_id for event in mine] == ["early", "late", "also late"]
    assert others == nobodys == []
    assert len(again.forgotten()) == 1
    assert [item.item_id for item in again.items()] == ["b", "a"]
    assert {item.image for item in again.items()} == {picture}
    assert again.withdrawn() == {"gone"}
    again.close()


def test_the_latest_time_that_a_server_gave_outlives_it(place: str) -> None:
    store = EventStore(place)
    for given_time in (1e9 + 0.125, 10.0, None):
        store.append([Event("timed", "a", 3e9)], given_time=given_time)
    store.close()

    again = EventStore(place)
    assert again.latest_time() == 1e9 + 0.125
    again.close()


def test_a_full_disk_is_told_and_what_was_stored_stays(tmp_path: Path) -> None:
    """A limit of pages stands in for the disk: SQLite reports both alike."""
    store = EventStore(str(tmp_path / "events.sqlite3"))
    store.append([Event("u", "kept", 1.0)])
    for_all_connections(store, "PRAGMA max_page_count = 20")

    with pytest.raises(StorageError, match="full"):
        store.append([Event("u", "x" * 1000, 2.0)] * 1000, "key", "digest")

    assert [event.item_id for event in store.events_of(["u"])[0]] == ["kept"]
    assert store.append([Event("u", "small", 3.0)], "key", "digest")
    store.close()


def test_a_database_that_cannot_be_reached_is_one_sentence() -> None:
    with pytest.raises(StorageError, match="cannot use the database of --events") as refused:
        EventStore("postgresql://u:secret@127.0.0.1:1/x")

    assert "secret" not in str(refused.value)


def test_a_store_is_read_as_a_whole_while_its_server_writes(place: str) -> None:
    store = EventStore(place)
    events = [Event("u", "late", 2.5), Event("u", "early", 1.0)]
    item = PostedItem(f"read {place[:6]}", "Title", None, b"picture")
    before = read_collected(place)
    store.append(events)
    store.add_item(item)
    for item_id in ("gone", "back"):
        store.withdraw(item_id)
    store.restore("back")
    store.forget("whoever")

    found = read_collected(place)
    store.append([Event("u", "after", 3.0)])
    store.close()

    assert found.events[len(before.events) :] == events
    assert found.items[len(before.items) :] == [item]
    assert "gone" in found.withdrawn
    assert "back" not in found.withdrawn
    assert "back" in found.restored
    assert hash_user("whoever") in found.forgotten
    assert len(read_collected(place).events) == len(found.events) + 1
