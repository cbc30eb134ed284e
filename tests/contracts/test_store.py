"""What every store must do, whatever it keeps things in: contracts.Store."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fastmq.contracts import Store
from fastmq.store.jetstream import Stream
from fastmq.store.memory import Contents, MemoryStore
from fastmq.store.records import (
    AWAIT_PUBACK,
    AWAIT_PUBCOMP,
    AWAIT_PUBREC,
    EXPIRY_NEVER,
    Clock,
    Delivery,
    Done,
    Ended,
    Forget,
    Group,
    GroupGone,
    Message,
    Received,
    Record,
    Released,
    Retained,
    Session,
    State,
    Stub,
    Subscribed,
    Unretained,
    Unsubscribed,
    Will,
    WillGone,
    decode,
    encode,
)
from fastmq.store.replicated import ReplicatedStore
from fastmq.store.sqlite import SqliteStore
from tests.nats_servers import CLUSTER, NatsServers, nats_servers
from tests.properties.store_clocks import FakeClocks

pytestmark = pytest.mark.timeout(120)  # NATS takes up to 6 s for another leader

Open = Callable[[], Store]


class Bench:
    """A store that can be closed and opened again, and its clocks."""

    def __init__(self, open_store: Callable[[FakeClocks], Store]) -> None:
        self.clocks = FakeClocks()
        self._open = open_store
        self.store = open_store(self.clocks)
        self.loaded = self.load()

    def load(self) -> list[Record]:
        return list(decode(b"".join(self.store.load())))

    def append(self, *records: Record, sync: bool = True) -> None:
        self.store.append(encode(Clock(1000), *records), sync)

    def reopen(self) -> list[Record]:
        """What the store has after it was closed and opened again, the clock left out."""
        self.store.close()
        self.store = self._open(self.clocks)
        clock, *rest = self.load()
        assert isinstance(clock, Clock)
        self.engine_ms = clock.engine_ms
        return rest

    def settle(self) -> None:
        while self.store.maintain(0.001):
            pass


def memory(_: Path) -> Callable[[FakeClocks], Store]:
    contents = Contents()
    return lambda clocks: MemoryStore(contents, clocks)


def sqlite(folder: Path) -> Callable[[FakeClocks], Store]:
    return lambda clocks: SqliteStore(folder / "store.db", clocks=clocks)


def sqlite_folding(folder: Path) -> Callable[[FakeClocks], Store]:
    """Each maintain folds whatever there is."""
    return lambda clocks: SqliteStore(folder / "store.db", clocks=clocks, fold_bytes=1)


def replicated(folder: Path, servers: NatsServers) -> Callable[[FakeClocks], Store]:
    """One that a stream has, too."""
    node = secrets.token_hex(8)

    def open_store(clocks: FakeClocks) -> Store:
        stream = Stream(servers.client(), CLUSTER, node, 0)
        owner = secrets.token_hex(8)
        return ReplicatedStore(folder / "store.db", stream, clocks=clocks, owner=owner, snapshot_bytes=1 << 20)

    return open_store


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with nats_servers(tmp_path_factory.mktemp("nats")) as made:
        yield made


@pytest.fixture(params=[memory, sqlite, sqlite_folding, replicated], ids=lambda make: make.__name__)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    more = (request.getfixturevalue("servers"),) if request.param is replicated else ()
    bench = Bench(request.param(tmp_path, *more))
    yield bench
    bench.store.close()


def session(serial: int, client_id: str = "c", expiry_s: int = EXPIRY_NEVER) -> Session:
    return Session(serial, client_id, expiry_s, 0, 0)


def message(id: int, *, topic: str = "a/b", payload: bytes = b"x", expires_ms: int | None = None) -> Message:
    return Message(id, 1, False, 0, expires_ms, topic, b"", payload)


def stub(id: int, *, size: int = 4, expires_ms: int = 0) -> Stub:
    return Stub(id, size, expires_ms)


def queued(subscriber: int, position: int, message: int) -> Delivery:
    return Delivery(subscriber, position, message, 1, False, 0, 0)


def sent(subscriber: int, position: int, message: int, state: int, packet_id: int) -> Delivery:
    return Delivery(subscriber, position, message, 2, False, state, packet_id)


S1, S2 = session(1), session(2, "d")
GROUP = Group(3, "$share/g/a/#")

KEPT: dict[str, tuple[Sequence[Record], Sequence[Record]]] = {
    "nothing": ([], []),
    "sessions, by serial": ([S2, S1], [S1, S2]),
    "a session's times": ([Session(1, "ü/#", 60, 5000, 6000)], [Session(1, "ü/#", 60, 5000, 6000)]),
    "a session that changed": ([S1, Session(1, "c", 9, 5000, 0)], [Session(1, "c", 9, 5000, 0)]),
    "no session that ended, nor what it had": (
        [S1, Subscribed(1, 1, 0, "a"), Received(1, 9), message(1), message(2), queued(1, 1, 1), Will(1, 2, 0, None),
         Ended(1)],
        [],
    ),
    "a session after another one": ([S1, Subscribed(1, 1, 0, "a"), Ended(1), S2], [S2]),
    "subscriptions": (
        [S1, Subscribed(1, 0x2E, 268_435_455, "a/+/#"), Subscribed(1, 1, 0, "$share/g/é")],
        [S1, Subscribed(1, 1, 0, "$share/g/é"), Subscribed(1, 0x2E, 268_435_455, "a/+/#")],
    ),
    "a subscription that was replaced": (
        [S1, Subscribed(1, 1, 0, "a"), Subscribed(1, 2, 7, "a")], [S1, Subscribed(1, 2, 7, "a")],
    ),
    "no subscription that was given up": (
        [S1, Subscribed(1, 1, 0, "a"), Subscribed(1, 1, 0, "b"), Unsubscribed(1, "a")], [S1, Subscribed(1, 1, 0, "b")],
    ),
    "no subscription without its session": ([Subscribed(1, 1, 0, "a")], []),
    "packet ids that await PUBREL": (
        [S1, Received(1, 65_535), Received(1, 1), Received(1, 2), Released(1, 2)],
        [S1, Received(1, 1), Received(1, 65_535)],
    ),
    "a queue in order": (
        [S1, message(1), message(2), queued(1, 20, 2), queued(1, 3, 1)],
        [S1, stub(1), stub(2), queued(1, 3, 1), queued(1, 20, 2)],
    ),
    "a delivery's parts": (
        [S1, message(5), Delivery(1, 2**40, 5, 2, True, AWAIT_PUBREC, 65_535, (1, 268_435_455))],
        [S1, stub(5), Delivery(1, 2**40, 5, 2, True, AWAIT_PUBREC, 65_535, (1, 268_435_455))],
    ),
    "a delivery's last state": (
        [S1, message(1), queued(1, 1, 1), State(1, 1, AWAIT_PUBACK, 7), State(1, 1, AWAIT_PUBACK, 8)],
        [S1, stub(1), Delivery(1, 1, 1, 1, False, AWAIT_PUBACK, 8)],
    ),
    "no delivery that is over": ([S1, message(1), queued(1, 1, 1), Done(1, 1), State(1, 1, AWAIT_PUBACK, 8)], [S1]),
    "no delivery whose message is missing": ([S1, queued(1, 1, 9)], [S1]),
    "no delivery whose message is forgotten": ([S1, message(1), queued(1, 1, 1), Forget(1)], [S1]),
    "a delivery that awaits PUBCOMP, without its message": (
        [S1, message(1), sent(1, 1, 1, AWAIT_PUBCOMP, 5), Forget(1)], [S1, sent(1, 1, 1, AWAIT_PUBCOMP, 5)],
    ),
    "no delivery of a subscriber that is unknown": ([message(1), queued(1, 1, 1)], []),
    "no message that nobody needs": ([S1, message(1)], [S1]),
    "a message once for many": (
        [S1, S2, message(1, payload=b"x" * 300), queued(1, 1, 1), queued(2, 1, 1)],
        [S1, S2, stub(1, size=303), queued(1, 1, 1), queued(2, 1, 1)],
    ),
    "retained messages, whole": ([message(1, topic="ä"), Retained(1)], [message(1, topic="ä"), Retained(1)]),
    "no retained message that was cleared": ([message(1), Retained(1), Unretained(1)], []),
    "the retained message that replaced another": (
        [message(1), Retained(1), message(2), Unretained(1), Forget(1), Retained(2)], [message(2), Retained(2)],
    ),
    "nothing retained without its message": ([message(1), Retained(1), Forget(1)], []),
    "whole messages before stubs": (
        [S1, message(1), queued(1, 1, 1), message(2), Retained(2)],
        [S1, message(2), stub(1), Retained(2), queued(1, 1, 1)],
    ),
    "wills": (
        [S1, S2, message(1), Will(1, 1, 30, None), Will(2, 1, 0, 60)],
        [S1, S2, message(1), Will(1, 1, 30, None), Will(2, 1, 0, 60)],
    ),
    "a will that replaced another": (
        [S1, message(1), message(2), Will(1, 1, 0, None), Will(1, 2, 5, 0)], [S1, message(2), Will(1, 2, 5, 0)],
    ),
    "no will that was taken back": ([S1, message(1), Will(1, 1, 0, None), WillGone(1)], [S1]),
    "no will without its message": ([S1, Will(1, 1, 0, None)], [S1]),
    "a shared group with its queue": ([GROUP, message(1), queued(3, 1, 1)], [GROUP, stub(1), queued(3, 1, 1)]),
    "no group that is gone, nor its queue": ([GROUP, message(1), queued(3, 1, 1), GroupGone(3)], []),
    "large numbers": (
        [session(2**63 - 1), message(2**63 - 2), queued(2**63 - 1, 2**63 - 1, 2**63 - 2)],
        [session(2**63 - 1), stub(2**63 - 2), queued(2**63 - 1, 2**63 - 1, 2**63 - 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_it_keeps(bench: Bench, name: str) -> None:
    appended, expected = KEPT[name]
    bench.append(*appended)
    assert bench.reopen() == expected
    assert bench.reopen() == expected


@pytest.mark.parametrize("name", KEPT)
def test_it_keeps_what_came_one_by_one(bench: Bench, name: str) -> None:
    """As many batches as records, with housekeeping after each, so that no batch sees the one before."""
    appended, expected = KEPT[name]
    for record in appended:
        bench.append(record, sync=False)
        bench.settle()
    assert bench.reopen() == expected


@pytest.mark.parametrize("name", KEPT)
def test_it_keeps_what_was_appended_twice(bench: Bench, name: str) -> None:
    """A batch whose commit failed may have been stored all the same."""
    appended, expected = KEPT[name]
    for _ in range(2):
        bench.append(*appended)
    assert bench.reopen() == expected


def test_a_new_store_is_empty(bench: Bench) -> None:
    assert bench.loaded == [Clock(0)]


def test_it_fetches_bodies_in_the_order_asked_for(bench: Bench) -> None:
    bodies = {id: message(id, payload=bytes([id]) * id) for id in range(1, 200)}
    bench.append(S1, *bodies.values(), *(queued(1, id, id) for id in bodies))
    for _ in range(2):
        ids = [5, 1, 500, *range(100, 199), 5, 0]
        found = bench.store.fetch(ids)
        assert found == [encode(bodies[id]) if id in bodies else None for id in ids]
        bench.reopen()
    assert bench.store.fetch([]) == []


def test_it_fetches_nothing_that_is_forgotten(bench: Bench) -> None:
    bench.append(S1, message(1), message(2), queued(1, 1, 1), queued(1, 2, 2))
    bench.settle()
    bench.append(Done(1, 1), Forget(1))
    assert bench.store.fetch([1, 2]) == [None, encode(message(2))]


def test_large_messages_come_back_whole(bench: Bench) -> None:
    large = message(1, payload=bytes(range(256)) * 20_000)
    bench.append(large, Retained(1))
    assert bench.store.fetch([1]) == [encode(large)]
    assert bench.reopen() == [large, Retained(1)]
    assert bench.store.fetch([1]) == [encode(large)]


@pytest.mark.parametrize(
    "batch",
    [b"\x63\x01", b"\x01", encode(stub(1)), encode(message(1))[:-1], encode(S1, message(1, topic="a/#"))],
    ids=["unknown kind", "cut off", "stub", "cut off payload", "no topic"],
)
def test_bytes_that_are_no_batch_are_refused_and_leave_no_trace(bench: Bench, batch: bytes) -> None:
    with pytest.raises(ValueError, match="offset"):
        bench.store.append(batch, True)
    bench.append(S2)
    assert bench.reopen() == [S2]


def test_the_clock_goes_on_while_the_store_is_closed(bench: Bench) -> None:
    bench.append(S1)
    bench.clocks.pass_ms(500)
    bench.reopen()
    assert bench.engine_ms == 1500


@pytest.mark.parametrize("step_ms", [-10_000_000, 10_000_000])
def test_setting_the_wall_clock_does_not_move_the_engine(bench: Bench, step_ms: int) -> None:
    bench.append(S1)
    bench.clocks.pass_ms(500)
    bench.clocks.wall += step_ms
    bench.reopen()
    assert bench.engine_ms == 1500


@pytest.mark.parametrize(("away_ms", "passed_ms"), [(3_600_000, 3_600_000), (-3_600_000, 0)])
def test_after_a_reboot_the_wall_clock_says_how_long_it_was(bench: Bench, away_ms: int, passed_ms: int) -> None:
    bench.append(S1)
    bench.clocks.reboot(away_ms)
    bench.reopen()
    assert bench.engine_ms == 1000 + passed_ms


def test_the_clock_goes_on_over_many_restarts_without_a_batch(bench: Bench) -> None:
    bench.append(S1)
    for _ in range(3):
        bench.clocks.pass_ms(100)
        bench.reopen()
        bench.clocks.reboot(100)
        bench.reopen()
    assert bench.engine_ms == 1600


def test_a_batch_without_a_later_clock_does_not_turn_it_back(bench: Bench) -> None:
    bench.append(S1)
    bench.store.append(encode(Clock(10), S2), True)
    bench.reopen()
    assert bench.engine_ms == 1000


EXPIRING: Sequence[Record] = [S1, GROUP, message(1, expires_ms=1500)]

EXPIRED: dict[str, tuple[Sequence[Record], Sequence[Record]]] = {
    "nobody waits for it any more": ([queued(1, 1, 1), queued(3, 1, 1)], []),
    "it is not retained any more": ([Retained(1)], []),
    "what was sent must be sent again": (
        [sent(1, 1, 1, AWAIT_PUBREC, 7), queued(1, 2, 1)],
        [stub(1, expires_ms=1500), sent(1, 1, 1, AWAIT_PUBREC, 7)],
    ),
    "its PUBCOMP is awaited": ([sent(1, 1, 1, AWAIT_PUBCOMP, 7)], [sent(1, 1, 1, AWAIT_PUBCOMP, 7)]),
    "a will expires when it is sent, not before": (
        [Will(1, 1, 0, None)], [message(1, expires_ms=1500), Will(1, 1, 0, None)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPIRED)
def test_a_message_that_expired_meanwhile(bench: Bench, name: str) -> None:
    appended, expected = EXPIRED[name]
    bench.append(*EXPIRING, *appended)
    bench.clocks.pass_ms(499)
    assert len(bench.reopen()) > len(expected) or "again" in name or "PUBCOMP" in name or "will" in name
    bench.clocks.pass_ms(1)
    assert bench.reopen() == [GROUP, S1, *expected]
    bench.clocks.pass_ms(100)
    assert bench.reopen() == [GROUP, S1, *expected]


def test_a_session_that_expired_meanwhile_is_loaded_all_the_same(bench: Bench) -> None:
    """The engine ends it, and sends its will."""
    gone = Session(1, "c", 1, 2000, 0)
    bench.append(gone, message(1), Will(1, 1, 0, None))
    bench.clocks.pass_ms(10_000)
    assert bench.reopen() == [gone, message(1), Will(1, 1, 0, None)]


def test_it_counts_what_it_has(bench: Bench) -> None:
    bench.append(
        S1, Subscribed(1, 1, 0, "a"), Subscribed(1, 1, 0, "b"), message(1), message(2), queued(1, 1, 1), Retained(2)
    )
    bench.reopen()
    expected = {"sessions": 1, "subscriptions": 2, "deliveries": 1, "messages": 2, "retained": 1, "commits": 0}
    figures = bench.store.stat()
    assert {key: figures[key] for key in expected} == expected
    bench.append(S2)
    assert bench.store.stat()["commits"] == 1


def test_a_long_life_leaves_little_behind(bench: Bench) -> None:
    """Ten thousand messages that came and went."""
    bench.append(S1)
    for first in range(1, 10_001, 100):
        ids = range(first, first + 100)
        bench.append(*map(message, ids), *(queued(1, id, id) for id in ids), sync=False)
        bench.settle()
        bench.append(*(Done(1, id) for id in ids), *map(Forget, ids), sync=False)
        bench.settle()
    assert bench.reopen() == [S1]
    assert bench.store.stat()["messages"] == 0


# -- facts -------------------------------------------------------------------------------------------------------------


def test_facts_are_kept_changed_and_removed(bench: Bench) -> None:
    assert bench.store.facts() == {}
    bench.store.put_facts({"user/ä": b"\0\xff", "ban/x": b"", "user/b": b"1"})
    bench.append(S1)
    bench.store.put_facts({"user/b": b"2", "ban/x": None, "never/there": None})
    assert bench.reopen() == [S1]
    assert bench.store.facts() == {"user/ä": b"\0\xff", "user/b": b"2"}
    assert not bench.store.facts_changed()


def test_one_s_own_facts_are_no_news(bench: Bench) -> None:
    bench.store.facts()
    bench.store.put_facts({"a": b"1"})
    bench.append(S1)
    bench.settle()
    assert not bench.store.facts_changed()
