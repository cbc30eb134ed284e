"""Reads message bodies from the table, many in one statement.

Messages are stored as the records that they were appended as, which say themselves where they end. So SQLite may
concatenate them, and one row gives thousands: each row would cost the thread its hold of the GIL.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from fastmq import logs
from fastmq._records import Pack, split
from fastmq.store.records import KIND, Message

RUN_MIN: Final = 16
"""From so many neighbours on, ids are asked for as a range."""
RUN_MAX: Final = 4096
SCATTERED_AT_ONCE: Final = 256

log = logs.get("store")


def from_table(connection: sqlite3.Connection, found: dict[int, bytes | None]) -> None:
    """Sets the record of each id that is a key of `found` and in the table. Raises sqlite3.Error."""
    scattered: list[int] = []
    for run in runs(sorted(found)):
        if len(run) < RUN_MIN:
            scattered += run
        else:
            take(connection, "id BETWEEN ? AND ?", (run[0], run[-1]), run, found)
    for at in range(0, len(scattered), SCATTERED_AT_ONCE):
        ids = scattered[at : at + SCATTERED_AT_ONCE]
        padded = (*ids, *[-1] * (SCATTERED_AT_ONCE - len(ids))) if len(ids) > 4 else tuple(ids)
        take(connection, f"id IN ({','.join('?' * len(padded))})", padded, ids, found)


def runs(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cuts ascending ids into runs of neighbours."""
    start = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or ids[at] != ids[at - 1] + 1 or at - start == RUN_MAX:
            yield ids[start:at]
            start = at


def take(
    connection: sqlite3.Connection,
    where: str,
    values: Sequence[int],
    ids: Sequence[int],
    found: dict[int, bytes | None],
) -> None:
    try:
        query = f"SELECT group_concat(record, '') FROM message WHERE {where}"
        (records,) = connection.execute(query, values).fetchone()
        if records is not None:
            split(records, found)
    except (ValueError, TypeError, sqlite3.DataError, MemoryError):  # a damaged row, or more than SQLite can join
        for id in ids:
            found[id] = one(connection, id)


def one(connection: sqlite3.Connection, id: int) -> bytes | None:
    rows = connection.execute("SELECT id, record FROM message WHERE id = ?", (id,)).fetchall()
    pack = Pack()
    try:
        pack.add(KIND[Message], rows)
    except ValueError as error:
        log.rarely("error", "fetch", "a stored message is damaged", message=id, error=error)
        return None
    return pack.take() or None
