"""A store in one SQLite file: a log in front of tables.

`append` writes a batch as one row of the journal and commits. `maintain` folds the oldest batches: it works out what is
left of them and applies that to the tables, slice by slice, then removes them. What came and went between costs no
row. `load` folds all there is, then reads tables only.

Any number of slices may be applied before a crash: the batches are removed with the last one, and folding them again
over tables that have a part of it already ends in the same rows.
"""

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from fastmq import logs
from fastmq._fold import Fold
from fastmq._records import scan
from fastmq.errors import StoreError
from fastmq.store import fetching, files, schema
from fastmq.store.clock import Clocks, MachineClocks, Stamp, engine_now, stamp
from fastmq.store.folding import apply_chunk
from fastmq.store.journal import INSERT, Damaged, Entry, Journal
from fastmq.store.loading import Loading
from fastmq.store.salvage import salvage, stamp_of

FOLD_BYTES: Final = 4 * 1024 * 1024
FOLD_AGE_S: Final = 1.0
FOLD_MAX_BYTES: Final = 8 * 1024 * 1024
"""Of batches that are folded at a time; a fold may take ten times this in memory."""
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
FREE_BYTES: Final = 4 * 1024 * 1024
"""Free space within the file that is kept: the journal comes and goes in it."""
VACUUM_PAGES: Final = 64
ROOM_BYTES: Final = 1024 * 1024
"""With less than this free on the disk, an error is taken for a full disk."""

log = logs.get("store")


class SqliteStore:
    """Implements `contracts.Store`.

    `size_max_bytes` (0 = no limit) holds for the pages in use. Above it, batches that bring messages are refused with
    StoreError("full"); all others are stored, since acknowledgements are what makes room. The write-ahead log comes on
    top, about 16 MiB.

    Raises StartError when another process has the file, or when it is not this program's or of a newer version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size_max_bytes: int = 0,
        *,
        clocks: Clocks | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.path = Path(path)
        self._size_max_bytes = size_max_bytes
        self._clocks: Clocks = clocks or MachineClocks()
        self._progress = progress
        self._connection: sqlite3.Connection | None = None
        self._journal = Journal()
        self._fold: Fold | None = None
        self._fold_to = 0
        self._top = 0
        self._last = Stamp()
        self._synchronous = True
        self._oldest_s = 0.0
        self._wal_bytes = 0  # since the last checkpoint, about
        self._used_bytes = 0
        self._used_is_old = 0  # bytes appended since it was looked up
        self._figures = dict.fromkeys(("commits", "appended_bytes", "folded_records", "checkpoints", "salvages"), 0)
        self._commit_ns = self._slowest_commit_ns = 0
        files.prepare(self.path)
        self._lock = files.Lock(self.path)
        try:
            with self._errors_of("open"):
                self._open()
        except BaseException:
            self._disconnect()
            self._lock.release()
            raise

    # -- opening -------------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """Connects, and learns what is there; a damaged file is put aside first."""
        try:
            if not files.is_database(self.path):
                raise Damaged("this is no database")
            self._connection = connection = schema.connect(str(self.path))
            self._learn(connection)
        except (Damaged, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise
            connection = self._replace(str(error))
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
        top, seq = found.get(b"top", 0), found.get(b"seq", 0)
        if not isinstance(top, int) or not isinstance(seq, int):
            raise Damaged("the numbers of the newest message and batch are none")
        journal.seq = max(journal.seq, seq)
        self._journal, self._last, self._top, self._synchronous = journal, last, top, True

    def _replace(self, why: str) -> sqlite3.Connection:
        """Puts the file aside and goes on with what can be read of it."""
        self._disconnect()
        self._fold = None
        known = [entry for entry in self._journal.entries if entry.batch is not None]
        last = self._last
        aside = files.set_aside(self.path)
        log.error("the store is damaged", file=self.path, why=why, kept_as=aside)
        files.prepare(self.path)
        self._connection = connection = schema.connect(str(self.path))
        saved = salvage(aside, connection)
        rows = {f"{table}_saved": count for table, count in saved.rows.items()}
        bad = {f"{table}_bad": count for table, count in saved.bad_rows.items()}
        log.warning("saved from the damaged store", unreadable=",".join(saved.unreadable), **rows, **bad)
        last = max(last, saved.stamp, key=lambda moment: moment.engine_ms)
        schema.in_transaction(connection, lambda: self._restore(connection, known, last))
        self._learn(connection)
        self._figures["salvages"] += 1
        return connection

    def _restore(self, connection: sqlite3.Connection, known: Sequence[Entry], last: Stamp) -> None:
        """What this process still knows, and the numbers that the damaged file had."""
        for entry in known:
            assert entry.batch is not None
            row = (entry.seq, last.engine_ms, last.boot_ms, last.wall_ms, zlib.crc32(entry.batch), entry.batch)
            connection.execute(INSERT.replace("INSERT", "INSERT OR REPLACE"), row)
        mentioned = "SELECT max(id) FROM (SELECT max(id) AS id FROM message UNION SELECT max(message) FROM delivery)"
        (top,) = connection.execute(mentioned).fetchone()
        self._write_meta(connection, last, max(top or 0, self._top), self._journal.seq)

    def _write_meta(self, connection: sqlite3.Connection, last: Stamp, top: int, seq: int) -> None:
        values = {
            "engine_ms": last.engine_ms, "boot_ms": last.boot_ms, "wall_ms": last.wall_ms, "boot_id": last.boot_id,
            "top": top, "seq": seq,
        }  # fmt: skip
        flat = [part for pair in values.items() for part in pair]
        connection.execute(f"INSERT OR REPLACE INTO meta VALUES {','.join(['(?,?)'] * len(values))}", flat)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _live(self) -> sqlite3.Connection:
        """The connection, made again when the last one failed."""
        if self._connection is None:
            seq = self._journal.seq
            connection = self._open()
            if self._journal.seq > seq:  # it was stored after all, but its caller was told that it was not
                connection.execute("DELETE FROM journal WHERE seq > ?", (seq,))
                self._learn(connection)
            return connection
        return self._connection

    # -- failing -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _errors_of(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, Damaged, OSError) as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> StoreError:
        """Makes the store usable again, now or at the next call; what is not committed is not in it."""
        self._fold = None
        if is_damage(error):
            try:
                self._replace(str(error))
            except (sqlite3.Error, OSError) as second:
                log.rarely("error", "salvage", "cannot save from the damaged store", file=self.path, error=second)
                self._disconnect()
            return StoreError("failed", f"{self.path}: {what}: {error}")
        reason: Literal["full", "failed"] = "full" if self._is_full(error) else "failed"
        connection = self._connection
        if reason == "failed":
            self._disconnect()
        elif connection is not None and connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        return StoreError(reason, f"{self.path}: {what}: {error}")

    def _is_full(self, error: Exception) -> bool:
        if code_of(error) == sqlite3.SQLITE_FULL:
            return True
        try:
            free = os.statvfs(self.path.parent)
        except OSError:
            return False
        return code_of(error) == sqlite3.SQLITE_IOERR and free.f_bavail * free.f_frsize < ROOM_BYTES

    # -- contracts.Store -----------------------------------------------------------------------------------------------

    def load(self) -> Iterator[bytes]:
        try:
            loading, batches = self._begin_load()
        except (Damaged, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise self._failed("load", error) from error
            with self._errors_of("salvage"):
                self._replace(str(error))
                loading, batches = self._begin_load()
        if loading.dropped:
            log.info("left out what nobody can use", **loading.dropped)
        with self._errors_of("load"):
            yield from batches

    def _begin_load(self) -> tuple[Loading, Iterator[bytes]]:
        """Everything of a load that can find damage; the first batch is read then."""
        connection = self._live()
        while self._fold_slice(None):
            pass
        now_ms = engine_now(self._last, self._clocks)
        loading = Loading(connection, now_ms, self._progress)
        batches = loading.batches()
        first = next(batches)
        self._last = stamp(now_ms, self._clocks)
        schema.in_transaction(
            connection, lambda: self._write_meta(connection, self._last, self._top, self._journal.seq)
        )
        return loading, prepended(first, batches)

    def append(self, batch: bytes, sync: bool) -> None:
        engine_ms, messages, low, high = scan(batch)
        started_ns = time.perf_counter_ns()
        with self._errors_of("append"):
            connection = self._live()
            if messages and self._is_over(connection):
                raise StoreError("full", f"{self.path}: more than {self._size_max_bytes} bytes are in use")
            self._set_synchronous(connection, sync)
            now = stamp(max(engine_ms, self._last.engine_ms), self._clocks)
            seq = self._journal.seq + 1
            row = (seq, now.engine_ms, now.boot_ms, now.wall_ms, zlib.crc32(batch), batch)
            try:
                connection.execute(INSERT, row)
            except sqlite3.OperationalError as error:
                if not self._is_full(error) or not self._make_room(connection):
                    raise
                connection.execute(INSERT, row)
        if not self._journal.entries:
            self._oldest_s = time.monotonic()
        self._journal.add(Entry(seq, len(batch), low, high, batch))
        self._last = now
        self._wal_bytes += len(batch) + 3 * schema.PAGE_BYTES
        self._used_is_old += len(batch)
        self._figures["commits"] += 1
        self._figures["appended_bytes"] += len(batch)
        self._commit_ns = time.perf_counter_ns() - started_ns
        self._slowest_commit_ns = max(self._slowest_commit_ns, self._commit_ns)

    def fetch(self, ids: Sequence[int]) -> list[bytes | None]:
        found: dict[int, bytes | None] = dict.fromkeys(ids)
        if not found:
            return []
        with self._errors_of("fetch"):
            connection = self._live()
            fetching.from_table(connection, found)
            self._journal.pick(found, connection)
        return [found[id] for id in ids]

    def maintain(self, budget_s: float) -> bool:
        with self._errors_of("maintain"):
            connection = self._live()
            if self._is_fold_due():
                self._fold_slice(time.perf_counter() + budget_s)
            elif self._wal_bytes >= CHECKPOINT_BYTES:
                self._checkpoint(connection, "PASSIVE")
            elif not self._vacuum_slice(connection):
                return False
        return True

    def stat(self) -> Mapping[str, int]:
        with self._errors_of("stat"):
            connection = self._live()
            tables = {"session": "sessions", "subscription": "subscriptions", "delivery": "deliveries"}
            tables |= {"message": "messages", "retained": "retained"}
            counts = {
                name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table, name in tables.items()
            }
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return {
            "file_bytes": files.size_of(self.path),
            "wal_bytes": files.size_of(files.beside(self.path, "-wal")),
            "free_bytes": free * schema.PAGE_BYTES,
            "journal_rows": len(self._journal),
            "journal_bytes": self._journal.bytes,
            **counts,
            **self._figures,
            "last_commit_us": self._commit_ns // 1000,
            "slowest_commit_us": self._slowest_commit_ns // 1000,
        }

    def close(self) -> None:
        try:
            with self._errors_of("close"):
                connection = self._live()
                while self._fold_slice(None):
                    pass
                now = stamp(engine_now(self._last, self._clocks), self._clocks)
                self._set_synchronous(connection, True)
                schema.in_transaction(
                    connection, lambda: self._write_meta(connection, now, self._top, self._journal.seq)
                )
                self._checkpoint(connection, "TRUNCATE")
        except StoreError as error:
            log.warning("the store was not closed in good order; nothing is lost", file=self.path, error=error)
        finally:
            self._disconnect()
            self._lock.release()

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def _set_synchronous(self, connection: sqlite3.Connection, full: bool) -> None:
        """Whether a commit waits for the medium. A checkpoint always does, so that the file is never torn."""
        if full != self._synchronous:
            # A script: SQLite obeys this when it compiles it, and `execute` keeps what was compiled.
            connection.executescript(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._synchronous = full

    def _is_fold_due(self) -> bool:
        if self._fold is not None or self._journal.bytes >= FOLD_BYTES:
            return True
        return bool(self._journal.entries) and time.monotonic() - self._oldest_s >= FOLD_AGE_S

    def _fold_slice(self, deadline_s: float | None) -> bool:
        """Folds until the deadline, or one group of batches without one; False when there was nothing to fold."""
        connection = self._live()
        if self._fold is None and not self._journal.entries:
            return False
        self._set_synchronous(connection, False)  # in order with the batches, whose commits wait when they must
        if self._fold is None:
            batches, self._fold_to = self._journal.oldest(FOLD_MAX_BYTES, connection)
            self._fold = Fold(batches, self._top)
            # Before any row: were it folded again after a crash, a message would else be taken for a new one.
            self._top = self._fold.top
            self._write_meta(connection, self._last, self._top, self._journal.seq)
        fold = self._fold
        if schema.in_transaction(connection, lambda: self._apply(connection, fold, deadline_s)):
            self._figures["folded_records"] += fold.records
            self._journal.drop_to(self._fold_to)
            self._oldest_s = time.monotonic()
            self._fold = None
        return True

    def _apply(self, connection: sqlite3.Connection, fold: Fold, deadline_s: float | None) -> bool:
        """True when all of it is applied, and its batches are removed."""
        while apply_chunk(connection, fold):
            self._wal_bytes += 4 * schema.PAGE_BYTES
            if deadline_s is not None and time.perf_counter() >= deadline_s:
                return False
        connection.execute("DELETE FROM journal WHERE seq <= ?", (self._fold_to,))
        self._write_meta(connection, self._last, self._top, self._journal.seq)
        return True

    def _checkpoint(self, connection: sqlite3.Connection, mode: str) -> bool:
        """Moves the write-ahead log into the file; False when a reader or a full disk kept a part of it back."""
        busy, frames, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        self._figures["checkpoints"] += 1
        self._wal_bytes = 0
        return not busy and frames == moved

    def _vacuum_slice(self, connection: sqlite3.Connection) -> bool:
        """Gives some free pages at the end back to the disk; False when few are free."""
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free * schema.PAGE_BYTES <= FREE_BYTES:
            return False
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        self._wal_bytes += VACUUM_PAGES * schema.PAGE_BYTES
        return True

    def _is_over(self, connection: sqlite3.Connection) -> bool:
        if not self._size_max_bytes:
            return False
        if self._used_is_old > ROOM_BYTES or self._used_bytes + self._used_is_old >= self._size_max_bytes:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            self._used_bytes, self._used_is_old = (pages - free) * schema.PAGE_BYTES, 0
        return self._used_bytes + self._used_is_old >= self._size_max_bytes

    def _make_room(self, connection: sqlite3.Connection) -> bool:
        """On a full disk: what the write-ahead log has is moved, and its file cut off."""
        try:
            return self._checkpoint(connection, "TRUNCATE")
        except sqlite3.Error:
            return False


def code_of(error: BaseException) -> int:
    """SQLite's primary result code; 0 when the error has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_damage(error: BaseException) -> bool:
    return isinstance(error, Damaged) or code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def prepended(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
