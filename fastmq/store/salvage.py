"""Saves what can be read of a damaged file: table by table, row by row, into a new one.

The damaged file stays as it was found: a copy is read, since SQLite changes what it opens.
"""

import contextlib
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastmq._records import Pack, scan
from fastmq.store import facts
from fastmq.store.clock import Stamp
from fastmq.store.files import SUFFIXES, beside
from fastmq.store.journal import INSERT_AGAIN
from fastmq.store.records import (
    CLOCK_MAX,
    KIND,
    Delivery,
    Group,
    Message,
    Received,
    Record,
    Retained,
    Session,
    Subscribed,
    Will,
    decode,
)
from fastmq.store.schema import COLUMNS

KINDS: Final[dict[str, type[Record]]] = {
    "shared_group": Group,
    "session": Session,
    "subscription": Subscribed,
    "received": Received,
    "message": Message,
    "retained": Retained,
    "will": Will,
    "delivery": Delivery,
}
ROW_AT_ONCE: Final = 1000
GAPS_MAX: Final = 64
"""How often a table's unreadable parts are searched for a part between that can be read."""
NUMBER_MAX: Final = 2**63 - 1
TIME_MAX: Final = CLOCK_MAX // 2


@dataclass
class Salvaged:
    """What came out of it."""

    rows: dict[str, int] = field(default_factory=dict)
    """Saved rows of each table."""
    bad_rows: dict[str, int] = field(default_factory=dict)
    """Rows that could be read but say nothing sensible."""
    unreadable: list[str] = field(default_factory=list)
    """Tables of which a part, of unknown size, could not be read."""
    stamp: Stamp = field(default_factory=Stamp)
    """The latest that was found."""
    workers: int = 0
    """How many the broker had; -1: that cannot be read."""


def salvage(damaged: Path, into: sqlite3.Connection) -> Salvaged:
    """Reads all it can; raises sqlite3.Error or OSError only for what is wrong with the new file or the disk."""
    copy = beside(damaged, ".copy")
    out = Salvaged()
    try:
        for suffix in SUFFIXES:
            if beside(damaged, suffix).exists():
                shutil.copyfile(beside(damaged, suffix), beside(copy, suffix))
        source = sqlite3.connect(copy, isolation_level=None)
        try:
            source.text_factory = bytes
            into.execute("BEGIN IMMEDIATE")
            for table in KINDS:
                save_table(source, into, table, out)
            save_facts(source, into, out)
            save_journal(source, into, out)
            out.stamp = max(out.stamp, read_stamp(source), key=lambda stamp: stamp.engine_ms)
            out.workers = read_workers(source)
            into.execute("COMMIT")
        finally:
            source.close()
            if into.in_transaction:
                into.execute("ROLLBACK")
    finally:
        for suffix in SUFFIXES:
            beside(copy, suffix).unlink(missing_ok=True)
    return out


def save_table(source: sqlite3.Connection, into: sqlite3.Connection, table: str, out: Salvaged) -> None:
    columns = COLUMNS[table]
    values = ",".join("?" for _ in columns.split(","))
    # Text comes as bytes, and goes as text: what is not UTF-8 is refused before it gets here.
    insert = f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({values})"
    for row in readable(source, table, columns, out):
        good = sound(table, row)
        if good is None:
            out.bad_rows[table] = out.bad_rows.get(table, 0) + 1
        else:
            into.execute(insert, good)
            out.rows[table] = out.rows.get(table, 0) + 1


def save_facts(source: sqlite3.Connection, into: sqlite3.Connection, out: Salvaged) -> None:
    """From the front, and from the back when that ends too early. A store of version 1 has none."""
    for order in ("", " DESC"):
        for row in rows_until_broken(source, f"{facts.READ} ORDER BY key{order}"):
            if row is None:
                break
            if not facts.is_sound(row):
                out.bad_rows["fact"] = out.bad_rows.get("fact", 0) + 1
                continue
            changed = into.execute("INSERT OR IGNORE INTO fact VALUES (CAST(? AS TEXT), ?)", row).rowcount
            out.rows["fact"] = out.rows.get("fact", 0) + changed
        else:
            return
        if not order:
            with contextlib.suppress(sqlite3.Error):
                if not facts.has_facts(source):
                    return
            out.unreadable.append("fact")


def sound(table: str, row: tuple[object, ...]) -> tuple[object, ...] | None:
    """The row as it is to be stored; None when it makes no record."""
    pack = Pack()
    try:
        if table == "message":
            pack.add(KIND[Message], [(row[0], row[3])])
            (message,) = decode(pack.take())
            assert isinstance(message, Message)
            size = len(message.topic.encode()) + len(message.properties) + len(message.payload)
            return message.id, message.expires_ms or 0, size, row[3]
        pack.add(KIND[KINDS[table]], [row])
    except (ValueError, OverflowError):
        return None
    text = {"session": 1, "subscription": 1, "shared_group": 1}.get(table)
    return tuple(str(value, "utf-8") if at == text else value for at, value in enumerate(row))  # type: ignore[call-overload]


def readable(source: sqlite3.Connection, table: str, columns: str, out: Salvaged) -> Iterator[tuple[object, ...]]:
    """The rows that SQLite gives: from the front, from the back, and from between what it does not give."""
    key = columns.split(",")[0]
    gaps, searches = [(-1, NUMBER_MAX)], 0
    while gaps:
        low, high = gaps.pop()
        front = low
        broken = False
        for row in rows_until_broken(
            source, f"SELECT {columns} FROM {table} WHERE {key} > {low} AND {key} <= {high} ORDER BY 1"
        ):
            if row is None:
                broken = True
                break
            yield row
            front = row[0] if isinstance(row[0], int) and row[0] > front else front
        if not broken:
            continue
        if table not in out.unreadable:
            out.unreadable.append(table)
        back = high
        for row in rows_until_broken(
            source, f"SELECT {columns} FROM {table} WHERE {key} >= {front} AND {key} <= {high} ORDER BY 1 DESC"
        ):
            if row is None:
                break
            yield row
            back = row[0] if isinstance(row[0], int) and row[0] < back else back
        searches += 1
        middle = (front + back) // 2
        if searches < GAPS_MAX and front < middle < back:
            gaps += [(front, middle), (middle, back)] if searches > 1 else [(middle, back - 1)]


def rows_until_broken(source: sqlite3.Connection, query: str) -> Iterator[tuple[object, ...] | None]:
    """Rows, then None when it was an error that ended them."""
    try:
        yield from source.execute(query)
    except (sqlite3.Error, OverflowError, UnicodeError):
        yield None


def save_journal(source: sqlite3.Connection, into: sqlite3.Connection, out: Salvaged) -> None:
    """Batches whose checksum is right. What is missing between them cannot be known."""
    for row in readable(source, "journal", "seq, engine_ms, boot_ms, wall_ms, crc, records", out):
        if is_sound_batch(row):
            into.execute(INSERT_AGAIN, row)
            out.rows["journal"] = out.rows.get("journal", 0) + 1
        else:
            out.bad_rows["journal"] = out.bad_rows.get("journal", 0) + 1


def is_sound_batch(row: tuple[object, ...]) -> bool:
    *numbers, crc, batch = row
    if not isinstance(batch, bytes) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        return False
    try:
        scan(batch)
    except ValueError:
        return False
    return zlib.crc32(batch) == crc


def read_stamp(source: sqlite3.Connection) -> Stamp:
    """The clocks as the tables had them; all zero when that cannot be read."""
    try:
        found = dict(source.execute("SELECT key, value FROM meta"))
        return stamp_of(found)
    except (sqlite3.Error, ValueError, TypeError):
        return Stamp()


def read_workers(source: sqlite3.Connection) -> int:
    """The number of workers as the tables have it; -1 when that cannot be read."""
    try:
        found = source.execute("SELECT value FROM meta WHERE key = 'workers'").fetchone() or (0,)
    except sqlite3.Error:
        return -1
    return found[0] if isinstance(found[0], int) else -1


def stamp_of(meta: dict[bytes, object]) -> Stamp:
    """Raises ValueError for what is no stamp."""
    numbers = [meta.get(key, 0) for key in (b"engine_ms", b"boot_ms", b"wall_ms")]
    boot_id = meta.get(b"boot_id", b"")
    if not isinstance(boot_id, bytes):
        raise ValueError("the boot id is no text")
    known = [number for number in numbers if isinstance(number, int) and 0 <= number <= TIME_MAX]
    if len(known) != 3:
        raise ValueError("the clocks are no times")
    return Stamp(known[0], known[1], known[2], boot_id.decode("ascii", "replace"))
