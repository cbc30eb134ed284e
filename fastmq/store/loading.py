"""What `SqliteStore.load` reads from the tables, once the journal is folded into them.

Everything but the messages' bodies is read, checked and packed before the first batch is given out, so that damage is
found while there is still time to do something about it.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from fastmq._records import Ids, Pack
from fastmq.store.journal import Damaged
from fastmq.store.records import (
    KIND,
    Clock,
    Delivery,
    Group,
    Message,
    Received,
    Retained,
    Session,
    Subscribed,
    encode,
)
from fastmq.store.records import Will as WillRecord
from fastmq.store.schema import COLUMNS, in_transaction

ROWS: Final = 512
BATCH_BYTES: Final = 256 * 1024

DELIVERIES: Final = f"SELECT {COLUMNS['delivery']} FROM delivery ORDER BY subscriber, position"

Progress = Callable[[int, int], None]

OWNED: Final = (("subscription", "session"), ("received", "session"), ("will", "session"))

SUBSCRIBERS: Final = """
WITH RECURSIVE known(serial) AS (
    SELECT min(subscriber) FROM delivery
    UNION ALL SELECT (SELECT min(subscriber) FROM delivery WHERE subscriber > serial) FROM known
    WHERE serial IS NOT NULL)
SELECT serial FROM known WHERE serial IS NOT NULL
    AND serial NOT IN (SELECT serial FROM session) AND serial NOT IN (SELECT serial FROM shared_group)
"""
"""Whose deliveries are there, though they are not; one step into the index for each subscriber, not for each row."""

WHOLE: Final = "SELECT message FROM retained UNION SELECT message FROM will"


class Loading:
    """One load of a store."""

    def __init__(self, connection: sqlite3.Connection, now_ms: int, progress: Progress) -> None:
        self._connection = connection
        self._now_ms = now_ms
        self._progress = progress
        self._pack = Pack()
        self._done = 0
        self._total = 0
        self.dropped: dict[str, int] = {}
        """What was left out and removed, by kind."""

    def batches(self) -> Iterator[bytes]:
        """All that is stored. Raises Damaged, or sqlite3.Error, before the first batch unless a disk fails midway."""
        try:
            in_transaction(self._connection, self._tidy)
            self._total = sum(self._count(table) for table in ("session", "subscription", "message", "delivery"))
            before, stubs, after = self._read()
        except (ValueError, OverflowError) as error:
            raise Damaged(str(error)) from None
        yield encode(Clock(self._now_ms))
        yield from drained(before)
        yield from self._messages()
        yield from drained(stubs)
        yield from drained(after)
        self._progress(self._total, self._total)

    def _tidy(self) -> None:
        """Removes what nobody can use; see `MemoryStore`, which says it more plainly."""
        connection = self._connection
        for table, key in OWNED:
            gone = connection.execute(f"DELETE FROM {table} WHERE {key} NOT IN (SELECT serial FROM session)")
            self._dropped(table, gone.rowcount)
        for (serial,) in connection.execute(SUBSCRIBERS).fetchall():
            gone = connection.execute("DELETE FROM delivery WHERE subscriber = ?", (serial,))
            self._dropped("delivery", gone.rowcount)
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS expired (id INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM expired")
        expired = connection.execute(
            "INSERT INTO expired SELECT id FROM main.message WHERE expires_ms > 0 AND expires_ms <= ?"
            " AND id NOT IN (SELECT message FROM will)",
            (self._now_ms,),
        )
        if expired.rowcount:
            connection.execute("DELETE FROM retained WHERE message IN (SELECT id FROM expired)")

    def _dropped(self, what: str, count: int) -> None:
        if count > 0:
            self.dropped[what] = self.dropped.get(what, 0) + count

    def _count(self, table: str) -> int:
        count = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        assert isinstance(count, int)
        return count

    def _rows(self, query: str) -> Iterator[list[tuple[object, ...]]]:
        cursor = self._connection.execute(query)
        while rows := cursor.fetchmany(ROWS):
            yield rows

    def _step(self, rows: int) -> None:
        self._done += rows
        self._progress(min(self._done, self._total), self._total)

    def _read(self) -> tuple[deque[bytes], deque[bytes], deque[bytes]]:
        before, stubs, after = deque[bytes](), deque[bytes](), deque[bytes]()
        for table, record in (
            ("shared_group", Group), ("session", Session), ("subscription", Subscribed), ("received", Received),
        ):  # fmt: skip
            self._table(table, KIND[record], before)
        whole, needed, live, expired = Ids(), Ids(), Ids(), Ids()
        for rows in self._rows(WHOLE):
            whole.add_rows(rows)
            needed.add_rows(rows)
        for rows in self._rows("SELECT id FROM expired"):
            expired.add_rows(rows)
        self._bodies()
        deliveries = deque[bytes]()
        self._deliveries(needed, expired, deliveries)
        orphans: list[int] = []
        for rows in self._rows("SELECT id, size, expires_ms FROM message ORDER BY id"):
            orphans += self._pack.add_stubs(rows, needed, whole, live)
            self._full(stubs)
            self._step(len(rows))
        self._flush(stubs)
        over: list[tuple[int, int]] = []
        if len(expired) or len(live) < len(needed):
            deliveries.clear()
            over = self._deliveries_of(live, expired, deliveries)
        lost = self._lost(whole, live)
        self._table("retained", KIND[Retained], after)
        self._table("will", KIND[WillRecord], after)
        after += deliveries
        if orphans or over or lost:
            self._dropped("message", len(orphans))
            self._dropped("delivery", len(over))
            in_transaction(self._connection, lambda: self._remove(orphans, over))
        return before, stubs, after

    def _deliveries(self, needed: Ids, expired: Ids, into: deque[bytes]) -> None:
        """All of them, and the messages that they need. Mostly none is without one, and this is what is given out."""
        for rows in self._rows(DELIVERIES):
            self._pack.add_deliveries(rows, needed, expired)
            self._full(into)
            self._step(len(rows))
        self._flush(into)

    def _deliveries_of(self, live: Ids, expired: Ids, into: deque[bytes]) -> list[tuple[int, int]]:
        """Those that have something to deliver; returns where the others are."""
        over: list[tuple[int, int]] = []
        for rows in self._rows(DELIVERIES):
            over += self._pack.add(KIND[Delivery], rows, live, expired)
            self._full(into)
        self._flush(into)
        return over

    def _lost(self, whole: Ids, live: Ids) -> int:
        """Removes what is retained, and wills, whose message is not there; how many there were."""
        if all(message in live for message in whole):
            return 0
        lost = 0
        for table in ("retained", "will"):
            gone = self._connection.execute(f"DELETE FROM {table} WHERE message NOT IN (SELECT id FROM message)")
            self._dropped(table, gone.rowcount)
            lost += gone.rowcount
        return lost

    def _remove(self, orphans: list[int], over: list[tuple[int, int]]) -> None:
        self._connection.executemany("DELETE FROM message WHERE id = ?", ((id,) for id in orphans))
        self._connection.executemany("DELETE FROM delivery WHERE subscriber = ? AND position = ?", over)

    def _table(self, table: str, kind: int, into: deque[bytes]) -> None:
        for rows in self._rows(
            f"SELECT {COLUMNS[table]} FROM {table} ORDER BY 1, 2"
            if "," in COLUMNS[table]
            else f"SELECT {COLUMNS[table]} FROM {table} ORDER BY 1"
        ):
            self._pack.add(kind, rows)
            self._full(into)
            if table in ("session", "subscription"):
                self._step(len(rows))
        self._flush(into)

    def _full(self, into: deque[bytes]) -> None:
        if len(self._pack) >= BATCH_BYTES:
            self._flush(into)

    def _flush(self, into: deque[bytes]) -> None:
        if len(self._pack):
            into.append(self._pack.take())

    def _bodies(self) -> None:
        """Only checks them; they are read again when they are given out."""
        for batch in self._messages():
            del batch

    def _messages(self) -> Iterator[bytes]:
        pack = Pack()
        query = self._connection.execute(f"SELECT id, record FROM message WHERE id IN ({WHOLE}) ORDER BY id")
        while rows := query.fetchmany(64):
            pack.add(KIND[Message], rows)
            if len(pack) >= BATCH_BYTES:
                yield pack.take()
        if len(pack):
            yield pack.take()


def drained(batches: deque[bytes]) -> Iterator[bytes]:
    """One after another, none longer in memory than it must be."""
    while batches:
        yield batches.popleft()
