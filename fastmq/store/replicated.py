"""A store whose batches several hosts have: a stream has what was acknowledged, the file here is made of it.

A batch is committed when the stream has it. The file gets it next, without waiting for the disk: what it is missing
after a crash, or altogether at another host, is read from the stream, or first from a snapshot, which is a copy of such
a file. One process at a time owns a worker's stream. When another one takes it over, this one finds itself fenced, and
must end without a word: nothing that it does is stored any more.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fastmq import logs
from fastmq._records import scan
from fastmq.errors import StartError, StoreError
from fastmq.store import files
from fastmq.store.backup import backup
from fastmq.store.clock import Clocks
from fastmq.store.database import is_damage
from fastmq.store.facts_elsewhere import FactsElsewhere
from fastmq.store.jetstream import Batch, Stream
from fastmq.store.journal import Damaged
from fastmq.store.snapshot import connect
from fastmq.store.sqlite import SqliteStore

CHECK_S: Final = 0.5
"""How often an owner that appends nothing looks whether it still is one."""
RETRY_SNAPSHOT_S: Final = 30.0

log = logs.get("store")


class Then:
    """The clocks at the time of a batch, as far as another machine can know it."""

    def __init__(self, wall_ms: int) -> None:
        self._wall_ms = wall_ms

    def boot_ms(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return self._wall_ms

    def boot_id(self) -> str:
        return ""


class ReplicatedStore(SqliteStore):
    """A SqliteStore that follows a stream, which it opens and closes.

    `owner` is a text that no other process has. It waits for a quorum, `wait_s` seconds at most.
    `after`: only if the last owner's term is this one.
    `snapshot_bytes`: after so many bytes of batches the stream gets a copy of the file instead.

    It, `append`, `maintain` and `load` raise Fenced when another process has taken the stream over.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: Stream,
        *arguments: Any,
        owner: str,
        wait_s: float | None = None,
        after: int = 0,
        snapshot_bytes: int,
        **options: Any,
    ) -> None:
        self._stream = stream
        self._snapshot_bytes = snapshot_bytes
        self._in_stream: tuple[int, bytes] = (0, b"")
        """The newest batch that the stream has, and the file may not have yet."""
        self._check_at = time.monotonic() + CHECK_S
        self._snapshot_at = 0.0
        self._snapshots = 0
        self._copying: threading.Thread | None = None
        try:
            self._begin(Path(path), owner, wait_s, after)
            super().__init__(path, *arguments, **options)
        except BaseException:
            stream.close()
            raise

    @property
    def term(self) -> int:
        """Counts the processes that have owned this store."""
        return self._stream.term

    def _begin(self, path: Path, owner: str, wait_s: float | None, after: int) -> None:
        files.prepare(path)
        lock = files.Lock(path)  # another process that has the file open is to keep its stream, too
        try:
            self._stream.open(owner, wait_s, after)
            self._restore(path)
        finally:
            lock.release()

    def _restore(self, path: Path) -> None:
        """Puts the newest snapshot in the file's place if that is not there, damaged, or too old for the stream."""
        mine = number_of(path)
        newest = self._stream.snapshots.newest()
        if mine is not None and mine >= newest:
            return
        if not newest:
            if mine is None and files.size_of(path):
                files.set_aside(path)
            return
        if files.size_of(path):
            log.warning("the file is older than the stream's snapshot", file=path, has=mine, snapshot=newest)
            files.set_aside(path)
        part = files.beside(path, ".part")
        self._stream.snapshots.get(newest, part)
        os.chmod(part, 0o600)
        os.replace(part, path)
        log.info("took the stream's snapshot", file=path, snapshot=newest, bytes=files.size_of(path))

    def load(self) -> Iterator[bytes]:
        self._follow()
        self._file.workers = self._file.workers or self._stream.workers
        yield from super().load()
        self._stream.keep_workers(self._workers)

    def _follow(self) -> None:
        """Appends what the stream has and the file has not."""
        journal = self._file.journal
        taken = newest = 0
        for batch in self._stream.read():
            newest = batch.number
            if batch.number <= journal.seq:
                continue
            if batch.number != journal.seq + 1:
                raise StartError(
                    f"{self.path}: the stream has batch {batch.number}, and the one after {journal.seq} is nowhere; "
                    "is another cluster's stream of the same name?"
                )
            self._take(batch)
            taken += 1
        if taken:
            log.info("followed the stream", file=self.path, batches=taken)
        if newest < journal.seq and self._stream.snapshots.newest() < journal.seq:
            # A store that was this host's alone, or a stream that was lost: all servers shall have what is here.
            self._copy()

    def _take(self, batch: Batch) -> None:
        clocks: Clocks = self._clocks
        self._clocks = Then(batch.wall_ms)
        try:
            super().append(batch.records, False)
        finally:
            self._clocks = clocks

    def append(self, batch: bytes, sync: bool) -> None:
        number = self._file.journal.seq + 1
        known, records = self._in_stream
        if number > known:
            scan(batch)  # what is none must not get into the stream
            self._stream.append(number, batch)
            self._in_stream = number, batch
        elif records != batch:
            raise Damaged(f"{self.path}: batch {number} is another one in the stream")
        super().append(batch, False)

    def maintain(self, budget_s: float) -> bool:
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_S
            self._stream.check()
        if self._stream.bytes >= self._snapshot_bytes and now >= self._snapshot_at and self._copying is None:
            self._snapshot_at = now + RETRY_SNAPSHOT_S
            self._copying = threading.Thread(target=self._copy_meanwhile, name="fastmq-snapshot", daemon=True)
            self._copying.start()
        return super().maintain(budget_s)

    def _copy_meanwhile(self) -> None:
        try:
            self._copy()
            self._snapshot_at = 0.0
        except (StoreError, StartError, Damaged, sqlite3.Error, OSError) as error:
            log.rarely("error", "snapshot", "the stream got no snapshot", file=self.path, reason=error)
        finally:
            self._copying = None

    def _copy(self) -> None:
        copy = files.beside(self.path, ".copy")
        began = self._stream.bytes
        try:
            backup(self.path, copy, force=True)
            number = number_of(copy)
            if number is None:
                raise Damaged(f"{copy}: the copy is no store")
            self._stream.put_snapshot(copy, number)
        finally:
            copy.unlink(missing_ok=True)
        self._stream.bytes -= began
        self._snapshots += 1
        log.info("the stream has a snapshot", file=self.path, number=number)

    def stat(self) -> dict[str, int]:
        return {**super().stat(), "stream_bytes": self._stream.bytes, "snapshots": self._snapshots, "term": self.term}

    def hurry(self) -> None:
        self._stream.hurry()

    def close(self) -> None:
        if (copying := self._copying) is not None:
            copying.join()
        super().close()
        self._stream.close()


class ReplicatedFactsElsewhere(ReplicatedStore, FactsElsewhere):
    """That of a worker whose facts are in the file of the first one."""


def number_of(path: Path) -> int | None:
    """The number of the newest batch that a store's file has; None: there is no store, or a damaged one."""
    if not files.size_of(path):
        return None
    try:
        with contextlib.closing(connect(path)) as connection:
            (in_journal,) = connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()
            folded = connection.execute("SELECT value FROM meta WHERE key = 'seq'").fetchone()
    except (sqlite3.DatabaseError, Damaged) as error:
        if isinstance(error, sqlite3.OperationalError) and not is_damage(error):
            raise StoreError("failed", f"{path}: {error}") from error
        return None
    return max(int(in_journal), int(folded[0]) if folded else 0)
