"""Applies the net effect of journal batches (`fastmq/_fold.pyx`) to the tables, piece by piece."""

import sqlite3
from functools import cache
from typing import Final

from fastmq._fold import OP_NAMES, Fold

INTO: Final = {
    "ended": ("gone_session", "(?)"),
    "group_gone": ("gone_group", "(?)"),
    "forget": ("gone_message", "(?,?)"),
    "message": ("message", "(?,?,?,?)"),
    "unretained": ("gone_retained", "(?)"),
    "retained": ("retained", "(?)"),
    "done": ("gone_delivery", "(?,?,?)"),
    "state": ("changed_delivery", "(?,?,?,?)"),
    "delivery": ("delivery", "(?,?,?,?,?,?)"),
    "released": ("gone_received", "(?,?)"),
    "received": ("received", "(?,?)"),
    "session": ("session", "(?,?,?,?,?)"),
    "unsubscribed": ("gone_subscription", "(?,?)"),
    "subscribed": ("subscription", "(session, filter, options, id)", "(?,?,?,?)"),
    "will_gone": ("gone_will", "(?)"),
    "will": ("will", "(?,?,?,?)"),
    "group": ("shared_group", "(?,?)"),
}
"""Where the rows of each kind of piece go."""

OWNERS: Final = {OP_NAMES.index("ended"), OP_NAMES.index("group_gone")}
DELIVERIES_AT_ONCE: Final = 2000


@cache
def statement(op: int, rows: int) -> str:
    table, *columns, values = INTO[OP_NAMES[op]]
    return f"INSERT OR REPLACE INTO {table} {' '.join(columns)} VALUES {','.join([values] * rows)}"


def apply_chunk(connection: sqlite3.Connection, fold: Fold) -> bool:
    """Applies the next piece, within the caller's transaction; False when there is none left."""
    chunk = fold.chunk()
    if chunk is None:
        return False
    op, rows, values = chunk
    connection.execute(statement(op, rows), values)
    return True
