"""A store in one SQLite file: a log in front of tables.

`append` writes a batch as one row of the journal and commits. `maintain` folds the oldest batches: it works out what is
left of them and applies that to the tables, slice by slice, then removes them. What came and went between costs no
row. `load` folds all there is, then reads tables only.

Any number of slices may be applied before a crash: the batches are removed with the last one, and folding them again
over tables that have a part of it already ends in the same rows.
"""

import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from fastmq import logs
from fastmq._fold import Fold
from fastmq._records import scan
from fastmq.errors import StartError, StoreError
from fastmq.store import facts, fetching, files, schema
from fastmq.store.clock import Clocks, MachineClocks, engine_now, stamp
from fastmq.store.database import Database, is_damage
from fastmq.store.folding import apply_chunk
from fastmq.store.journal import INSERT, Damaged, Entry
from fastmq.store.loading import Loading, Progress

FOLD_BYTES: Final = 4 * 1024 * 1024
FOLD_AGE_S: Final = 1.0
FOLD_MAX_BYTES: Final = 2 * 1024 * 1024
"""Of batches that are folded at a time; a fold may take ten times this in memory."""
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
FREE_BYTES: Final = 4 * 1024 * 1024
"""Free space within the file that is kept: the journal comes and goes in it."""
VACUUM_PAGES: Final = 64
LOOK_BYTES: Final = 1024 * 1024
"""After so many appended bytes the file's size is looked up again."""

DISK_RESERVE_BYTES: Final = 32 * 1024 * 1024

COUNTS: Final = {
    "sessions": "session",
    "subscriptions": "subscription",
    "deliveries": "delivery",
    "messages": "message",
    "retained": "retained",
}

KEPT: Final = ("session", "shared_group", "retained")
"""What belongs to one of several workers."""

log = logs.get("store")


def no_progress(done: int, total: int) -> None:
    pass


class SqliteStore:
    """Implements `contracts.Store`.

    `size_max_bytes` (0 = no limit) holds for the pages in use. From there on `no_room` says so; what is appended all
    the same is stored, since acknowledgements are what makes room. The write-ahead log comes on top, about 16 MiB.

    There is no room for messages either while the disk has less than `disk_reserve_bytes` left (32 MiB, or an eighth of
    a small disk): on a disk that is entirely full not even acknowledgements can be stored, nor can the file shrink.

    `workers` is the number of workers that the broker has: sessions are with the one that their client ids belong to,
    so another number cannot do with what this one kept, and `load` raises StartError.

    `maintain` folds when the journal has `fold_bytes`, or is a second old. `progress` is told of rows done and rows in
    all while `load` runs.

    Raises StartError when another process has the file, or when it is not this program's or of a newer version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size_max_bytes: int = 0,
        *,
        workers: int = 1,
        fold_bytes: int = FOLD_BYTES,
        disk_reserve_bytes: int | None = None,
        clocks: Clocks | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.path = Path(path)
        self._size_max_bytes = size_max_bytes
        self._workers = workers
        self._fold_bytes = fold_bytes
        self._disk_reserve_bytes = disk_reserve_bytes
        self._clocks: Clocks = clocks or MachineClocks()
        self._progress = progress
        self._fold: Fold | None = None
        self._fold_to = 0  # seq
        self._fold_on: sqlite3.Connection | None = None
        self._oldest_s = 0.0
        self._facts_version = 0
        self._used_bytes = 0
        self._looked_bytes_ago = LOOK_BYTES
        self._commits = self._appended_bytes = self._folded_records = 0
        self._commit_ns = self._slowest_commit_ns = 0
        self._file = Database(self.path)
        if self._disk_reserve_bytes is None:
            disk = os.statvfs(self.path.parent)
            self._disk_reserve_bytes = min(DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 8)

    def load(self) -> Iterator[bytes]:
        file = self._file
        with file.errors_of("load"):
            try:
                loading, batches = self._begin_load()
            except (Damaged, sqlite3.DatabaseError) as error:
                if not is_damage(error):
                    raise
                file.replace(str(error))
                loading, batches = self._begin_load()
            if loading.dropped:
                log.info("left out what nobody can use", **loading.dropped)
            yield from batches

    def _begin_load(self) -> tuple[Loading, Iterator[bytes]]:
        """All of a load that can find damage, which ends with its first batch."""
        file = self._file
        self._fold = None
        self._fold_all()
        self._check_workers()
        now_ms = engine_now(file.last, self._clocks)
        loading = Loading(file.live(), now_ms, self._progress)
        batches = loading.batches()
        first = next(batches)
        file.last = stamp(now_ms, self._clocks)
        file.write_meta(file.last)
        return loading, chain((first,), batches)

    def _check_workers(self) -> None:
        file = self._file
        counts = (file.live().execute(f"SELECT EXISTS (SELECT * FROM {table})").fetchone()[0] for table in KEPT)
        if any(counts) and (found := file.workers or 1) not in (-1, self._workers):
            raise StartError(
                f"{self.path}: what is kept here was written by {found} worker{'s' if found > 1 else ''}, not "
                f"{self._workers}; start with --workers {found} as before"
            )
        file.workers = self._workers

    def append(self, batch: bytes, sync: bool) -> None:
        engine_ms, _, low, high = scan(batch)
        started_ns = time.perf_counter_ns()
        file = self._file
        with file.errors_of("append"):
            connection = file.live()
            file.set_synchronous(sync)
            now = stamp(max(engine_ms, file.last.engine_ms), self._clocks)
            seq = file.journal.seq + 1
            row = (seq, now.engine_ms, now.boot_ms, now.wall_ms, zlib.crc32(batch), batch)
            try:
                connection.execute(INSERT, row)
            except sqlite3.OperationalError as error:
                if not file.is_full(error) or not file.make_room():
                    raise
                connection.execute(INSERT, row)
        if not file.journal.entries:
            self._oldest_s = time.monotonic()
        file.journal.add(Entry(seq, len(batch), low, high, batch))
        file.last = now
        file.wal_bytes += len(batch) + 3 * schema.PAGE_BYTES
        self._looked_bytes_ago += len(batch)
        self._commits += 1
        self._appended_bytes += len(batch)
        self._commit_ns = time.perf_counter_ns() - started_ns
        self._slowest_commit_ns = max(self._slowest_commit_ns, self._commit_ns)

    def fetch(self, ids: Sequence[int]) -> list[bytes | None]:
        found: dict[int, bytes | None] = dict.fromkeys(ids)
        if not found:
            return []
        with self._file.errors_of("fetch"):
            connection = self._file.live()
            fetching.from_table(connection, found)
            self._file.journal.pick(found, connection)
        return [found[id] for id in ids]

    def maintain(self, budget_s: float) -> bool:
        with self._file.errors_of("maintain"):
            if self._is_fold_due():
                self._fold_slice(time.perf_counter() + budget_s)
            elif self._file.wal_bytes >= CHECKPOINT_BYTES:
                self._file.checkpoint("PASSIVE")
            elif self._file.free_bytes() > FREE_BYTES:
                self._vacuum_slice()
            else:
                return False
        return True

    def facts(self) -> Mapping[str, bytes]:
        with self._file.errors_of("read facts"):
            try:
                return self._read_facts(self._file.live())
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                return self._read_facts(self._file.replace(str(error)))

    def _read_facts(self, connection: sqlite3.Connection) -> Mapping[str, bytes]:
        self._facts_version = facts.version(connection)
        return facts.read(connection)

    def put_facts(self, changes: Mapping[str, bytes | None]) -> None:
        file = self._file
        with file.errors_of("put facts"):
            file.set_synchronous(True)
            facts.put(file.live(), changes)
            file.wal_bytes += 3 * schema.PAGE_BYTES * max(1, len(changes))

    def facts_changed(self) -> bool:
        with self._file.errors_of("look at facts"):
            return facts.version(self._file.live()) != self._facts_version

    def no_room(self) -> str:
        with self._file.errors_of("look for room"):
            if self._is_over():
                return f"{self.path}: {self._size_max_bytes} bytes are in use"
            disk = os.statvfs(self.path.parent)
        left_bytes = disk.f_bavail * disk.f_frsize
        if left_bytes < (self._disk_reserve_bytes or 0):
            return f"{self.path}: the disk has only {left_bytes} bytes left"
        return ""

    def stat(self) -> Mapping[str, int]:
        file = self._file
        with file.errors_of("stat"):
            connection = file.live()
            counts = {
                name: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for name, table in COUNTS.items()
            }
            free_bytes = file.free_bytes()
        return {
            "file_bytes": files.size_of(self.path),
            "wal_bytes": files.size_of(files.beside(self.path, "-wal")),
            "free_bytes": free_bytes,
            "journal_rows": len(file.journal),
            "journal_bytes": file.journal.bytes,
            **counts,
            "commits": self._commits,
            "appended_bytes": self._appended_bytes,
            "folded_records": self._folded_records,
            "checkpoints": file.checkpoints,
            "salvages": file.salvages,
            "last_commit_us": self._commit_ns // 1000,
            "slowest_commit_us": self._slowest_commit_ns // 1000,
        }

    def hurry(self) -> None:
        pass  # it waits for nobody

    def close(self) -> None:
        file = self._file
        try:
            with file.errors_of("close"):
                self._fold_all()
                file.set_synchronous(True)
                file.write_meta(stamp(engine_now(file.last, self._clocks), self._clocks))
                file.checkpoint("TRUNCATE")
        except StoreError as error:
            log.warning("the store could not be tidied up at its end; nothing is lost", file=self.path, error=error)
        finally:
            file.release()

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def _is_fold_due(self) -> bool:
        journal = self._file.journal
        if self._fold is not None or journal.bytes >= self._fold_bytes:
            return True
        return bool(journal.entries) and time.monotonic() - self._oldest_s >= FOLD_AGE_S

    def _fold_all(self) -> None:
        while self._fold is not None or self._file.journal.entries:
            self._fold_slice(None)
            if self._file.wal_bytes >= CHECKPOINT_BYTES:
                self._file.checkpoint("PASSIVE")

    def _fold_slice(self, deadline_s: float | None) -> None:
        """Folds until the deadline, or the oldest batches without one."""
        file = self._file
        connection = file.live()
        file.set_synchronous(False)  # in order with the batches, whose commits wait when they must
        fold, self._fold = self._fold, None  # when this fails, the next one begins anew
        if fold is None or self._fold_on is not connection:  # that file may have been replaced since
            self._fold_on = connection
            batches, self._fold_to = file.journal.oldest(FOLD_MAX_BYTES, connection)
            fold = Fold(batches, file.top)
            # Before any row: were it folded again after a crash, a message would else be taken for a new one.
            file.top = fold.top
            file.write_meta(file.last)
        if schema.in_transaction(connection, lambda: self._apply(connection, fold, deadline_s)):
            self._folded_records += fold.records
            file.journal.drop_to(self._fold_to)
            self._oldest_s = time.monotonic()
        else:
            self._fold = fold

    def _apply(self, connection: sqlite3.Connection, fold: Fold, deadline_s: float | None) -> bool:
        """True when all of it is applied, and its batches are removed."""
        while apply_chunk(connection, fold):
            self._file.wal_bytes += 4 * schema.PAGE_BYTES
            if deadline_s is not None and time.perf_counter() >= deadline_s:
                return False
        connection.execute("DELETE FROM journal WHERE seq <= ?", (self._fold_to,))
        self._file.write_meta(self._file.last)
        return True

    def _vacuum_slice(self) -> None:
        """Gives some free pages at the end of the file back to the disk."""
        self._file.live().execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        self._file.wal_bytes += VACUUM_PAGES * schema.PAGE_BYTES

    def _is_over(self) -> bool:
        """Whether the cap is reached. Between two looks at the file, what was appended counts as growth."""
        if not self._size_max_bytes:
            return False
        if self._looked_bytes_ago >= LOOK_BYTES or self._used_bytes + self._looked_bytes_ago >= self._size_max_bytes:
            self._used_bytes, self._looked_bytes_ago = self._file.used_bytes(), 0
        return self._used_bytes + self._looked_bytes_ago >= self._size_max_bytes
