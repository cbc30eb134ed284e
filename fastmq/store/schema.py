"""The tables of a store's file, and how a connection to it is set up.

In front of the tables stands `journal`: batches of records as they were appended, not yet folded into the tables.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

APPLICATION_ID: Final = 0x464D5153  # "FMQS"
VERSION: Final = 2
"""Of the tables; `PRAGMA user_version`."""

PAGE_BYTES: Final = 4096
CACHE_BYTES: Final = 32 * 1024 * 1024
WAL_KEEP_BYTES: Final = 16 * 1024 * 1024
"""What of the write-ahead log may stay on the disk when it is empty: overwriting is cheaper than growing."""

FACT: Final = "CREATE TABLE fact (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"

TABLES: Final = f"""
CREATE TABLE journal (seq INTEGER PRIMARY KEY, engine_ms INTEGER NOT NULL, boot_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL, crc INTEGER NOT NULL, records BLOB NOT NULL);
CREATE TABLE message (id INTEGER PRIMARY KEY, expires_ms INTEGER NOT NULL, size INTEGER NOT NULL,
    record BLOB NOT NULL);
CREATE INDEX message_expiry ON message (expires_ms) WHERE expires_ms > 0;
CREATE TABLE delivery (subscriber INTEGER NOT NULL, position INTEGER NOT NULL, message INTEGER NOT NULL,
    flags INTEGER NOT NULL, packet_id INTEGER NOT NULL, ids BLOB, PRIMARY KEY (subscriber, position)) WITHOUT ROWID;
CREATE TABLE session (serial INTEGER PRIMARY KEY, client_id TEXT NOT NULL, expiry_s INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, will_at_ms INTEGER NOT NULL);
CREATE TABLE subscription (session INTEGER NOT NULL, filter TEXT NOT NULL, options INTEGER NOT NULL,
    id INTEGER NOT NULL, PRIMARY KEY (session, filter)) WITHOUT ROWID;
CREATE TABLE received (session INTEGER NOT NULL, packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)) WITHOUT ROWID;
CREATE TABLE retained (message INTEGER PRIMARY KEY);
CREATE TABLE will (session INTEGER PRIMARY KEY, message INTEGER NOT NULL, delay_s INTEGER NOT NULL, expiry_s INTEGER);
CREATE TABLE shared_group (serial INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
{FACT};
"""

COLUMNS: Final = {
    "shared_group": "serial, text",
    "session": "serial, client_id, expiry_s, expires_ms, will_at_ms",
    "subscription": "session, filter, options, id",
    "received": "session, packet_id",
    "message": "id, expires_ms, size, record",
    "retained": "message",
    "will": "session, message, delay_s, expiry_s",
    "delivery": "subscriber, position, message, flags, packet_id, ids",
    "fact": "key, value",
}
"""The tables that hold what `load` and `facts` give."""


def add_facts(connection: sqlite3.Connection) -> None:
    """Version 2."""
    connection.execute(FACT)


MIGRATIONS: Final[Sequence[Callable[[sqlite3.Connection], None]]] = (add_facts,)
"""MIGRATIONS[n] makes version n + 2 of version n + 1, within a transaction."""

REMOVALS: Final = {
    "gone_session": (
        "serial",
        *(f"DELETE FROM {table} WHERE {key} = NEW.serial;" for table, key in (
            ("session", "serial"), ("subscription", "session"), ("received", "session"), ("will", "session"),
            ("delivery", "subscriber"),
        )),
    ),
    "gone_group": (
        "serial",
        "DELETE FROM shared_group WHERE serial = NEW.serial;",
        "DELETE FROM delivery WHERE subscriber = NEW.serial;",
    ),
    "gone_message": ("lo, hi", "DELETE FROM message WHERE id BETWEEN NEW.lo AND NEW.hi;"),
    "gone_retained": ("message", "DELETE FROM retained WHERE message = NEW.message;"),
    "gone_delivery": (
        "subscriber, lo, hi",
        "DELETE FROM delivery WHERE subscriber = NEW.subscriber AND position BETWEEN NEW.lo AND NEW.hi;",
    ),
    "changed_delivery": (
        "subscriber, position, state, packet_id",
        "UPDATE delivery SET flags = flags & 7 | NEW.state, packet_id = NEW.packet_id"
        " WHERE subscriber = NEW.subscriber AND position = NEW.position;",
    ),
    "gone_received": (
        "session, packet_id",
        "DELETE FROM received WHERE session = NEW.session AND packet_id = NEW.packet_id;",
    ),
    "gone_subscription": (
        "session, filter",
        "DELETE FROM subscription WHERE session = NEW.session AND filter = NEW.filter;",
    ),
    "gone_will": ("session", "DELETE FROM will WHERE session = NEW.session;"),
}  # fmt: skip
"""Views that belong to a connection: inserting into one removes or changes rows of the tables.

So one statement does it for many rows. Each statement costs the thread its hold of the GIL, which a busy event loop
gives back only after a turn; that would be dearer than the rows.
"""


def connect(path: str) -> sqlite3.Connection:
    """Opens the file and makes it a store when it is empty. Raises sqlite3.Error; closes what it opened then."""
    # One user at a time, but not always the same thread.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA cache_size = {-CACHE_BYTES // 1024}")
        if is_empty(connection):
            create(connection)
        migrate(connection)
        # Exclusive to readers it is not: `sqlite3 FILE` may look at it while the broker runs.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEEP_BYTES}")
        for view, (columns, *statements) in REMOVALS.items():
            nothing = ", ".join("NULL" for _ in columns.split(","))
            connection.execute(f"CREATE TEMP VIEW {view} ({columns}) AS SELECT {nothing}")
            body = " ".join(statements)
            connection.execute(f"CREATE TEMP TRIGGER on_{view} INSTEAD OF INSERT ON {view} BEGIN {body} END")
    except BaseException:
        connection.close()
        raise
    return connection


def is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


def create(connection: sqlite3.Connection) -> None:
    """Before the file has a write-ahead log, so that its own first page always says what it is."""
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    statements = [*TABLES.split(";"), f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}"]
    in_transaction(connection, lambda: [connection.execute(statement) for statement in statements])


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Callable[[sqlite3.Connection], None]] = MIGRATIONS
) -> None:
    """Brings an older file's tables to this version, a transaction for each step."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, step in enumerate(migrations[max(0, version - 1) :], max(1, version) + 1):
        in_transaction(connection, lambda: (step(connection), connection.execute(f"PRAGMA user_version = {number}")))  # noqa: B023


def in_transaction(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """All of it or nothing; gives what `work` gives."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result
