"""What is read beside a running store is what the store has; what is exported can be imported, and is the same."""

import contextlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmq.store import records as r
from fastmq.store.schema import COLUMNS
from fastmq.store.snapshot import Snapshot
from fastmq.store.sqlite import SqliteStore
from fastmq.store.transfer import WrongFile, export_lines, import_lines
from tests.properties.store_records import BATCHES

NO_ENGINE_WRITES = ("is there twice", "what waits for a group is queued")
"""Random records may say these; the import refuses them."""

Tables = dict[str, list[tuple[object, ...]]]


def tables_of(path: Path, *, only_usable: bool) -> Tables:
    with Snapshot(path) as snapshot:
        return {
            table: [row for rows in snapshot.rows(table, only_usable=only_usable) for row in rows] for table in COLUMNS
        }


def exported(path: Path) -> list[bytes]:
    with Snapshot(path) as snapshot:
        return b"".join(export_lines(snapshot)).splitlines(keepends=True)


def filled(path: Path, batches: list[list[r.Record]], data: st.DataObject) -> SqliteStore:
    """A store that took these batches, with some housekeeping in between."""
    store = SqliteStore(path, fold_bytes=data.draw(st.sampled_from((1, 10**9))))
    list(store.load())
    for batch in batches:
        store.append(r.encode(r.Clock(5), *batch), False)
        for _ in range(data.draw(st.integers(0, 3))):
            store.maintain(0)
    return store


@settings(max_examples=50, deadline=None)
@given(st.lists(BATCHES, min_size=1, max_size=6), st.data())
def test_a_snapshot_has_what_the_tables_will_have(batches: list[list[r.Record]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(prefix="fastmq-store-") as folder:
        path = Path(folder, "store.db")
        store = filled(path, batches, data)
        before = [tables_of(path, only_usable=usable) for usable in (False, True)]
        store.close()
        assert before == [tables_of(path, only_usable=usable) for usable in (False, True)]


@settings(max_examples=50, deadline=None)
@given(st.lists(BATCHES, min_size=1, max_size=6), st.data())
def test_an_export_is_imported_as_it_was(batches: list[list[r.Record]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(prefix="fastmq-store-") as folder:
        path, copy = Path(folder, "store.db"), Path(folder, "copy.db")
        with contextlib.closing(filled(path, batches, data)):
            lines = exported(path)
        try:
            import_lines(lines, copy)
        except WrongFile as error:
            _, what = error.problems[0]  # the others may follow from it
            assert what.endswith(NO_ENGINE_WRITES)
            assert not copy.exists()
        else:
            assert exported(copy) == lines
