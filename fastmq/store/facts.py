"""What a store remembers besides sessions and messages: users and bans, a key and a value each.

Another process may change them while a broker has the store open: `fastmq users` and `fastmq bans` do. SQLite keeps
the two apart, and counts what others commit.
"""

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastmq.errors import StoreError
from fastmq.store import files, schema

KEY_MAX_BYTES: Final = 65_535
VALUE_MAX_BYTES: Final = 1 << 20
ALL_MAX_BYTES: Final = 64 << 20
"""Of all keys and values together; a broker has them in memory."""

READ: Final = "SELECT key, value FROM fact"
SIZE: Final = "SELECT coalesce(sum(length(CAST(key AS BLOB)) + length(value)), 0) FROM fact"


def version(connection: sqlite3.Connection) -> int:
    """A number that changes when somebody else has committed to the file."""
    (found,) = connection.execute("PRAGMA data_version").fetchone()
    return int(found)


def is_sound(row: tuple[object, ...]) -> bool:
    """Whether a row of the table is a fact."""
    key, value = row
    if not isinstance(key, bytes) or not isinstance(value, bytes):
        return False
    if len(key) > KEY_MAX_BYTES or len(value) > VALUE_MAX_BYTES:
        return False
    with contextlib.suppress(UnicodeDecodeError):
        key.decode()
        return True
    return False


def read(connection: sqlite3.Connection) -> dict[str, bytes]:
    """All of them; what is none is left out."""
    return {str(row[0], "utf-8"): row[1] for row in connection.execute(READ) if is_sound(row)}


def put(connection: sqlite3.Connection, changes: Mapping[str, bytes | None]) -> None:
    """Stores and removes facts in one transaction.

    :raises StoreError: they would be too large, or too many. :raises sqlite3.Error: the file cannot be written.
    """
    for key, value in changes.items():
        if len(key.encode()) > KEY_MAX_BYTES or len(value or b"") > VALUE_MAX_BYTES:
            raise StoreError("full", f"a fact has at most {VALUE_MAX_BYTES} bytes, and a key of {KEY_MAX_BYTES}")

    def work() -> None:
        removed = [(key,) for key, value in changes.items() if value is None]
        connection.executemany("DELETE FROM fact WHERE key = ?", removed)
        rows = [(key, value) for key, value in changes.items() if value is not None]
        connection.executemany("INSERT OR REPLACE INTO fact (key, value) VALUES (?, ?)", rows)
        if rows and connection.execute(SIZE).fetchone()[0] > ALL_MAX_BYTES:
            raise StoreError("full", f"all users, bans and the like together may have {ALL_MAX_BYTES} bytes")

    schema.in_transaction(connection, work)


def change_beside(path: Path, changes: Mapping[str, bytes | None]) -> None:
    """Stores and removes facts in a store that a broker may have open, or that is not there yet.

    :raises StoreError, StartError: it is no store of ours, or cannot be written.
    """
    try:
        with contextlib.ExitStack() as stack:
            if not files.size_of(path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.callback(files.Lock(path).release)  # two that make one store would be in each other's way
            files.prepare(path)
            if not files.is_database(path):
                raise StoreError("failed", f"{path}: the store is damaged; `fastmq store check` says more")
            put(stack.enter_context(contextlib.closing(schema.connect(str(path)))), changes)
    except (sqlite3.Error, OSError) as error:
        raise StoreError("failed", f"{path}: {error}") from error


def read_beside(path: Path) -> dict[str, bytes]:
    """The facts of a store that a broker may have open; none where there is no store.

    :raises StoreError, StartError: it is no store of ours, or cannot be read.
    """
    from fastmq.store.snapshot import connect  # here: it needs all that folds a journal

    if not files.size_of(path):
        return {}
    try:
        with contextlib.closing(connect(path)) as connection:
            return read(connection) if has_facts(connection) else {}
    except sqlite3.Error as error:
        raise StoreError("failed", f"{path}: {error}") from error


def has_facts(connection: sqlite3.Connection) -> bool:
    """Whether the file has such a table: those of version 1 have none."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'fact'").fetchone()[0])
