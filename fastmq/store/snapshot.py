"""What a store's file holds at one moment, read beside the broker that goes on writing it.

The connection cannot write the file, takes no lock of the store and holds one read transaction. The journal is folded
into temporary tables that lie over the file's: after that, a table's name means what it will have once the broker has
folded, and `main.` before it what the file has.
"""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

from fastmq._fold import Fold
from fastmq.errors import StoreError
from fastmq.store import facts, files
from fastmq.store.clock import Stamp
from fastmq.store.database import is_damage
from fastmq.store.folding import apply_chunk
from fastmq.store.journal import Damaged, Journal
from fastmq.store.salvage import stamp_of
from fastmq.store.schema import COLUMNS, REMOVALS

FOLD_MAX_BYTES: Final = 8 * 1024 * 1024
ROWS: Final = 512
BUSY_S: Final = 5.0

KEYS: Final = {
    "shared_group": ("serial",),
    "session": ("serial",),
    "subscription": ("session", "filter"),
    "received": ("session", "packet_id"),
    "message": ("id",),
    "retained": ("message",),
    "will": ("session",),
    "delivery": ("subscriber", "position"),
    "fact": ("key",),
}
"""What names a row of each table."""

NOT_NUMBERS: Final = {
    "text": "TEXT",
    "client_id": "TEXT",
    "filter": "TEXT",
    "record": "BLOB",
    "ids": "BLOB",
    "key": "TEXT",
    "value": "BLOB",
}

USABLE: Final = {
    "shared_group": "",
    "session": "",
    "subscription": "session IN (SELECT serial FROM session)",
    "received": "session IN (SELECT serial FROM session)",
    "message": "id IN (SELECT id FROM temp.needed)",
    "retained": "message IN (SELECT id FROM message)",
    "will": "session IN (SELECT serial FROM session) AND message IN (SELECT id FROM message)",
    "delivery": "(subscriber IN (SELECT serial FROM session) OR subscriber IN (SELECT serial FROM shared_group))"
    " AND (flags >> 3 = 3 OR message IN (SELECT id FROM message))",
    "fact": "",
}
"""What a broker would load; a crash may leave more."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that can only read. Raises StoreError, Damaged, or StartError for a file that is not ours."""
    if not path.exists():
        raise StoreError("failed", f"{path}: there is no store")
    try:
        if not files.is_database(path):
            raise Damaged("this is no database")
        uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        # One user at a time, but not always the same thread.
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreError("failed", f"{path}: {error}") from error
    connection.text_factory = bytes
    return connection


class Snapshot:
    """What one store held when this was made; a context manager.

    Raises as `connect` does, and Damaged or sqlite3.DatabaseError for a file that the broker would have to salvage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal_rows = 0
        self.journal_bytes = 0
        self.connection = connect(path)
        try:
            self.connection.execute("BEGIN")
            if not facts.has_facts(self.connection):
                self.connection.execute("CREATE TEMP TABLE fact (key TEXT, value BLOB)")
            self.stamp = self._overlay()
            """When the newest batch was appended."""
        except sqlite3.OperationalError as error:
            self.connection.close()
            if is_damage(error):
                raise
            raise StoreError("failed", f"{path}: {error}") from error
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def meta(self) -> dict[bytes, object]:
        return dict(self.connection.execute("SELECT key, value FROM main.meta"))

    def count(self, table: str, *, only_usable: bool = False) -> int:
        return self.number(f"SELECT count(*) FROM {table} {self.usable(table) if only_usable else ''}")

    def number(self, query: str) -> int:
        (value,) = self.connection.execute(query).fetchone()
        return int(value or 0)

    def usable(self, table: str) -> str:
        """The condition for rows that a broker would load."""
        if table == "message":
            self._find_needed()
        return f"WHERE {USABLE[table]}" if USABLE[table] else ""

    @property
    def version(self) -> int:
        """Of the file's tables."""
        return self.number("PRAGMA main.user_version")

    def lines(self) -> int:
        """About how many lines an export of it has."""
        return sum(map(self.count, KEYS))

    def rows(self, table: str, *, only_usable: bool = False) -> Iterator[list[tuple[object, ...]]]:
        """The rows in the order of their keys, some hundred at a time."""
        where = self.usable(table) if only_usable else ""
        cursor = self.connection.execute(
            f"SELECT {COLUMNS[table]} FROM {table} {where} ORDER BY {', '.join(KEYS[table])}"
        )
        while rows := cursor.fetchmany(ROWS):
            yield rows

    def _find_needed(self) -> None:
        """The messages that something refers to."""
        self.connection.execute("CREATE TEMP TABLE IF NOT EXISTS needed (id INTEGER PRIMARY KEY)")
        for table in ("delivery", "retained", "will"):
            self.connection.execute(f"INSERT OR IGNORE INTO needed SELECT message FROM {table} WHERE {USABLE[table]}")

    def _overlay(self) -> Stamp:
        connection = self.connection
        meta = self.meta()
        journal = Journal()
        newest = journal.read(connection)
        try:
            last = stamp_of(meta)
        except ValueError as error:
            raise Damaged(str(error)) from None
        self.journal_rows, self.journal_bytes = len(journal), journal.bytes
        if newest is None:
            return last
        lay_over(connection)
        top = meta.get(b"top", 0)
        if not isinstance(top, int):
            raise Damaged("the number of the newest message is none")
        while journal.entries:
            batches, seq = journal.oldest(FOLD_MAX_BYTES, connection)
            fold = Fold(batches, top)
            top = fold.top
            while apply_chunk(connection, fold):
                pass
            journal.drop_to(seq)
        if newest.engine_ms < last.engine_ms:
            return last
        return Stamp(newest.engine_ms, newest.boot_ms, newest.wall_ms, last.boot_id)


def lay_over(connection: sqlite3.Connection) -> None:
    """Puts a temporary view over each table, with `T_new` for rows of its own and `T_gone` for those that it hides.

    Then what `folding` inserts changes these, rather than the file.
    """
    for table, keys in KEYS.items():
        if table == "fact":  # never in the journal
            continue
        columns, key = COLUMNS[table], ", ".join(keys)
        hidden = " AND ".join(f"g.{name} = m.{name}" for name in keys)
        same = " AND ".join(f"{name} = NEW.{name}" for name in keys)
        fresh = ", ".join(f"NEW.{name.strip()}" for name in columns.split(","))
        for statement in (
            f"CREATE TEMP TABLE {table}_new ({typed(columns)}, PRIMARY KEY ({key})) WITHOUT ROWID",
            f"CREATE TEMP TABLE {table}_gone ({typed(key)}, PRIMARY KEY ({key})) WITHOUT ROWID",
            f"CREATE TEMP VIEW {table} AS SELECT {columns} FROM main.{table} AS m WHERE NOT EXISTS"
            f" (SELECT 1 FROM {table}_gone AS g WHERE {hidden}) UNION ALL SELECT {columns} FROM {table}_new",
            f"CREATE TEMP TRIGGER on_{table} INSTEAD OF INSERT ON {table} BEGIN"
            f" {hide(table, same)} INSERT OR REPLACE INTO {table}_new VALUES ({fresh}); END",
        ):
            connection.execute(statement)
    for view, (columns, *statements) in REMOVALS.items():
        nothing = ", ".join("NULL" for _ in columns.split(","))
        connection.execute(f"CREATE TEMP VIEW {view} ({columns}) AS SELECT {nothing}")
        body = " ".join(map(laid_over, statements))
        connection.execute(f"CREATE TEMP TRIGGER on_{view} INSTEAD OF INSERT ON {view} BEGIN {body} END")


def typed(columns: str) -> str:
    """With the types of `schema.TABLES`: a comparison of unlike types would use no index."""
    names = (name.strip() for name in columns.split(","))
    return ", ".join(f"{name} {NOT_NUMBERS.get(name, 'INTEGER')}" for name in names)


def hide(table: str, where: str) -> str:
    return f"INSERT OR IGNORE INTO {table}_gone SELECT {', '.join(KEYS[table])} FROM main.{table} WHERE {where};"


def laid_over(statement: str) -> str:
    """What one statement of `schema.REMOVALS` is here. Not through the view: that would read all of it each time."""
    words, _, where = statement.removesuffix(";").partition(" WHERE ")
    if removal := re.fullmatch(r"DELETE FROM (\w+)", words):
        table = removal[1]
        return f"{hide(table, where)} DELETE FROM {table}_new WHERE {where};"
    change = re.fullmatch(r"UPDATE (\w+) SET (.*)", words)
    assert change is not None
    table = change[1]
    hidden = " AND ".join(f"g.{name} = m.{name}" for name in KEYS[table])
    return (
        f"INSERT OR REPLACE INTO {table}_new SELECT {COLUMNS[table]} FROM main.{table} AS m WHERE {where}"
        f" AND NOT EXISTS (SELECT 1 FROM {table}_gone AS g WHERE {hidden});"
        f" {hide(table, where)} UPDATE {table}_new SET {change[2]} WHERE {where};"
    )
