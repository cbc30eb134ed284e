"""Looks for everything in a store's file that a broker would stumble over, and changes nothing."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastmq._records import Pack
from fastmq.errors import StoreError
from fastmq.store import facts
from fastmq.store.database import NUMBERS, is_damage
from fastmq.store.journal import Damaged, Journal
from fastmq.store.records import KIND
from fastmq.store.salvage import KINDS, stamp_of
from fastmq.store.schema import COLUMNS
from fastmq.store.snapshot import KEYS, ROWS, Snapshot, connect

NAMED_MAX: Final = 20
"""So many wrong rows of a table are told one by one."""

WHOSE: Final = {
    "subscription": "subscriptions of sessions that are not there",
    "received": "received packet ids of sessions that are not there",
    "retained": "retained messages whose message is not there",
    "will": "wills whose session or message is not there",
    "delivery": "deliveries whose subscriber or message is not there",
}


@dataclass
class Findings:
    """What a look at the file gave."""

    damage: list[str] = field(default_factory=list)
    """For each of it, the broker puts the file aside when it starts, and goes on with what can be read."""
    dangling: list[str] = field(default_factory=list)
    """What the broker leaves out when it starts."""
    notes: list[str] = field(default_factory=list)
    """What is as it should be after a crash."""

    @property
    def is_sound(self) -> bool:
        return not self.damage and not self.dangling


def check(path: Path, step: Callable[[str], None] = lambda what: None) -> Findings:
    """Reads all of it once; `step` hears what is looked at. Raises StoreError and StartError as `snapshot.connect`."""
    found = Findings()
    try:
        connection = connect(path)
    except Damaged as error:
        return Findings([str(error)])
    try:
        connection.execute("BEGIN")
        for what, look in (("pages", pages), ("clocks", clocks), ("journal", journal), ("rows", rows)):
            step(what)
            found.damage += look(connection)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise StoreError("failed", f"{path}: {error}") from error
        found.damage.append(str(error))
    finally:
        connection.close()
    if not found.damage:
        step("references")
        with Snapshot(path) as snapshot:
            references(snapshot, found)
    return found


def pages(connection: sqlite3.Connection) -> Iterator[str]:
    for (line,) in connection.execute(f"PRAGMA quick_check({NAMED_MAX})"):
        if line != b"ok":
            yield line.decode(errors="replace").replace("\n", "; ")


def clocks(connection: sqlite3.Connection) -> Iterator[str]:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    try:
        stamp_of(meta)
    except ValueError as error:
        yield str(error)
    if not all(isinstance(meta.get(key, 0), int) for key in NUMBERS):
        yield "the numbers of the newest message and batch are none"


def journal(connection: sqlite3.Connection) -> Iterator[str]:
    known, named = Journal(), 0
    for row in connection.execute("SELECT seq, engine_ms, boot_ms, wall_ms, crc, records FROM journal ORDER BY seq"):
        try:
            known.add_row(row)
        except Damaged as error:
            named += 1
            if named <= NAMED_MAX:
                yield f"journal: {error}"
    if named > NAMED_MAX:
        yield f"journal: {named - NAMED_MAX} more"


def rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Rows that make no record."""
    for table in KINDS:
        wrong = 0
        cursor = connection.execute(f"SELECT {COLUMNS[table]} FROM {table}")
        while some := cursor.fetchmany(ROWS):
            if reason(table, some) is None:
                continue
            for row in some:
                if (why := reason(table, [row])) is not None:
                    wrong += 1
                    if wrong <= NAMED_MAX:
                        yield f"{table} {shown(table, row)}: {why}"
        if wrong > NAMED_MAX:
            yield f"{table}: {wrong - NAMED_MAX} more rows"
    for row in connection.execute(facts.READ) if facts.has_facts(connection) else ():
        if not facts.is_sound(row):
            yield f"fact {row[0]!r:.50}: is none"


def reason(table: str, some: list[tuple[object, ...]]) -> str | None:
    """Why these rows make no records; None when they do."""
    try:
        Pack().add(KIND[KINDS[table]], [(row[0], row[3]) for row in some] if table == "message" else some)
    except (ValueError, OverflowError) as error:
        return str(error)
    return None


def shown(table: str, row: tuple[object, ...]) -> str:
    """What names the row."""
    return ", ".join(f"{name} {value!r:.50}" for name, value in zip(KEYS[table], row, strict=False))


def references(snapshot: Snapshot, found: Findings) -> None:
    """What refers to nothing, and what nothing refers to, as it will be once the journal is folded."""
    for table, what in WHOSE.items():
        count = snapshot.count(table) - snapshot.count(table, only_usable=True)
        if count:
            found.dangling.append(f"{count:,} {what}")
    unused = snapshot.count("message") - snapshot.count("message", only_usable=True)
    if unused:
        found.notes.append(f"{unused:,} messages that nothing refers to, which the next start removes")
