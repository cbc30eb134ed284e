"""Writes a store as JSON lines, and makes a store of them."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from fastmq._records import Ids
from fastmq.errors import StoreError
from fastmq.store import files, schema
from fastmq.store.clock import Stamp
from fastmq.store.lines import FOOTER, KINDS, Kind, Line, Row, WrongLine, footer, header, parse, read_header, take
from fastmq.store.snapshot import Snapshot

ROWS_AT_ONCE: Final = 512
WRONG_MAX: Final = 20
"""After so many wrong lines the rest is not looked at."""


class WrongFile(Exception):
    """The lines are no store; `problems` has line number and what is wrong."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{number}: {what}" for number, what in problems))


# -- out ---------------------------------------------------------------------------------------------------------------


def export_lines(snapshot: Snapshot, progress: Callable[[int], None] = lambda lines: None) -> Iterator[bytes]:
    """The lines, with their ends, some hundred at a time; `progress` hears how many were made."""
    count = 1
    yield orjson.dumps(header(snapshot.stamp), option=orjson.OPT_APPEND_NEWLINE)
    for kind in KINDS:
        for rows in snapshot.rows(kind.table, only_usable=True):
            yield b"".join(
                orjson.dumps({"kind": kind.name, **kind.to_line(row)}, option=orjson.OPT_APPEND_NEWLINE) for row in rows
            )
            count += len(rows)
            progress(count)
    yield orjson.dumps(footer(count), option=orjson.OPT_APPEND_NEWLINE)


# -- in ----------------------------------------------------------------------------------------------------------------


class References:
    """Whether what a line names was there before, and was not there twice."""

    def __init__(self) -> None:
        self._sessions: set[int] = set()
        self._groups: set[int] = set()
        self._seen: set[tuple[str, object]] = set()
        self._messages = Ids()
        self._positions: dict[int, int] = {}

    def once(self, what: str, value: object) -> None:
        if (what, value) in self._seen:
            raise WrongLine(f"{what} {value} is there twice")
        self._seen.add((what, value))

    def session(self, serial: int) -> None:
        if serial not in self._sessions:
            raise WrongLine(f"session {serial} is not in the lines before")

    def message(self, id: int) -> None:
        if id not in self._messages:
            raise WrongLine(f"message {id} is not in the lines before")

    def check(self, kind: Kind, line: Line) -> None:
        match kind.name:
            case "session":
                self.once("serial", line["serial"])
                self.once("client id", line["client_id"])
                self._sessions.add(line["serial"])
            case "group":
                self.once("serial", line["serial"])
                self.once("group", line["text"])
                self._groups.add(line["serial"])
            case "subscription":
                self.session(line["session"])
                self.once("subscription", (line["session"], line["filter"]))
            case "received":
                self.session(line["session"])
                self.once("received packet id", (line["session"], line["packet_id"]))
            case "message":
                if line["id"] in self._messages:
                    raise WrongLine(f"message {line['id']} is there twice")
                self._messages.add(line["id"])
            case "retained":
                self.message(line["message"])
                self.once("retained message", line["message"])
            case "will":
                self.session(line["session"])
                self.message(line["message"])
                self.once("will of session", line["session"])
            case "delivery":
                self.delivery(line)
            case "fact":
                self.once("fact", line["key"])

    def delivery(self, line: Line) -> None:
        subscriber, position = line["subscriber"], line["position"]
        if subscriber in self._groups and line["state"] != "queued":
            raise WrongLine("what waits for a group is queued")
        if subscriber not in self._groups:
            self.session(subscriber)
        if line["state"] != "await_pubcomp":
            self.message(line["message"])
        if position <= self._positions.get(subscriber, -1):
            raise WrongLine(f"position {position} of subscriber {subscriber} is not after the one before")
        self._positions[subscriber] = position
        if line["packet_id"]:
            self.once("packet id in flight", (subscriber, line["packet_id"]))


def rows_of(lines: Iterable[bytes], problems: list[tuple[int, str]]) -> Iterator[tuple[Kind, Row]]:
    """The rows that the lines after the header stand for; what is wrong goes to `problems`."""
    known = {kind.name: kind for kind in KINDS}
    references = References()
    number = 1
    ended = False
    for number, data in enumerate(lines, 2):
        try:
            if ended:
                raise WrongLine("there is a line after the end")
            line = parse(data)
            name = line.get("kind")
            if name == "end":
                take(line, FOOTER)
                ended = True
                if line["lines"] != number - 1:
                    raise WrongLine(f"there were {number - 1} lines before, not {line['lines']}: some are missing")
                continue
            if name not in known:
                raise WrongLine(f"there is no kind {name!r:.50}")
            kind = known[name]
            row = kind.row(line)
            references.check(kind, line)
        except WrongLine as error:
            problems.append((number, str(error)))
            if len(problems) >= WRONG_MAX:
                return
            continue
        if not problems:
            yield kind, row
    if not ended and not problems:
        problems.append((number + 1, "the last line is missing: the export was cut off"))


def import_lines(
    lines: Iterable[bytes], path: Path, *, replace: bool = False, progress: Callable[[int], None] = lambda lines: None
) -> dict[str, int]:
    """Makes the store `path` of the lines of an export: all of it, or it stays as it was. How many rows of each kind.

    Raises WrongFile; StartError when a broker has the store open; StoreError when it exists and is not to be replaced,
    or cannot be written.
    """
    if not replace and files.size_of(path):
        raise StoreError("failed", f"{path}: there is a store already; --replace replaces what it has")
    problems: list[tuple[int, str]] = []
    source = iter(lines)
    try:
        last = read_header(parse(next(source, b"")))
    except WrongLine as error:
        raise WrongFile([(1, str(error))]) from None
    new = files.beside(path, ".import")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = files.Lock(path)
        try:
            remove(new)
            files.prepare(new)
            counts = fill(new, rows_of(source, problems), last, problems, progress)
            put_in_place(new, path)
        finally:
            remove(new)
            lock.release()
    except (sqlite3.Error, OSError) as error:
        raise StoreError("failed", f"{path}: {error}") from error
    return counts


def fill(
    path: Path,
    rows: Iterator[tuple[Kind, Row]],
    last: Stamp,
    problems: list[tuple[int, str]],
    progress: Callable[[int], None],
) -> dict[str, int]:
    """Makes a new store with these rows, on the disk when this returns. Raises WrongFile when there are problems."""
    counts: dict[str, int] = {}
    with contextlib.closing(schema.connect(str(path))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for kind, batch in batches(rows):
            columns = schema.COLUMNS[kind.table]
            values = ", ".join("?" for _ in columns.split(","))
            connection.executemany(f"INSERT INTO {kind.table} ({columns}) VALUES ({values})", batch)
            counts[kind.name] = counts.get(kind.name, 0) + len(batch)
            progress(sum(counts.values()))
        if problems:
            raise WrongFile(problems)
        (top,) = connection.execute("SELECT max(id) FROM message").fetchone()
        meta: dict[str, Any] = {
            "engine_ms": last.engine_ms, "boot_ms": last.boot_ms, "wall_ms": last.wall_ms, "boot_id": last.boot_id,
            "top": top or 0, "seq": 0,
        }  # fmt: skip
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return counts


def batches(rows: Iterator[tuple[Kind, Row]]) -> Iterator[tuple[Kind, list[Row]]]:
    """Rows of one kind that follow one another, together."""
    for kind, row in rows:
        batch = [row]
        for other, next_row in rows:
            if other is not kind or len(batch) == ROWS_AT_ONCE:
                yield kind, batch
                kind, batch = other, []
            batch.append(next_row)
        yield kind, batch


def put_in_place(new: Path, path: Path) -> None:
    """Gives the finished store its name.

    What it replaces is closed first: a log of the old file must not be taken for the new one's. What is damaged, or no
    store, is put aside as a broker would do it.
    """
    if files.size_of(files.beside(new, "-wal")):
        raise StoreError("failed", f"{new}: could not be finished")
    if path.exists():
        is_ours = files.is_database(path)
        if is_ours:
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as old:
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if not is_ours or any(files.size_of(files.beside(path, suffix)) for suffix in ("-wal", "-journal")):
            files.set_aside(path)
    for suffix in files.SUFFIXES[1:]:
        files.beside(path, suffix).unlink(missing_ok=True)
    os.replace(new, path)
    files.sync_folder(path.parent)


def remove(path: Path) -> None:
    for suffix in files.SUFFIXES:
        files.beside(path, suffix).unlink(missing_ok=True)
