"""The store on this disk: what a commit costs, folding, loading, fetching. `-k` picks; figures are for a whole run.

A million of everything takes a while to make: `STORE_BENCH_ROWS=1000000 make micro ARGS="-k store"`.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from fastmq._fold import Fold
from fastmq.store.records import EXPIRY_NEVER, Clock, Session, Subscribed, encode, uv
from fastmq.store.sqlite import SqliteStore


class Benchmark(Protocol):
    def __call__(self, function: Any, *args: Any) -> Any: ...
    def pedantic(self, function: Any, *, rounds: int) -> Any: ...


ROWS = int(os.environ.get("STORE_BENCH_ROWS", "20000"))
BODY = b"\x01\x07" + b"\x0bsensors/a/b" + b"\x00" + b"\x64" + bytes(100)  # flags, origin, topic, properties, payload


def message(id: int) -> bytes:
    return b"\x01" + uv(id) + BODY


def queued(subscriber: int, position: int, id: int) -> bytes:
    return b"\x03" + uv(subscriber) + uv(position) + uv(id) + b"\x01\x00\x00\x00"


def offline(first: int, count: int) -> bytes:
    """Messages for a session that is away."""
    return encode(Clock(first)) + b"".join(message(i) + queued(7, i, i) for i in range(first, first + count))


def online(first: int, count: int) -> bytes:
    """Messages that are delivered to 100 sessions and acknowledged at once."""
    return encode(Clock(first)) + b"".join(
        message(i)
        + b"\x03" + uv(i % 100) + uv(i) + uv(i) + b"\x09\x01\x00\x00"
        + b"\x05" + uv(i % 100) + uv(i)
        + b"\x02" + uv(i)
        for i in range(first, first + count)
    )  # fmt: skip


def drained(first: int, count: int) -> bytes:
    """The acknowledgements of what `offline` has queued."""
    return encode(Clock(first)) + b"".join(b"\x05\x07" + uv(i) + b"\x02" + uv(i) for i in range(first, first + count))


def fold_all(store: SqliteStore) -> None:
    store._fold_all()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "bench.db")
    for _ in store.load():
        pass
    yield store
    store.close()


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no_sync"])
@pytest.mark.parametrize("messages", [1, 100, 1000])
def test_append(benchmark: Benchmark, store: SqliteStore, messages: int, sync: bool) -> None:
    """A commit of a batch, with the housekeeping that it causes."""
    batch = online(1, messages)

    def run() -> None:
        store.append(batch, sync)
        store.maintain(0.002)

    benchmark(run)


@pytest.mark.parametrize("traffic", [online, offline], ids=["online", "offline"])
def test_net_effect(benchmark: Benchmark, traffic: object) -> None:
    """20 batches of 1000 messages, folded and taken out in pieces; no disk."""
    batches = [(online if traffic is online else offline)(1 + i * 1000, 1000) for i in range(20)]

    def run() -> None:
        fold = Fold(batches, 0)
        while fold.chunk():
            pass

    benchmark(run)


def test_queue_and_fold(benchmark: Benchmark, store: SqliteStore) -> None:
    """ROWS messages for a session that is away, in batches of 1000: appended without fsync, folded, checkpointed."""
    batches = [offline(1 + at, 1000) for at in range(0, ROWS, 1000)]

    def run() -> None:
        for batch in batches:
            store.append(batch, False)
            store.maintain(0.01)
        fold_all(store)

    benchmark.pedantic(run, rounds=1)
    assert store.stat()["deliveries"] == ROWS


def test_drain_and_fold(benchmark: Benchmark, store: SqliteStore) -> None:
    """What brings the file back: their acknowledgements."""
    for at in range(0, ROWS, 1000):
        store.append(offline(1 + at, 1000), False)
    fold_all(store)
    batches = [drained(1 + at, 1000) for at in range(0, ROWS, 1000)]

    def run() -> None:
        for batch in batches:
            store.append(batch, False)
            store.maintain(0.01)
        fold_all(store)

    benchmark.pedantic(run, rounds=1)
    assert store.stat()["messages"] == 0


def test_load(benchmark: Benchmark, store: SqliteStore) -> None:
    """ROWS deliveries of as many messages, a tenth as many sessions with a subscription each."""
    for at in range(0, ROWS, 1000):
        store.append(offline(1 + at, 1000), False)
        store.maintain(0.01)
    sessions = range(1, ROWS // 10 + 8)
    for at in sessions[::1000]:
        some = (
            (Session(i, f"client-{i}", EXPIRY_NEVER, 0, 0), Subscribed(i, 1, 0, f"sensors/{i}/#"))
            for i in range(at, min(at + 1000, sessions.stop))
        )
        store.append(encode(Clock(1), *(record for pair in some for record in pair)), False)
    fold_all(store)
    path = store.path
    store.close()
    again = SqliteStore(path)
    size = benchmark.pedantic(lambda: sum(map(len, again.load())), rounds=1)
    assert size > ROWS * 12
    again.close()


@pytest.mark.parametrize("order", ["contiguous", "scattered"])
def test_fetch(benchmark: Benchmark, store: SqliteStore, order: str) -> None:
    """1000 bodies of 100 bytes."""
    for at in range(0, 20_000, 1000):
        store.append(offline(1 + at, 1000), False)
    fold_all(store)
    ids = list(range(5000, 6000)) if order == "contiguous" else random.Random(1).sample(range(1, 20_000), 1000)
    found = benchmark(store.fetch, ids)
    assert None not in found


def test_fetch_from_the_journal(benchmark: Benchmark, store: SqliteStore) -> None:
    """1000 bodies that are not folded yet, among 20,000."""
    for at in range(0, 20_000, 1000):
        store.append(offline(1 + at, 1000), False)
    found = benchmark(store.fetch, list(range(5000, 6000)))
    assert None not in found
