"""A SQLite store through random lives - appends, housekeeping, crashes, restarts - against the plain one in memory."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fastmq.contracts import Store
from fastmq.store import records as r
from fastmq.store.memory import Contents, MemoryStore
from fastmq.store.sqlite import SqliteStore
from tests.properties.store_clocks import FakeClocks
from tests.properties.store_records import BATCHES, MESSAGES, RECORDS

SUFFIXES = ("", "-wal")


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fastmq-store-"))
        self.life = 0
        self.clocks = FakeClocks()
        self.contents = Contents()
        self.engine_ms = 0
        self.committed_ms = 0

    @initialize(fold_bytes=st.sampled_from((1, 300, 10**9)))
    def open(self, fold_bytes: int) -> None:
        self.fold_bytes = fold_bytes
        self.start()

    def start(self) -> None:
        path = self.folder / f"{self.life}.db"
        self.store = SqliteStore(path, clocks=self.clocks, fold_bytes=self.fold_bytes)
        self.plain = MemoryStore(self.contents, self.clocks)
        loaded, expected = decoded(self.store), decoded(self.plain)
        assert loaded == expected
        clock = loaded[0]
        assert isinstance(clock, r.Clock)
        assert clock.engine_ms >= self.committed_ms
        self.engine_ms = self.committed_ms = clock.engine_ms

    @rule(batch=st.one_of(BATCHES, st.lists(RECORDS, max_size=3)), sync=st.booleans())
    def append(self, batch: list[r.Record], sync: bool) -> None:
        data = r.encode(r.Clock(self.engine_ms), *batch)
        self.store.append(data, sync)
        self.plain.append(data, sync)
        self.committed_ms = self.engine_ms

    @rule(slices=st.sampled_from((1, 2, 4, 9, 30)))
    def maintain(self, slices: int) -> None:
        for _ in range(slices):
            self.store.maintain(0)

    @rule(ms=st.integers(0, 2000))
    def time_passes(self, ms: int) -> None:
        self.clocks.pass_ms(ms)
        self.engine_ms += ms

    @rule(step_ms=st.integers(-(10**9), 10**9))
    def the_wall_clock_is_set(self, step_ms: int) -> None:
        self.clocks.wall += step_ms

    @rule(ids=st.lists(MESSAGES, max_size=60))
    def fetch(self, ids: list[int]) -> None:
        assert self.store.fetch(ids) == self.plain.fetch(ids)

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """What a kill leaves is what is in the files; the process that they are copied from goes on until then."""
        self.life += 1
        for suffix in SUFFIXES:
            shutil.copyfile(f"{self.store.path}{suffix}", self.folder / f"{self.life}.db{suffix}")
        self.store.close()
        if data.draw(st.booleans()):
            self.clocks.reboot(data.draw(st.integers(-1000, 5000)))
        self.start()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.plain.close()
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.folder)


def decoded(store: Store) -> list[r.Record]:
    return list(r.decode(b"".join(store.load())))


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
