"""Export, import and check of a store's file, without a broker."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from fastmq.errors import StartError, StoreError
from fastmq.store import records as r
from fastmq.store.checking import check
from fastmq.store.facts import read_beside
from fastmq.store.files import beside
from fastmq.store.lines import KINDS
from fastmq.store.snapshot import Snapshot
from fastmq.store.sqlite import SqliteStore
from fastmq.store.transfer import WrongFile, export_lines, import_lines

USER_PROPERTY = bytes.fromhex("26 0001 61 0001 62")
RICH = (
    r.Clock(1000),
    r.Session(1, "mätre", r.EXPIRY_NEVER, 0, 0),
    r.Session(2, 'a "quoted" one', 3600, 99_000, 98_000),
    r.Group(3, "$share/g/a/#"),
    r.Subscribed(1, 2 | 4 | 8 | 0x20 | 0x80, 77, "a/+/ü"),
    r.Subscribed(2, 1, 0, "$share/g/a/#"),
    r.Received(1, 65_535),
    r.Message(1, 1, False, 2, None, "a/b", USER_PROPERTY, b"\0\xff" * 20),
    r.Message(2, 2, True, 0, 77_000, "a/ü", b"", b""),
    r.Message(3, 0, False, 2, None, "will", b"", b"gone"),
    r.Message(4, 1, False, 2, None, "nobody", b"", b"needs it"),
    r.Retained(2),
    r.Will(2, 3, 60, 5),
    r.Delivery(1, 5, 1, 1, False, r.AWAIT_PUBACK, 9, (1, 268_435_455)),
    r.Delivery(1, 6, 2, 2, True, r.QUEUED, 0, ()),
    r.Delivery(2, 1, 9, 2, False, r.AWAIT_PUBCOMP, 4, ()),
    r.Delivery(3, 1, 1, 1, False, r.QUEUED, 0, ()),
)
"""One of each kind, two things that the next start would remove left in."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """Open, with a journal that is not folded."""
    store = SqliteStore(path)
    list(store.load())
    store.append(r.encode(*RICH), True)
    store.put_facts({"user/ü": b"\0\xff"})
    yield store
    store.close()


def exported(path: Path) -> list[bytes]:
    with Snapshot(path) as snapshot:
        return b"".join(export_lines(snapshot)).splitlines(keepends=True)


def line(lines: list[bytes], kind: str) -> int:
    """The index of the first line of a kind."""
    return next(at for at, text in enumerate(lines) if orjson.loads(text).get("kind") == kind)


# -- export and import -------------------------------------------------------------------------------------------------


def test_an_export_has_a_line_for_each_thing(store: SqliteStore, path: Path) -> None:
    lines = [orjson.loads(text) for text in exported(path)]
    assert lines[0]["fastmq_store"] == 1
    assert lines[0]["engine_ms"] == 1000
    kinds = [each["kind"] for each in lines[1:]]
    assert kinds == [
        "group", "session", "session", "subscription", "subscription", "received", "message", "message", "message",
        "retained", "will", "delivery", "delivery", "delivery", "delivery", "fact", "end",
    ]  # fmt: skip
    assert set(kinds) == {kind.name for kind in KINDS} | {"end"}
    assert lines[4] == {
        "kind": "subscription", "session": 1, "filter": "a/+/ü", "qos": 2, "no_local": True,
        "retain_as_published": True, "retain_handling": 2, "retained_due": True, "id": 77,
    }  # fmt: skip
    assert lines[7] == {
        "kind": "message", "id": 1, "topic": "a/b", "qos": 1, "retain": False, "origin": 2, "expires_ms": None,
        "properties": "JgABYQABYg==", "payload": "AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/w==",
    }  # fmt: skip
    assert lines[-2] == {"kind": "fact", "key": "user/ü", "value": "AP8="}
    assert lines[-1] == {"kind": "end", "lines": len(lines) - 1}


def test_an_import_makes_the_same_store(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "new" / "folder" / "copy.db"
    lines = exported(path)
    assert sum(import_lines(lines, copy).values()) == len(lines) - 2
    assert exported(copy) == lines
    assert read_beside(copy) == {"user/ü": b"\0\xff"}
    assert {file.name for file in copy.parent.iterdir()} >= {"copy.db", "copy.db.lock"}
    assert not beside(copy, ".import").exists()
    store.close()
    assert everything(copy) == everything(path)


def everything(path: Path) -> list[r.Record]:
    """What a broker would load, but for the time."""
    store = SqliteStore(path)
    loaded = list(r.decode(b"".join(store.load())))[1:]
    store.close()
    return loaded


def test_the_time_goes_on_in_an_imported_store(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    lines = exported(path)
    head = orjson.loads(lines[0])
    head["wall_ms"] -= 3_600_000
    head["boot_id"] = "of another machine"
    import_lines([orjson.dumps(head), *lines[1:]], tmp_path / "copy.db")
    copy = SqliteStore(tmp_path / "copy.db")
    (clock, *_) = r.decode(b"".join(copy.load()))
    copy.close()
    assert isinstance(clock, r.Clock)
    assert 3_600_000 <= clock.engine_ms - 1000 < 3_660_000


def test_a_store_is_only_replaced_when_asked_to(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    lines = exported(path)
    import_lines(lines, copy)
    empty = [lines[0], b'{"kind":"end","lines":1}\n']
    with pytest.raises(StoreError, match=r"copy\.db: there is a store already; --replace"):
        import_lines(empty, copy)
    assert exported(copy) == lines
    assert import_lines(empty, copy, replace=True) == {}
    assert exported(copy) == empty


def test_a_store_that_a_broker_has_is_not_replaced(store: SqliteStore, path: Path) -> None:
    lines = exported(path)
    with pytest.raises(StartError, match="has this store open"):
        import_lines(lines, path, replace=True)
    assert exported(path) == lines


def test_what_is_no_store_is_put_aside_before_it_is_replaced(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not to be lost")
    import_lines(exported(path), other, replace=True)
    (aside,) = tmp_path.glob("notes.txt.damaged-*")
    assert aside.read_text() == "not to be lost"


def test_the_database_of_another_program_is_left_alone(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(StartError, match="another program"):
        import_lines(exported(path), other, replace=True)
    assert other.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("session", {"serial": -1}, "'serial' cannot be -1"),
        ("session", {"serial": True}, "'serial' cannot be True"),
        ("session", {"serial": 3}, "serial 3 is there twice"),
        ("session", {"client_id": "a\0b"}, "text that is not UTF-8"),
        ("session", {"expiry_s": 1 << 32}, "out of range"),
        ("session", {"color": "red"}, "there is no 'color'"),
        ("group", {"text": "a/#"}, "no filter of a shared group"),
        ("subscription", {"filter": "a/#/b"}, "no topic filter"),
        ("subscription", {"qos": 3}, "'qos' cannot be 3"),
        ("subscription", {"session": 8}, "session 8 is not in the lines before"),
        ("received", {"packet_id": 0}, "packet id 0"),
        ("received", {"session": None}, "'session' cannot be None"),
        ("message", {"topic": "a/+"}, "no topic name"),
        ("message", {"payload": "not base64"}, "no base64"),
        ("message", {"properties": "/w=="}, "bad properties"),
        ("message", {"id": 2}, "message 2 is there twice"),
        ("retained", {"message": 4}, "message 4 is not in the lines before"),
        ("will", {"message": 12}, "message 12 is not in the lines before"),
        ("delivery", {"subscriber": 7}, "session 7 is not in the lines before"),
        ("delivery", {"state": "lost"}, "'state' cannot be 'lost'"),
        ("delivery", {"state": "queued"}, "a packet id that its state does not allow"),
        ("delivery", {"subscription_ids": [0]}, "subscription identifier 0"),
        ("delivery", {"position": 7}, "position 6 of subscriber 1 is not after the one before"),
        ("delivery", {"kind": "parcel"}, "there is no kind 'parcel'"),
        ("fact", {"value": "AP8"}, "no base64"),
        ("fact", {"key": "k" * 65_536}, "too long"),
        ("end", {"lines": 3}, "some are missing"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_nothing_is_imported(
    store: SqliteStore, path: Path, tmp_path: Path, kind: str, changes: dict[str, object], what: str
) -> None:
    lines = exported(path)
    at = line(lines, kind)
    lines[at] = orjson.dumps({**orjson.loads(lines[at]), **changes}, option=orjson.OPT_APPEND_NEWLINE)
    with pytest.raises(WrongFile) as error:
        import_lines(lines, tmp_path / "copy.db")
    assert any(what in told for _, told in error.value.problems), error.value
    assert any(number in (at + 1, at + 2) for number, _ in error.value.problems)
    assert {file.name for file in tmp_path.iterdir()} - {"copy.db.lock"} == {
        file.name for file in tmp_path.glob("store.db*")
    }


def test_every_wrong_line_is_told_up_to_a_limit(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    lines = exported(path)
    lines[1:1] = [b"{", b"[]\n", b"\xff\n"]
    with pytest.raises(WrongFile) as error:
        import_lines(lines, tmp_path / "copy.db")
    assert [number for number, _ in error.value.problems[:3]] == [2, 3, 4]
    with pytest.raises(WrongFile) as error:
        import_lines([lines[0], *[b"x\n"] * 100], tmp_path / "copy.db")
    assert len(error.value.problems) == 20


@pytest.mark.parametrize("kept", [0, 1, 5, -1])
def test_an_export_that_was_cut_off_is_not_imported(store: SqliteStore, path: Path, tmp_path: Path, kept: int) -> None:
    with pytest.raises(WrongFile, match=r"cut off|no JSON"):
        import_lines(exported(path)[:kept], tmp_path / "copy.db")


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b'{"fastmq_store":2}', "has format 2, this fastmq reads 1"),
        (b'{"a":1}', "no export of a store"),
        (b'{"fastmq_store":1}', "'engine_ms' is missing"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, first: bytes, what: str) -> None:
    with pytest.raises(WrongFile, match=f"^1: .*{what}"):
        import_lines([first], tmp_path / "copy.db")


# -- check -------------------------------------------------------------------------------------------------------------


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_sound_store_is_sound_while_it_is_open_and_afterwards(store: SqliteStore, path: Path) -> None:
    found = check(path)
    assert (found.damage, found.dangling) == ([], [])
    assert found.notes == ["1 messages that nothing refers to, which the next start removes"]
    store.close()
    assert check(path).is_sound


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE journal SET crc = crc + 1", "journal: the checksum of batch 1 is wrong"),
        ("UPDATE journal SET records = 5", "journal: a row of the journal has no batch"),
        ("INSERT INTO session VALUES (9, x'ff', 0, 0, 0)", "session serial 9: the row has text that is not UTF-8"),
        ("INSERT INTO delivery VALUES (1, 2, 3, 255, 0, NULL)", "delivery subscriber 1, position 2: "),
        ("INSERT INTO message VALUES (9, 0, 0, x'01')", "message id 9: "),
        ("INSERT INTO fact VALUES (x'ff', x'00')", "fact b'\\xff': is none"),
        ("UPDATE meta SET value = 'then' WHERE key = 'wall_ms'", "the clocks are no times"),
    ],
)
def test_what_no_store_wrote_is_damage(store: SqliteStore, path: Path, statement: str, what: str) -> None:
    store._file.release()  # as a crash leaves it: with its journal
    change(path, statement)
    found = check(path)
    assert not found.is_sound
    assert any(line.startswith(what) for line in found.damage), found.damage


def test_damaged_pages_are_found(path: Path) -> None:
    store = SqliteStore(path)
    list(store.load())
    ids = range(1, 3001)
    store.append(r.encode(*RICH, *(r.Received(1, id) for id in ids)), True)
    store.close()
    with path.open("r+b") as file:
        file.seek(-4096 * 2, 2)
        file.write(bytes(range(256)) * 32)
    assert check(path).damage
    path.write_bytes(b"not a database" * 100)
    assert check(path).damage == ["this is no database"]


def test_what_refers_to_nothing_is_found(store: SqliteStore, path: Path) -> None:
    store.append(
        r.encode(r.Clock(1001), r.Subscribed(8, 1, 0, "x"), r.Delivery(8, 1, 1, 1, False, 0, 0), r.Retained(77)), True
    )
    found = check(path)
    assert found.damage == []
    assert found.dangling == [
        "1 subscriptions of sessions that are not there",
        "1 retained messages whose message is not there",
        "1 deliveries whose subscriber or message is not there",
    ]
