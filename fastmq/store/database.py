"""The file of a SqliteStore while it is open: its connection, what is known of it, and what happens when it fails.

After any failure the next use finds a connection again, as soon as the disk allows it, and in the file exactly what was
said to be stored. A damaged file is put aside and replaced by what can be read of it.
"""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from fastmq import logs
from fastmq.errors import StoreError
from fastmq.store import files, schema
from fastmq.store.clock import Stamp
from fastmq.store.journal import INSERT_AGAIN, Damaged, Entry, Journal
from fastmq.store.salvage import salvage, stamp_of

ROOM_BYTES: Final = 1024 * 1024
"""With less than this free on the disk, an error is taken for a full disk."""

TOP: Final = """
SELECT max(id) FROM (SELECT max(id) AS id FROM message UNION SELECT max(message) FROM delivery
    UNION SELECT max(message) FROM retained UNION SELECT max(message) FROM will)
"""

NUMBERS: Final = (b"top", b"seq", b"workers")
"""What `meta` has besides the clocks."""

log = logs.get("store")


class Database:
    """Raises StartError when another process has the file, or it is not this program's, or of a newer version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal()
        self.last = Stamp()
        """When the newest batch was appended."""
        self.top = 0
        """The highest message id that the tables were told of."""
        self.workers = 0
        """How many the broker had that wrote this, each into a file of its own; 0: it is not said, -1: it was lost."""
        self.checkpoints = 0
        self.salvages = 0
        self.wal_bytes = 0
        """What was written since the last checkpoint, about."""
        self._connection: sqlite3.Connection | None = None
        self._synchronous = True
        files.prepare(path)
        self._lock = files.Lock(path)
        try:
            with self.errors_of("open"):
                self._open()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Closes the file as it is."""
        self._disconnect()
        self._lock.release()

    # -- opening -------------------------------------------------------------------------------------------------------

    def live(self) -> sqlite3.Connection:
        """The connection, made again when the last one failed."""
        if self._connection is not None:
            return self._connection
        seq = self.journal.seq
        connection = self._open()
        if self.journal.seq > seq:  # it was stored after all, but its caller was told that it was not
            connection.execute("DELETE FROM journal WHERE seq > ?", (seq,))
            self._learn(connection)
        return connection

    def _open(self) -> sqlite3.Connection:
        """Connects, and learns what is there; a damaged file is put aside first."""
        try:
            if not files.is_database(self.path):
                raise Damaged("this is no database")
            self._connection = connection = schema.connect(str(self.path))
            self._learn(connection)
        except (Damaged, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                self._disconnect()
                raise
            connection = self.replace(str(error))
        return connection

    def _learn(self, connection: sqlite3.Connection) -> None:
        journal = Journal()
        newest = journal.read(connection)
        found = dict(connection.execute("SELECT key, value FROM meta"))
        try:
            last = stamp_of(found)
        except ValueError as error:
            raise Damaged(str(error)) from None
        if newest is not None and newest.engine_ms >= last.engine_ms:
            last = Stamp(newest.engine_ms, newest.boot_ms, newest.wall_ms, last.boot_id)
        top, seq, workers = (found.get(key, 0) for key in NUMBERS)
        if not isinstance(top, int) or not isinstance(seq, int) or not isinstance(workers, int):
            raise Damaged("the numbers of the newest message and batch are none")
        journal.seq = max(journal.seq, seq)
        self.journal, self.last, self.top, self._synchronous = journal, last, top, True
        self.workers = workers or self.workers

    def write_meta(self, last: Stamp) -> None:
        """Notes the clocks and the highest numbers, within the caller's transaction or as one."""
        values = {
            "engine_ms": last.engine_ms, "boot_ms": last.boot_ms, "wall_ms": last.wall_ms, "boot_id": last.boot_id,
            "top": self.top, "seq": self.journal.seq, "workers": self.workers,
        }  # fmt: skip
        flat = [part for pair in values.items() for part in pair]
        self.live().execute(f"INSERT OR REPLACE INTO meta VALUES {','.join(['(?,?)'] * len(values))}", flat)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # -- failing -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def errors_of(self, what: str) -> Iterator[None]:
        """Turns what goes wrong into StoreError, and makes the store usable again, now or at its next use."""
        try:
            yield
        except (sqlite3.Error, Damaged, OSError) as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> StoreError:
        if is_damage(error):
            try:
                self.replace(str(error))
            except (sqlite3.Error, OSError) as second:
                log.rarely("error", "salvage", "cannot save from the damaged store", file=self.path, error=second)
                self._disconnect()
        reason: Literal["full", "failed"] = "full" if self.is_full(error) else "failed"
        connection = self._connection
        if reason == "failed":
            self._disconnect()
        elif connection is not None and connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        return StoreError(reason, f"{self.path}: {what}: {error}")

    def is_full(self, error: Exception) -> bool:
        """Whether there may be room later."""
        if code_of(error) == sqlite3.SQLITE_FULL:
            return True
        try:
            free = os.statvfs(self.path.parent)
        except OSError:
            return False
        return code_of(error) == sqlite3.SQLITE_IOERR and free.f_bavail * free.f_frsize < ROOM_BYTES

    def replace(self, why: str) -> sqlite3.Connection:
        """Puts the file aside and goes on with what can be read of it. Raises sqlite3.Error or OSError."""
        self._disconnect()
        known = [entry for entry in self.journal.entries if entry.batch is not None]
        last = self.last
        aside = files.set_aside(self.path)
        log.error("the store is damaged", file=self.path, why=why, kept_as=aside)
        files.prepare(self.path)
        self._connection = connection = schema.connect(str(self.path))
        saved = salvage(aside, connection)
        rows = {f"{table}_saved": count for table, count in saved.rows.items()}
        bad = {f"{table}_bad": count for table, count in saved.bad_rows.items()}
        log.warning("saved from the damaged store", unreadable=",".join(saved.unreadable), **rows, **bad)
        self.workers = self.workers or saved.workers
        last = max(last, saved.stamp, key=lambda moment: moment.engine_ms)
        schema.in_transaction(connection, lambda: self._restore(connection, known, last))
        self._learn(connection)
        self.salvages += 1
        return connection

    def _restore(self, connection: sqlite3.Connection, known: Sequence[Entry], last: Stamp) -> None:
        """What this process still knows, and the numbers that the damaged file had."""
        for entry in known:
            assert entry.batch is not None
            row = (entry.seq, last.engine_ms, last.boot_ms, last.wall_ms, zlib.crc32(entry.batch), entry.batch)
            connection.execute(INSERT_AGAIN, row)
        self.top = max(connection.execute(TOP).fetchone()[0] or 0, self.top)
        self.write_meta(last)

    # -- the write-ahead log -------------------------------------------------------------------------------------------

    def set_synchronous(self, full: bool) -> None:
        """Whether a commit waits for the medium. A checkpoint always does, so that the file is never torn."""
        connection = self.live()
        if full != self._synchronous:
            # A script: SQLite obeys this when it compiles it, and `execute` keeps what was compiled.
            connection.executescript(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._synchronous = full

    def checkpoint(self, mode: Literal["PASSIVE", "TRUNCATE"]) -> bool:
        """Moves the write-ahead log into the file; False when a reader or a full disk kept a part of it back."""
        busy, frames, moved = self.live().execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        self.checkpoints += 1
        self.wal_bytes = 0
        return not busy and frames == moved

    def make_room(self) -> bool:
        """On a full disk: what the write-ahead log has is moved, and its file cut off."""
        try:
            return self.checkpoint("TRUNCATE")
        except sqlite3.Error:
            return False

    def free_bytes(self) -> int:
        """Free space within the file."""
        (pages,) = self.live().execute("PRAGMA freelist_count").fetchone()
        return int(pages) * schema.PAGE_BYTES

    def used_bytes(self) -> int:
        """The file without its free space."""
        (pages,) = self.live().execute("PRAGMA page_count").fetchone()
        return int(pages) * schema.PAGE_BYTES - self.free_bytes()


def code_of(error: BaseException) -> int:
    """SQLite's primary result code; 0 when the error has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_damage(error: BaseException) -> bool:
    """Whether the file has what no store wrote, rather than that it could not be read or written."""
    return isinstance(error, Damaged) or code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
