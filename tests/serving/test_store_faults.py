"""What is done to a store under a running server loses nothing that was acknowledged."""

import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from databases import PostgresServer, killed_now

from bbqrec.errors import RunBusyError, StorageError
from bbqrec.serving import Event, EventStore


def items_of(store: EventStore, user_id: str = "u") -> list[str]:
    return [event.item_id for event in store.events_of([user_id])[0]]


def replace(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("ends", [("-wal",), ("-shm",), ("-wal", "-shm")])
@pytest.mark.parametrize("spoil", [Path.unlink, replace])
def test_a_deleted_or_replaced_log_loses_nothing(
    ends: tuple[str, ...], spoil: object, events: Path, tmp_path: Path
) -> None:
    store = EventStore(str(events))
    for number in range(3):
        store.append([Event("u", f"before {number}", number)])

    for end in ends:
        spoil(events.with_name(events.name + end))  # type: ignore[operator]
    store.append([Event("u", "after", 10.0)])
    once = EventStore(killed_now(events, tmp_path / "once"))
    store.append([Event("u", "last", 11.0)])
    twice = EventStore(killed_now(events, tmp_path / "twice"))

    kept = [*(f"before {number}" for number in range(3)), "after"]
    assert items_of(once) == kept
    assert items_of(store) == items_of(twice) == [*kept, "last"]
    for place in (once, twice, store):
        place.close()
    assert sqlite3.connect(events).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_log_deleted_while_an_event_is_written_does_not_take_it_along(
    events: Path, tmp_path: Path
) -> None:
    store = EventStore(str(events))

    with store._writing() as db:
        store._set(db, "begun before", "x")
        events.with_name(events.name + "-wal").unlink()
    copy = EventStore(killed_now(events, tmp_path / "copy"))

    with copy._reading() as db:
        found = db.exec_driver_sql("SELECT value FROM about WHERE name = 'begun before'").scalar()
    assert found == "x"
    copy.close()
    store.close()


def test_logs_that_are_deleted_again_and_again_under_writes_take_nothing_acknowledged_along(
    events: Path, tmp_path: Path
) -> None:
    store = EventStore(str(events))
    acknowledged: dict[str, list[str]] = {f"u{number}": [] for number in range(4)}
    is_over = threading.Event()

    def write(user_id: str) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            with suppress(StorageError):  # told, and not acknowledged
                store.append([Event(user_id, f"event {number}", number)])
                acknowledged[user_id].append(f"event {number}")

    writers = [threading.Thread(target=write, args=[user_id]) for user_id in acknowledged]
    for writer in writers:
        writer.start()
    for turn in range(30):
        time.sleep(0.02)
        for end in (("-wal",), ("-shm",), ("-wal", "-shm"))[turn % 3]:
            events.with_name(events.name + end).unlink(missing_ok=True)
    is_over.set()
    for writer in writers:
        writer.join()
    store.check()  # as a server does every second
    copy = EventStore(killed_now(events, tmp_path / "copy"))

    for user_id, wanted in acknowledged.items():
        assert wanted
        assert set(wanted) <= set(items_of(copy, user_id))
        assert items_of(copy, user_id) == items_of(store, user_id)
    copy.close()
    store.close()
    assert sqlite3.connect(events).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_look_at_the_store_saves_what_was_written_before_its_log_was_deleted(
    events: Path, tmp_path: Path
) -> None:
    store = EventStore(str(events))
    store.append([Event("u", "a", 1.0)])
    events.with_name(events.name + "-wal").unlink()

    store.check()

    copy = EventStore(killed_now(events, tmp_path / "copy"))
    assert items_of(copy) == ["a"]
    copy.close()
    store.close()


def test_while_another_program_reads_what_a_deleted_log_held_nothing_is_acknowledged(
    events: Path, tmp_path: Path
) -> None:
    store = EventStore(str(events))
    store.append([Event("u", "a", 1.0)])
    other = sqlite3.connect(events, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM events").fetchall()
    store.append([Event("u", "b", 2.0)])
    events.with_name(events.name + "-wal").unlink()

    with pytest.raises(StorageError, match="log was deleted"):
        store.append([Event("u", "c", 3.0)])
    other.close()
    store.append([Event("u", "d", 4.0)])

    copy = EventStore(killed_now(events, tmp_path / "copy"))
    assert items_of(copy) == ["a", "b", "d"]
    copy.close()
    store.close()


def test_what_was_deleted_leaves_the_log_when_nobody_reads_it_any_more(events: Path) -> None:
    store = EventStore(str(events))
    store.append([Event("u", "a secret item", 1.0)])
    other = sqlite3.connect(events, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM events").fetchall()

    store.forget("u")
    other.execute("ROLLBACK")
    other.close()
    store.check()

    files = list(events.parent.glob(events.name + "*"))
    assert len(files) == 4
    assert not any(b"a secret item" in path.read_bytes() for path in files)
    store.close()


def test_who_lost_the_file_to_another_server_reads_and_writes_nothing_any_more(
    events: Path,
) -> None:
    first = EventStore(str(events))
    events.with_name(events.name + ".lock").unlink()
    second = EventStore(str(events))

    for use in (lambda: first.append([Event("u", "a", 1.0)]), first.withdrawn, first.check):
        with pytest.raises(StorageError, match="another server has used"):
            use()
    second.append([Event("u", "b", 2.0)])

    assert items_of(second) == ["b"]
    first.close()
    second.close()


def test_a_restarted_database_is_claimed_again_so_that_no_second_server_can(
    postgres: PostgresServer,
) -> None:
    store = EventStore(postgres.url)
    store.append([Event("first", "a", 1.0)])

    postgres.stop()
    with pytest.raises(StorageError):
        store.append([Event("first", "never", 2.0)])
    postgres.start()
    store.check()
    with pytest.raises(RunBusyError):
        EventStore(postgres.url)
    store.append([Event("first", "b", 3.0)])

    assert items_of(store, "first") == ["a", "b"]
    store.close()


def test_who_lost_a_restarted_database_to_another_server_changes_nothing_any_more(
    postgres: PostgresServer,
) -> None:
    first = EventStore(postgres.url)
    postgres.stop()
    postgres.start()
    second = EventStore(postgres.url)

    with pytest.raises(StorageError, match="another server has claimed it"):
        first.append([Event("second", "a", 1.0)])
    second.append([Event("second", "b", 2.0)])
    second.close()
    with pytest.raises(StorageError, match="another server has used the event store"):
        first.append([Event("second", "c", 3.0)])
    first.close()

    third = EventStore(postgres.url)
    assert items_of(third, "second") == ["b"]
    third.close()
