"""Copies a store while a broker commits to it, and says what is in one."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq.errors import StoreError
from fastmq.store import files
from fastmq.store.schema import PAGE_BYTES
from fastmq.store.snapshot import Snapshot, connect

LOOK_S: Final = 0.1
COUNTED: Final = {
    "sessions": "session",
    "subscriptions": "subscription",
    "deliveries": "delivery",
    "messages": "message",
    "retained": "retained",
    "wills": "will",
    "groups": "shared_group",
    "received": "received",
    "facts": "fact",
}


def backup(
    path: Path, target: Path, *, force: bool = False, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Copies the store as it is at this moment, without its free space; returns the copy's size.

    The copy has the journal, too, so that all that was committed before is in it, and gets its name when it is whole
    and on the disk. `progress` hears bytes done and about how many there will be. Raises StoreError, StartError, and
    journal.Damaged or sqlite3.DatabaseError for a damaged store.
    """
    if target.exists() and not force:
        raise StoreError("failed", f"{target}: is there already; --force overwrites it")
    if target.exists() and path.exists() and target.samefile(path):
        raise StoreError("failed", f"{target}: is the store itself")
    if any(files.size_of(files.beside(target, suffix)) for suffix in ("-wal", "-journal")):
        raise StoreError("failed", f"{target}: is a store that is open, or was not closed")
    part = files.beside(target, ".part")
    done = threading.Event()
    with contextlib.closing(connect(path)) as connection:
        total = used_bytes(connection)
        watch = threading.Thread(target=_watch, args=(part, total, progress, done), daemon=True)
        try:
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            watch.start()
            connection.execute("VACUUM INTO ?", (str(part),))
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            size = files.size_of(part)
            os.replace(part, target)
            files.sync_folder(target.parent)
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError("failed", f"{target}: {error}") from error
        finally:
            done.set()
            if watch.is_alive():
                watch.join()
            part.unlink(missing_ok=True)
    progress(size, size)
    return size


def _watch(part: Path, total: int, progress: Callable[[int, int], None], done: threading.Event) -> None:
    """SQLite does not say how far it is, but the file grows."""
    while not done.wait(LOOK_S):
        progress(min(files.size_of(part), total), total)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Without the free space within the file."""
    pages, free = (connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("page_count", "freelist_count"))
    return (int(pages) - int(free)) * PAGE_BYTES


def figures(path: Path) -> dict[str, int | str]:
    """What is in a store; counts are of what is there once the journal is folded. Raises as Snapshot does."""
    with Snapshot(path) as snapshot:
        (free,) = snapshot.connection.execute("PRAGMA freelist_count").fetchone()
        return {
            "path": str(path.resolve()),
            "format": snapshot.version,
            "file_bytes": files.size_of(path),
            "wal_bytes": files.size_of(files.beside(path, "-wal")),
            "free_bytes": int(free) * PAGE_BYTES,
            "journal_batches": snapshot.journal_rows,
            "journal_bytes": snapshot.journal_bytes,
            **{name: snapshot.count(table) for name, table in COUNTED.items()},
            "message_bytes": snapshot.number("SELECT sum(size) FROM message"),
            "longest_queue": snapshot.number(
                "SELECT max(n) FROM (SELECT count(*) AS n FROM delivery GROUP BY subscriber)"
            ),
            "last_commit_ms": snapshot.stamp.wall_ms,
        }
