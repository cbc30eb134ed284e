"""Facts in a store's file: changed beside a broker that has it open, migrated, saved from damage, bounded."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq.errors import StartError, StoreError
from fastmq.store import facts
from fastmq.store.backup import figures
from fastmq.store.snapshot import Snapshot
from fastmq.store.sqlite import SqliteStore
from fastmq.store.transfer import export_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    list(store.load())
    yield store
    store.close()


def make_old(path: Path) -> None:
    """As version 1 had it: without facts."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE fact")
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_a_change_beside_an_open_store_is_noticed_once(store: SqliteStore, path: Path) -> None:
    assert store.facts() == {}
    facts.change_beside(path, {"user/a": b"1", "user/b": b"2"})
    assert store.facts_changed()
    assert store.facts() == {"user/a": b"1", "user/b": b"2"}
    assert not store.facts_changed()
    facts.change_beside(path, {"user/a": None})
    assert store.facts() == facts.read_beside(path) == {"user/b": b"2"}


def test_a_store_that_is_not_there_yet_can_have_some(path: Path) -> None:
    assert facts.read_beside(path) == {}
    facts.change_beside(path, {"user/a": b"1"})
    assert path.stat().st_mode & 0o777 == 0o600
    store = SqliteStore(path)
    list(store.load())
    assert store.facts() == {"user/a": b"1"}
    store.close()


def test_what_is_no_store_of_ours_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StartError, match="another program"):
        facts.change_beside(path, {"user/a": b"1"})
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="damaged"):
        facts.change_beside(path, {"user/a": b"1"})
    assert before != path.read_bytes() == b"not a database" * 100


def test_a_store_of_version_1_gets_a_place_for_them(path: Path) -> None:
    store = SqliteStore(path)
    list(store.load())
    store.close()
    make_old(path)
    assert figures(path)["format"] == 1
    assert facts.read_beside(path) == {}
    with Snapshot(path) as snapshot:
        assert len(list(export_lines(snapshot))) == 2
    store = SqliteStore(path)
    list(store.load())
    store.put_facts({"user/a": b"1"})
    store.close()
    assert figures(path)["format"] == 2
    assert figures(path)["facts"] == 1


def test_they_are_saved_from_a_damaged_store(store: SqliteStore, path: Path) -> None:
    known = {f"user/{number:05}": b"x" * 100 for number in range(2000)}
    store.put_facts(known)
    store.close()
    with path.open("r+b") as file:  # in the middle of that table, which is nearly all there is
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    store = SqliteStore(path)
    list(store.load())
    saved = store.facts()
    store.close()
    assert 1000 < len(saved) <= 2000
    assert saved.items() <= known.items()
    assert list(path.parent.glob("store.db.damaged-*"))


def test_a_damaged_store_of_version_1_is_saved_all_the_same(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(path)
    list(store.load())
    store.close()
    make_old(path)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO session VALUES (9, x'ff', 0, 0, 0)")
    connection.close()
    store = SqliteStore(path)
    list(store.load())
    assert store.facts() == {}
    store.close()
    assert "fact" not in caplog.text


def test_they_are_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_facts({"user/a": b"1"})
    with pytest.raises(StoreError, match="at most") as error:
        store.put_facts({"user/b": b"x" * (facts.VALUE_MAX_BYTES + 1)})
    assert error.value.reason == "full"
    monkeypatch.setattr(facts, "ALL_MAX_BYTES", 1000)
    with pytest.raises(StoreError, match="may have"):
        store.put_facts({"user/a": None, "user/b": b"x" * 1000})
    assert store.facts() == {"user/a": b"1"}
