"""What several workers keep: a file each, users and bans in that of the first, and no other number of workers."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fastmq.errors import StartError, StoreError
from fastmq.store import facts
from fastmq.store.facts_elsewhere import FactsElsewhere
from fastmq.store.records import EXPIRY_NEVER, Session, encode
from fastmq.store.sqlite import SqliteStore
from tests.brokerproc import await_condition
from tests.cluster.brokers import code_of, is_gone, joined, one_at_each, start, workers

BANNED, NOT_AUTHORIZED = 0x8A, 0x87
EXPIRES = ((0x11, 3600),)
MANY = 16
"""Connections: they come to both workers, except once in thousands of times."""


def fastmq(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "fastmq", *arguments], check=True, timeout=20)


def holds(check: Callable[[], bool]) -> bool:
    return all(check() for _ in range(MANY))


# -- users and bans ----------------------------------------------------------------------------------------------------


def test_users_are_known_to_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    kept = ("--store", str(path))
    fastmq("users", "add", "ada", "-P", "secret", *kept)
    settings = {
        "store.path": str(path),
        "auth.allow_anonymous": False,
        "auth.chain": json.dumps([{"method": "builtin"}]),
    }
    with workers(2, settings) as broker:

        def comes(name: str) -> bool:
            return code_of(broker, "c", username=name, password=b"secret") == 0

        assert holds(lambda: comes("ada"))
        assert holds(lambda: not comes("eve"))
        fastmq("users", "add", "eve", "-P", "secret", *kept)
        fastmq("users", "delete", "ada", *kept)
        await_condition(lambda: holds(lambda: comes("eve")), 5)
        await_condition(lambda: holds(lambda: not comes("ada")), 5)


def test_bans_hold_at_all_workers_and_for_who_is_there(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    with workers(2, {"store.path": str(path)}) as broker, ExitStack() as stack:
        clients = one_at_each(broker, stack)
        good = joined(broker, stack, "good")
        fastmq("bans", "add", "client_id_regex", "c[0-9]+", "--store", str(path))
        await_condition(lambda: all(map(is_gone, clients.values())), 5)
        assert holds(lambda: code_of(broker, "c7") == BANNED)
        fastmq("bans", "delete", "client_id_regex", "c[0-9]+", "--store", str(path))
        await_condition(lambda: holds(lambda: code_of(broker, "c7") == 0), 5)
        good.ping()
        assert (tmp_path / "fastmq-1.db").exists()
        fastmq("store", "check", "--store", str(tmp_path / "fastmq-1.db"))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return tmp_path / "fastmq.db"


def second_store(first: Path) -> FactsElsewhere:
    store = FactsElsewhere(first.with_name("fastmq-1.db"), workers=2, facts_path=first)
    list(store.load())
    return store


def test_facts_elsewhere_may_come_later(first: Path) -> None:
    with closing(second_store(first)) as store:
        assert store.facts() == {}
        assert not store.facts_changed()
        assert not first.exists()  # it is another's to make
        with closing(SqliteStore(first, workers=2)) as owner:
            list(owner.load())
            owner.put_facts({"user/a": b"1"})
            assert store.facts_changed()
            assert store.facts() == {"user/a": b"1"}
            assert not store.facts_changed()


def test_facts_elsewhere_are_changed_there(first: Path) -> None:
    with closing(SqliteStore(first, workers=2)) as owner, closing(second_store(first)) as store:
        list(owner.load())
        assert owner.facts() == store.facts() == {}
        store.put_facts({"ban/a": b"1", "ban/b": b"2"})
        assert owner.facts_changed()
        assert owner.facts() == store.facts() == {"ban/a": b"1", "ban/b": b"2"}
        store.put_facts({"ban/a": None})
        assert owner.facts() == store.facts() == {"ban/b": b"2"}


def test_facts_elsewhere_are_found_in_a_new_file(first: Path) -> None:
    facts.change_beside(first, {"user/a": b"1"})
    with closing(second_store(first)) as store:
        assert store.facts() == {"user/a": b"1"}
        facts.change_beside(first.with_name("new.db"), {"user/b": b"2"})
        for suffix in ("-wal", "-shm"):
            first.with_name(first.name + suffix).unlink(missing_ok=True)
        first.with_name("new.db").rename(first)
        assert store.facts_changed()
        assert store.facts() == {"user/b": b"2"}


def test_facts_elsewhere_that_cannot_be_read(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmq.store.facts_elsewhere.PATIENCE_S", 0.3)
    first.write_bytes(b"no database" * 100)
    with closing(second_store(first)) as store:
        for least_s, most_s in ((0.3, 5.0), (0.0, 0.2)):  # it waits only once
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"fastmq\.db: read facts"):
                store.facts()
            assert least_s <= time.monotonic() - began < most_s
        with pytest.raises(StoreError):
            store.put_facts({"a": b"1"})
        first.unlink()
        facts.change_beside(first, {"user/a": b"1"})
        assert store.facts_changed()
        assert store.facts() == {"user/a": b"1"}


# -- the number of workers ---------------------------------------------------------------------------------------------


def test_what_one_number_of_workers_kept_another_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    settings = {"store.path": str(path)}
    with workers(2, settings) as broker, ExitStack() as stack:
        for number in range(12):
            joined(broker, stack, f"c{number}", props=EXPIRES)
    for count in (1, 3):
        with pytest.raises(RuntimeError) as refused:
            start(count, settings)
        assert f"written by 2 workers, not {count}; start with --workers 2 as before" in str(refused.value)
        assert str(tmp_path / "fastmq") in str(refused.value)
    with workers(2, settings) as broker:
        restored = {broker.await_log(rf"restored sessions=(\d+) .*worker={index}")[1] for index in (0, 1)}
        assert "0" not in restored


def session(store: SqliteStore) -> None:
    store.append(encode(Session(1, "c", EXPIRY_NEVER, 0, 0)), True)


def opened(path: Path, workers: int) -> SqliteStore:
    store = SqliteStore(path, workers=workers)
    try:
        list(store.load())
    except BaseException:
        store.close()
        raise
    return store


def without_mark(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'workers'")
        connection.commit()


def test_an_empty_store_is_for_any_number(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    for count in (1, 4, 2):
        opened(path, count).close()
    with closing(opened(path, 2)) as store:
        session(store)
    with pytest.raises(StartError, match="written by 2 workers, not 4"):
        opened(path, 4)
    opened(path, 2).close()


def test_a_store_that_does_not_say_is_that_of_one(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    opened(path, 3).close()
    without_mark(path)
    opened(path, 3).close()
    with closing(opened(path, 3)) as store:
        session(store)
    without_mark(path)
    with pytest.raises(StartError, match="written by 1 worker, not 3; start with --workers 1 as before"):
        opened(path, 3)
    opened(path, 1).close()


def test_the_number_outlives_damage(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    with closing(opened(path, 3)) as store:
        session(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = 'nonsense' WHERE key = 'seq'")
        connection.commit()
    with pytest.raises(StartError, match="written by 3 workers, not 1"):
        opened(path, 1)
    assert list(tmp_path.glob("*.damaged-*"))
    opened(path, 3).close()


def test_a_number_that_is_lost_to_damage_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.db"
    with closing(opened(path, 3)) as store:
        session(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = 'nonsense' WHERE key = 'workers'")
        connection.commit()
    opened(path, 3).close()
    with pytest.raises(StartError, match="written by 3 workers, not 1"):
        opened(path, 1)
