"""The batches in front of the tables: those that were appended and are not yet folded."""

import sqlite3
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Final

from fastmq._records import pick, scan
from fastmq.store.clock import Stamp
from fastmq.store.records import CLOCK_MAX

MEMORY_BYTES: Final = 32 * 1024 * 1024
"""How many bytes of batches are kept in memory too; those past it are read again when they are needed."""

INSERT: Final = "INSERT INTO journal (seq, engine_ms, boot_ms, wall_ms, crc, records) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_AGAIN: Final = INSERT.replace("INSERT", "INSERT OR REPLACE", 1)


class Damaged(Exception):
    """The file has something that no store wrote."""


@dataclass(slots=True)
class Entry:
    """One batch."""

    seq: int
    size: int
    low: int
    high: int
    """The lowest and highest id of its MESSAGE and FORGET records."""
    batch: bytes | None
    """None: only in the file."""


class Journal:
    """What the file's journal has, oldest first."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.bytes = 0
        self.seq = 0
        """Of the newest batch that was ever appended."""
        self._in_memory = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Entry) -> None:
        if self._in_memory + entry.size > MEMORY_BYTES:
            entry.batch = None
        else:
            self._in_memory += entry.size
        self.entries.append(entry)
        self.bytes += entry.size
        self.seq = entry.seq

    def drop_to(self, seq: int) -> None:
        """Forgets the batches up to this one: they are folded."""
        while self.entries and self.entries[0].seq <= seq:
            entry = self.entries.popleft()
            self.bytes -= entry.size
            if entry.batch is not None:
                self._in_memory -= entry.size

    def oldest(self, bytes_max: int, connection: sqlite3.Connection) -> tuple[list[bytes], int]:
        """At least one and at most `bytes_max` of the oldest batches, and the seq of the last of them."""
        batches: list[bytes] = []
        size = seq = 0
        for entry in self.entries:
            size += entry.size
            if batches and size > bytes_max:
                break
            batches.append(batch_of(entry, connection))
            seq = entry.seq
        return batches, seq

    def pick(self, into: dict[int, bytes | None], connection: sqlite3.Connection) -> None:
        """Puts the messages among the batches that `into` has as keys there, and drops what they forget."""
        low, high = min(into), max(into)
        for entry in self.entries:
            if entry.low <= high and entry.high >= low:
                pick(batch_of(entry, connection), into)

    def read(self, connection: sqlite3.Connection) -> Stamp | None:
        """Learns what the file has; returns when its newest batch was appended. Raises Damaged."""
        last = None
        for row in connection.execute(
            "SELECT seq, engine_ms, boot_ms, wall_ms, crc, records FROM journal ORDER BY seq"
        ):
            last = self.add_row(row)
        return last

    def add_row(self, row: tuple[object, ...]) -> Stamp:
        *numbers, crc, batch = row
        known = [number for number in numbers if isinstance(number, int) and 0 <= number <= CLOCK_MAX // 2]
        if not isinstance(batch, bytes) or len(known) != 4:
            raise Damaged("a row of the journal has no batch")
        seq, engine_ms, boot_ms, wall_ms = known
        if zlib.crc32(batch) != crc:
            raise Damaged(f"the checksum of batch {seq} is wrong")
        try:
            _, _, low, high = scan(batch)
        except ValueError as error:
            raise Damaged(f"batch {seq}: {error}") from None
        self.add(Entry(seq, len(batch), low, high, batch))
        return Stamp(engine_ms, boot_ms, wall_ms)


def batch_of(entry: Entry, connection: sqlite3.Connection) -> bytes:
    if entry.batch is not None:
        return entry.batch
    row = connection.execute("SELECT records FROM journal WHERE seq = ?", (entry.seq,)).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise Damaged(f"batch {entry.seq} is not where it was")
    return row[0]
