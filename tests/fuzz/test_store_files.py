"""Random damage to a store: it opens all the same, or says why not, and what it was is kept."""

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from fastmq.errors import StartError, StoreError
from fastmq.store.files import SUFFIXES, beside
from fastmq.store.records import (
    EXPIRY_NEVER,
    Clock,
    Delivery,
    Group,
    Message,
    Received,
    Record,
    Retained,
    Session,
    Stub,
    Subscribed,
    Will,
    decode,
    encode,
)
from fastmq.store.sqlite import SqliteStore

T = TypeVar("T")

SECONDS = 3
"""For each way of damaging."""


def batches(count: int) -> list[list[Record]]:
    """Some of everything; the topics and client ids are found again in what is loaded."""
    return [
        [
            Clock(batch),
            Group(10_000 + batch, f"$share/g{batch}/#"),
            Session(batch, f"client-{batch}", EXPIRY_NEVER, 0, 0),
            Subscribed(batch, 1, batch, f"filter/{batch}/+"),
            Received(batch, batch),
            *(
                Message(id, 1, False, 0, None, f"topic/{id}", b"\x01\x01", bytes([id % 256]) * (id % 300))
                for id in range(batch * 100, batch * 100 + 50)
            ),
            *(Delivery(batch, id, id, 1, False, 0, 0) for id in range(batch * 100, batch * 100 + 40)),
            *(Retained(id) for id in range(batch * 100 + 40, batch * 100 + 49)),
            Will(batch, batch * 100 + 49, 0, None),
        ]
        for batch in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as a killed broker leaves it: tables, and a write-ahead log with more of them and a journal."""
    path = tmp_path_factory.mktemp("sound") / "store.db"
    store = SqliteStore(path, fold_bytes=1)
    list(store.load())
    some = batches(12)
    for batch in some[:6]:
        store.append(encode(*batch), True)
    while store.maintain(1):
        pass
    store._file.checkpoint("TRUNCATE")
    for batch in some[6:9]:
        store.append(encode(*batch), True)
    while store.maintain(1):
        pass
    for batch in some[9:]:
        store.append(encode(*batch), True)
    killed = path.parent / "killed.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(beside(path, suffix), beside(killed, suffix))
    store.close()
    return killed


def damage_bytes(path: Path, rng: random.Random) -> None:
    """One to twenty bytes anywhere, or in one place."""
    data = bytearray(path.read_bytes())
    near = rng.randrange(len(data)) if rng.random() < 0.5 else None
    for _ in range(rng.choice((1, 3, 20))):
        at = rng.randrange(len(data)) if near is None else min(len(data) - 1, near + rng.randrange(64))
        data[at] = rng.randrange(256)
    path.write_bytes(data)


def damage_pages(path: Path, rng: random.Random) -> None:
    """A page of zeros, of noise, or that was cut off with all behind it."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(0, len(data), 512)
    what = rng.choice(("zeros", "noise", "cut", "swap"))
    if what == "cut":
        del data[at:]
    elif what == "swap":
        other = rng.randrange(0, len(data), 512)
        data[at : at + 512], data[other : other + 512] = data[other : other + 512], data[at : at + 512]
    else:
        data[at : at + 4096] = bytes(4096) if what == "zeros" else rng.randbytes(4096)
    path.write_bytes(data)


VALUES = (None, -1, 2**63 - 1, 1.5, "text", b"\xff\x00", b"", "\ud7ff" * 30_000, 0, 255)


def damage_values(path: Path, rng: random.Random) -> None:
    """What a column should not hold, but can."""
    connection = sqlite3.connect(path, isolation_level=None)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for _ in range(rng.choice((1, 3))):
        table = rng.choice(tables)
        column = rng.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})")])
        where = "1" if rng.random() < 0.2 else f"rowid % {rng.randrange(1, 40)} = 0"
        try:
            connection.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {where}", (rng.choice(VALUES),))
        except sqlite3.Error:
            continue  # it does not let itself be damaged like this
    connection.close()


@pytest.mark.parametrize(
    ("damage", "suffix"),
    [(damage_bytes, ""), (damage_pages, ""), (damage_bytes, "-wal"), (damage_pages, "-wal"), (damage_values, "")],
    ids=["bytes", "pages", "wal-bytes", "wal-pages", "values"],
)
@pytest.mark.timeout(60)
def test_a_damaged_file_is_opened_or_refused(sound: Path, tmp_path: Path, damage: object, suffix: str) -> None:
    assert callable(damage)
    until, rounds, salvaged, found = time.monotonic() + SECONDS, 0, 0, 0  # a slow machine needs longer for 11 rounds
    whole = {record for batch in batches(12) for record in batch}
    while time.monotonic() < until or rounds <= 10 or (suffix == "" and salvaged == 0 and rounds < 1000):
        rng = random.Random(rounds)
        rounds += 1
        folder = tmp_path / str(rounds)
        folder.mkdir()
        path = folder / "store.db"
        for part in ("", "-wal"):
            shutil.copyfile(beside(sound, part), beside(path, part))
        damage(beside(path, suffix), rng)
        before = [beside(path, part).read_bytes() for part in ("", "-wal") if beside(path, part).exists()]
        try:
            loaded = life(path)
        except StartError:
            assert [beside(path, part).read_bytes() for part in ("", "-wal") if beside(path, part).exists()] == before
            continue
        aside = [file for file in folder.iterdir() if ".damaged-" in file.name]
        if aside:
            salvaged += 1
            assert not any(file.name.endswith(".copy") for file in folder.iterdir())
        found += len(whole & loaded)
        shutil.rmtree(folder)
    assert salvaged or suffix == "-wal"
    # Most of it is there most of the time: each round damages little.
    assert found / rounds > 0.3 * len(whole)


def patiently(use: Callable[[], T]) -> T:
    """Damage that is found while the store is in use makes that use fail, and the next one work."""
    for _ in range(3):
        try:
            return use()
        except StoreError as error:
            if error.reason != "failed":
                raise
    return use()


def life(path: Path) -> set[Record]:
    """A broker starts with the file, uses it, ends, and starts again. Only what is documented may be raised."""
    store = SqliteStore(path, fold_bytes=1)
    try:
        loaded = [record for batch in store.load() for record in decode(batch)]
        assert isinstance(loaded[0], Clock)
        stubs = [record.id for record in loaded if isinstance(record, Stub)]
        found = patiently(lambda: store.fetch(stubs))
        bodies = [record for body in found if body is not None for record in decode(body)]
        new = Session(77_777, "new", EXPIRY_NEVER, 0, 0)
        patiently(lambda: store.append(encode(Clock(10**6), new), True))
        while patiently(lambda: store.maintain(1)):
            pass
    finally:
        store.close()
    again = SqliteStore(path)
    try:
        assert new in [record for batch in again.load() for record in decode(batch)]
    finally:
        again.close()
    return {*loaded, *bodies}


def test_nothing_of_the_damaged_file_is_changed(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    data = bytearray(sound.read_bytes())
    data[:16] = b"no database here"
    path.write_bytes(data)
    shutil.copyfile(beside(sound, "-wal"), beside(path, "-wal"))
    wal = beside(path, "-wal").read_bytes()
    store = SqliteStore(path)
    list(store.load())
    store.close()
    (aside,) = [file for file in tmp_path.iterdir() if ".damaged-" in file.name and file.name.endswith("Z")]
    assert aside.read_bytes() == data
    assert beside(aside, "-wal").read_bytes() == wal
    assert not [file for suffix in SUFFIXES for file in [beside(aside, f".copy{suffix}")] if file.exists()]
