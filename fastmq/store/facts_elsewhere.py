"""A store whose facts are another one's: users and bans are the same for all workers, in the file of the first."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastmq.errors import StartError, StoreError
from fastmq.store import facts, files
from fastmq.store.journal import Damaged
from fastmq.store.snapshot import connect
from fastmq.store.sqlite import SqliteStore

PATIENCE_S: Final = 10.0
"""At the start: so long the worker whose file it is may take to make it readable."""
RETRY_S: Final = 0.05


class FactsElsewhere(SqliteStore):
    """A SqliteStore whose facts are in the store at `facts_path`, which another process has open."""

    def __init__(self, path: str | os.PathLike[str], *arguments: Any, facts_path: Path, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._facts_path = facts_path
        self._reading: sqlite3.Connection | None = None
        self._read_from: tuple[int, int] | None = None
        self._patience_s = PATIENCE_S

    def facts(self) -> Mapping[str, bytes]:
        deadline = time.monotonic() + self._patience_s
        self._patience_s = 0.0  # later it is commits that would have to wait
        while True:
            try:
                return self._read()
            except (StoreError, StartError, Damaged, sqlite3.Error, OSError) as error:
                self._end_reading()
                if time.monotonic() >= deadline:
                    raise StoreError("failed", f"{self._facts_path}: read facts: {error}") from error
            time.sleep(RETRY_S)

    def _read(self) -> Mapping[str, bytes]:
        connection = self._reader()
        if connection is None:
            return {}
        self._facts_version = facts.version(connection)
        return facts.read(connection) if facts.has_facts(connection) else {}

    def _reader(self) -> sqlite3.Connection | None:
        """None: there is no file yet."""
        self._drop_if_replaced()
        if self._reading is None and files.size_of(self._facts_path):
            self._read_from = self._identity()
            self._reading = connect(self._facts_path)
        return self._reading

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._facts_path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _drop_if_replaced(self) -> None:
        """A damaged file is put aside by the process that has it, and another one has its name then."""
        if self._reading is not None and self._identity() != self._read_from:
            self._end_reading()

    def _end_reading(self) -> None:
        connection, self._reading = self._reading, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def put_facts(self, changes: Mapping[str, bytes | None]) -> None:
        try:
            facts.change_beside(self._facts_path, changes)
        except StartError as error:
            raise StoreError("failed", str(error)) from error

    def facts_changed(self) -> bool:
        self._drop_if_replaced()
        if self._reading is None:
            return bool(files.size_of(self._facts_path))
        try:
            return facts.version(self._reading) != self._facts_version
        except sqlite3.Error:
            self._end_reading()
            return True

    def close(self) -> None:
        self._end_reading()
        super().close()
