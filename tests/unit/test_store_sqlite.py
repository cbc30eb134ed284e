"""What is particular to the store in a SQLite file: its files, its limits, and how it fails."""

import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fastmq.errors import StartError, StoreError
from fastmq.store import schema
from fastmq.store.files import beside
from fastmq.store.records import (
    EXPIRY_NEVER,
    Clock,
    Delivery,
    Done,
    Forget,
    Message,
    Record,
    Session,
    Subscribed,
    decode,
    encode,
)
from fastmq.store.sqlite import SqliteStore

SESSION = Session(1, "c", EXPIRY_NEVER, 0, 0)


def message(id: int, size: int = 10) -> Message:
    return Message(id, 1, False, 0, None, "a/b", b"", bytes(size))


def queued(id: int) -> Delivery:
    return Delivery(1, id, id, 1, False, 0, 0)


def queue(first: int, count: int, size: int = 10) -> bytes:
    ids = range(first, first + count)
    return encode(Clock(first), SESSION, *(message(id, size) for id in ids), *map(queued, ids))


def drain(first: int, count: int) -> bytes:
    ids = range(first, first + count)
    return encode(Clock(first), *(Done(1, id) for id in ids), *map(Forget, ids))


def loaded(store: SqliteStore) -> list[Record]:
    return list(decode(b"".join(store.load())))[1:]


def settle(store: SqliteStore) -> None:
    while store.maintain(1):
        pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, fold_bytes=1)
    assert loaded(store) == []
    yield store
    store.close()


# -- files -------------------------------------------------------------------------------------------------------------


def test_only_its_owner_may_look_into_the_files(store: SqliteStore) -> None:
    store.append(queue(1, 1), True)
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    files = list(store.path.parent.iterdir())
    assert {file.name for file in files} == {"store.db", "store.db-wal", "store.db-shm", "store.db.lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_closed_store_is_one_file_and_its_lock(store: SqliteStore) -> None:
    store.append(queue(1, 100), True)
    store.close()
    assert {file.name for file in store.path.parent.iterdir()} == {"store.db", "store.db.lock"}


def test_two_brokers_cannot_have_one_file(store: SqliteStore) -> None:
    with pytest.raises(StartError, match=rf"store\.db: process {os.getpid()} has this store open"):
        SqliteStore(store.path)
    store.close()
    SqliteStore(store.path).close()


def test_the_lock_of_a_dead_broker_holds_nobody_up(path: Path) -> None:
    code = f"import os; from fastmq.store.sqlite import SqliteStore; SqliteStore({str(path)!r}); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert beside(path, ".lock").exists()
    SqliteStore(path).close()


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["PRAGMA user_version = 3"], r"format 3, this fastmq reads up to 2; it is left as it is"),
        (["PRAGMA application_id = 7"], "another program"),
    ],
)
def test_what_is_not_ours_to_touch_is_refused(path: Path, statements: Sequence[str], why: str) -> None:
    SqliteStore(path).close()
    change(path, *statements)
    before = path.read_bytes()
    with pytest.raises(StartError, match=why):
        SqliteStore(path)
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"store.db", "store.db.lock"}


def test_an_older_file_is_migrated_step_by_step(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    connection.execute("CREATE TABLE thing (a)")
    connection.execute("PRAGMA user_version = 1")

    def second(to: sqlite3.Connection) -> None:
        to.execute("ALTER TABLE thing ADD COLUMN b")

    def third(to: sqlite3.Connection) -> None:
        to.execute("INSERT INTO thing (a, b) VALUES (1, 2)")

    def broken(to: sqlite3.Connection) -> None:
        to.execute("INSERT INTO thing (a, b) VALUES (3, 4)")
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, (second, third, broken))
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert connection.execute("SELECT * FROM thing").fetchall() == [(1, 2)]
    schema.migrate(connection, (second, third))
    assert connection.execute("SELECT * FROM thing").fetchall() == [(1, 2)]
    connection.close()


def test_a_file_that_was_cut_off_while_it_was_made_is_made_again(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    store = SqliteStore(path)
    assert loaded(store) == []
    store.close()


# -- durability --------------------------------------------------------------------------------------------------------


def test_what_was_appended_outlives_a_kill(path: Path) -> None:
    code = f"""if True:
        import os, signal
        from fastmq.store.sqlite import SqliteStore
        from tests.unit.test_store_sqlite import queue, drain
        store = SqliteStore({str(path)!r}, fold_bytes=1)
        list(store.load())
        store.append(queue(1, 1000), False)
        store.maintain(0)
        store.maintain(0)
        store.append(drain(1, 500), True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    store = SqliteStore(path)
    assert [record for record in loaded(store) if isinstance(record, Delivery)] == [
        queued(id) for id in range(501, 1001)
    ]
    store.close()


@pytest.mark.parametrize("before", range(7))
def test_a_crash_amid_a_fold_neither_loses_nor_brings_back(tmp_path: Path, before: int) -> None:
    """So many slices of a fold, a batch that undoes and adds, so many slices more, and what is then in the files."""
    first = encode(Clock(1), SESSION, message(1), Delivery(1, 1, 1, 1, False, 0, 0), Delivery(1, 2, 1, 1, False, 0, 0))
    second = encode(Clock(2), Done(1, 1), message(2), Delivery(1, 3, 2, 1, False, 0, 0))
    for after in range(12):
        store = SqliteStore(tmp_path / f"{after}.db", fold_bytes=1)
        list(store.load())
        store.append(first, True)
        for _ in range(before):
            store.maintain(0)
        store.append(second, True)
        for _ in range(after):
            store.maintain(0)
        killed = tmp_path / f"{after}-killed.db"
        for suffix in ("", "-wal"):
            shutil.copyfile(beside(store.path, suffix), beside(killed, suffix))
        store.close()
        store = SqliteStore(killed)
        assert [record.position for record in loaded(store) if isinstance(record, Delivery)] == [2, 3]
        store.close()


@pytest.mark.parametrize("sync", [True, False])
def test_a_commit_waits_for_the_medium_only_when_it_must(store: SqliteStore, sync: bool) -> None:
    store.append(queue(1, 1), not sync)
    settle(store)
    store.append(queue(2, 1), sync)
    (level,) = store._file.live().execute("PRAGMA synchronous").fetchone()
    assert level == (2 if sync else 1)


# -- size --------------------------------------------------------------------------------------------------------------


def test_the_file_shrinks_again(store: SqliteStore) -> None:
    for first in range(1, 20_001, 1000):
        store.append(queue(first, 1000, 1000), False)
        settle(store)
    full = store.stat()
    assert full["file_bytes"] > 20_000_000
    for first in range(1, 20_001, 1000):
        store.append(drain(first, 1000), False)
    settle(store)
    store._file.checkpoint("PASSIVE")
    empty = store.stat()
    assert empty["messages"] == 0
    assert empty["file_bytes"] < 6_000_000


def test_the_write_ahead_log_stays_small(store: SqliteStore) -> None:
    for first in range(1, 300_001, 3000):
        store.append(queue(first, 3000, 200) + drain(first, 3000), False)
        settle(store)
    assert store.stat()["wal_bytes"] < 24_000_000
    assert store.stat()["checkpoints"] > 3


def test_above_its_size_it_says_so_until_there_is_room(path: Path) -> None:
    store = SqliteStore(path, 1_000_000, fold_bytes=1)
    list(store.load())
    count = 0

    while count < 5000 and not store.no_room():
        store.append(queue(1 + count, 100, 1000), False)
        settle(store)
        count += 100
    assert "bytes are in use" in store.no_room()
    assert 400 < count < 1200
    store.append(encode(Clock(1), Subscribed(1, 1, 0, "a")), True)
    store.append(drain(1, count), False)
    settle(store)
    assert not store.no_room()
    store.append(queue(5000, 100, 1000), True)
    assert [record for record in loaded(store) if isinstance(record, Delivery)] == [
        queued(id) for id in range(5000, 5100)
    ]
    store.close()


def test_a_full_disk_refuses_and_takes_again_once_there_is_room(store: SqliteStore) -> None:
    store.append(queue(1, 10), True)
    settle(store)
    connection = store._file.live()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 20}").fetchone()
    for _ in range(3):
        with pytest.raises(StoreError, match="full") as refused:
            store.append(queue(11, 1000, 1000), True)
        assert refused.value.reason == "full"
    store.append(drain(1, 5), True)
    settle(store)
    connection.execute("PRAGMA max_page_count = 1000000").fetchone()
    store.append(queue(11, 1000, 1000), True)
    settle(store)
    assert [record for record in loaded(store) if isinstance(record, Delivery)] == [queued(id) for id in range(6, 1011)]


def test_the_last_of_the_disk_is_kept_for_what_makes_room(store: SqliteStore) -> None:
    store.append(queue(1, 10), True)
    store.close()
    nearly_full = SqliteStore(store.path, fold_bytes=1, disk_reserve_bytes=2**62)
    assert "bytes left" in nearly_full.no_room()
    nearly_full.append(drain(1, 5), True)
    settle(nearly_full)
    assert [record for record in loaded(nearly_full) if isinstance(record, Delivery)] == [
        queued(id) for id in range(6, 11)
    ]
    nearly_full.close()


def test_a_write_that_fails_leaves_nothing_behind_and_can_be_tried_again(path: Path) -> None:
    """A limit on the size of files makes writes fail midway, with an error that is not the one of a full disk."""
    store = SqliteStore(path, fold_bytes=1)
    list(store.load())
    store.append(queue(1, 10), True)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        for id in (12, 13, 14):
            with pytest.raises(StoreError):
                store.append(queue(100, 1000, 1000), True)
            store.append(queue(id, 1), True)  # what fits goes in
        assert store.fetch([100]) == [None]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    store.append(queue(100, 1000, 1000), True)
    assert store.fetch([100, 1099]) == [encode(message(100, 1000)), encode(message(1099, 1000))]
    expected = [*range(1, 11), 12, 13, 14, *range(100, 1100)]
    settle(store)
    store.close()
    store = SqliteStore(path)
    assert [record for record in loaded(store) if isinstance(record, Delivery)] == [queued(id) for id in expected]
    store.close()


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_damaged_row_costs_that_row(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    store.append(queue(1, 300), True)
    store.close()
    change(
        store.path,
        "UPDATE message SET record = x'0107' WHERE id = 7",
        "UPDATE delivery SET flags = 'x' WHERE position = 9",
    )
    store = SqliteStore(store.path)
    found = [record.position for record in loaded(store) if isinstance(record, Delivery)]
    assert found == [id for id in range(1, 301) if id not in (7, 9)]
    assert store.stat()["salvages"] == 1
    store.close()
    first, second = caplog.records[:2]
    assert first.message == "the store is damaged"
    fields = second.__dict__["fields"]
    assert (fields["delivery_bad"], fields["message_bad"], fields["message_saved"]) == (1, 1, 299)
    (aside,) = [file for file in store.path.parent.iterdir() if "damaged" in file.name]
    assert aside.name.startswith("store.db.damaged-")


def test_a_batch_with_a_wrong_checksum_costs_that_batch(path: Path) -> None:
    store = SqliteStore(path)
    list(store.load())
    for first in (1, 101, 201):
        store.append(queue(first, 100), True)
    change(path, "UPDATE journal SET records = substr(records, 1, 500) || x'00' || substr(records, 502) WHERE seq = 2")
    store._file.release()
    store = SqliteStore(path)
    found = [record.position for record in loaded(store) if isinstance(record, Delivery)]
    assert found == [*range(1, 101), *range(201, 301)]
    store.close()


def test_what_a_bad_page_hides_is_all_that_is_lost(store: SqliteStore) -> None:
    store.append(queue(1, 5000, 100), True)
    store.close()
    data = bytearray(store.path.read_bytes())
    at = len(data) // 2 // 4096 * 4096
    data[at : at + 4096] = bytes(4096)
    store.path.write_bytes(data)
    store = SqliteStore(store.path)
    assert len([record for record in loaded(store) if isinstance(record, Delivery)]) > 4500
    store.close()


def test_damage_that_is_found_in_use_fails_once_and_loses_nothing_of_the_journal(path: Path) -> None:
    store = SqliteStore(path, fold_bytes=1)
    list(store.load())
    store.append(queue(1, 2000, 100), True)
    settle(store)
    store._file.checkpoint("TRUNCATE")
    store.append(queue(2001, 10), True)
    connection = store._file.live()
    connection.execute("PRAGMA writable_schema = ON")
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'delivery'").fetchone()
    connection.execute("PRAGMA cache_size = 0")
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StoreError) as failed:
        settle(store)
    assert failed.value.reason == "failed"
    store.append(queue(2011, 10), True)
    settle(store)
    assert store.stat()["salvages"] == 1
    found = {record.position for record in loaded(store) if isinstance(record, Delivery)}
    assert found >= set(range(2001, 2021))
    store.close()
