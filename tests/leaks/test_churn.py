"""The same work again and again: after a first round has filled pools, tables and caches, nothing may grow."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmq._retain import RetainedTree
from fastmq._trie import Trie
from tests.inprocess import Engine
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.encode import Will

RESIDENT_MAX = 3 << 20
"""Bytes of resident memory that a thousand rounds may add: the allocator's, not ours."""

TABLES = 200_000
"""Bytes that hash tables and the cache of matches keep after 2,000 topics have come and gone."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def connect_only(engine: Engine, number: int) -> None:
    wire = engine.wire(4)
    wire.send(encode.connect(4, client_id=f"c{number}") + encode.disconnect(4))
    engine.turn()
    engine.turn()
    wire.close()


def refused(engine: Engine, number: int) -> None:
    wire = engine.wire(5)
    wire.send(encode.connect(5, client_id=f"c{number}")[: 5 + number % 9] + b"\xff\xff\xff\xff\xff")
    engine.turn()
    wire.close()
    engine.turn()


def with_everything(engine: Engine, number: int) -> None:
    """A will, subscriptions of every kind, aliases both ways, QoS 1 and 2 left unfinished both ways; then gone."""
    wire = engine.wire(5)
    props = [(p.SESSION_EXPIRY, 1), (p.TOPIC_ALIAS_MAXIMUM, 10), (p.RECEIVE_MAXIMUM, 2)]
    wire.send(
        encode.connect(5, client_id=f"c{number}", props=props, will=Will("will/x", b"gone"))
        + encode.subscribe(5, 1, [("a/+", 2), ("a/b", 1), (f"own/{number}", 1), ("$share/g/a/#", 1), ("will/#", 1)])
        + b"".join(
            encode.publish(5, f"a/{qos}", bytes(1500), qos=qos, packet_id=qos or None, props=[(p.TOPIC_ALIAS, qos + 1)])
            for qos in (0, 1, 2, 1, 1, 2)
        )
        + encode.subscribe(5, 2, [("r/#", 1)])
        + encode.publish(5, "a/half", bytes(3000))[:2000]
    )
    engine.turn()
    engine.turn()
    wire.close()
    engine.turn()


SCENES: list[tuple[Callable[[Engine, int], None], int]] = [
    (connect_only, 100_000),
    (refused, 100_000),
    (with_everything, 20_000),
]


@pytest.mark.parametrize(("scene", "rounds"), SCENES, ids=[scene.__name__ for scene, _ in SCENES])
def test_connections_leave_nothing(scene: Callable[[Engine, int], None], rounds: int) -> None:
    with Engine() as engine:
        for i in range(20):
            engine.hub.publish(encode.publish(5, f"r/{i}", b"retained", qos=1, packet_id=1, retain=True))

        def run(count: int) -> tuple[int, int, int]:
            for number in range(count):
                scene(engine, number)
                if number % 100 == 99:
                    engine.forget_wires()
                    engine.advance(3)
            engine.forget_wires()
            engine.advance(3)
            gc.collect()
            return engine.memory(), len(gc.get_objects()), resident_bytes()

        run(500)
        ledger, objects, resident = run(500)
        ledger_after, objects_after, resident_after = run(rounds)
        stats = engine.hub.stats()
        assert (stats["connections"], stats["sessions"], stats["subscriptions"]) == (0, 0, 0)
        assert ledger_after == ledger
        assert objects_after - objects < 50
        assert resident_after - resident < RESIDENT_MAX


def test_subscriptions_leave_nothing() -> None:
    """A million subscriptions, exact and with wildcards, 20,000 at a time."""
    trie = Trie()

    def run() -> tuple[int, int]:
        for number in range(20_000):
            trie.add(number % 7, b"exact/%d" % number)
            trie.add(number % 5, b"wild/%d/+/x" % (number % 1000) if number % 2 else b"deep/%d/#" % number)
        trie.match(b"wild/1/a/x")
        for key in range(7):
            trie.remove_all(key)
        assert len(trie) == 0
        return trie.bytes, resident_bytes()

    run()
    size, resident = run()
    for _ in range(24):
        size_after, resident_after = run()
    assert size_after == size
    assert resident_after - resident < RESIDENT_MAX


def test_retained_messages_leave_nothing() -> None:
    tree = RetainedTree()

    def run() -> tuple[int, int]:
        for number in range(10_000):
            tree.put(b"r/%d/%d" % (number % 100, number), b"x" * (number % 200 + 1), 1 if number % 3 else None, 1000)
            tree.put(b"r/%d/%d" % (number % 100, number), b"replaced", 1 if number % 3 else None, 1000)
        for number in range(0, 10_000, 3):
            tree.put(b"r/%d/%d" % (number % 100, number), b"")
        for _ in range(10):  # more slots than the table has
            tree.sweep(10_000, 10_000)
        assert len(tree) == 0
        return tree.bytes, resident_bytes()

    run()
    size, resident = run()
    for _ in range(20):
        size_after, resident_after = run()
    assert size_after == size
    assert resident_after - resident < RESIDENT_MAX


def test_shared_groups_leave_nothing() -> None:
    """Groups come and go with their queues, while members are at their Receive Maximum or offline."""
    with Engine() as engine:
        publisher = engine.client("p", version=4)

        def run() -> tuple[int, int]:
            for number in range(300):
                wire = engine.client(
                    f"m{number % 3}", clean=False, props=[(p.SESSION_EXPIRY, 1), (p.RECEIVE_MAXIMUM, 1)]
                )
                for group in range(3):
                    wire.send(encode.subscribe(5, 1, [(f"$share/g{group}/work/{number % 2}", 1)]))
                for at in range(1, 6):
                    publisher.send(encode.publish(4, f"work/{at % 2}", bytes(100), qos=1, packet_id=at))
                engine.settle()
                publisher.skip()
                if number % 3 == 0:
                    wire.exchange(encode.unsubscribe(5, 2, [f"$share/g0/work/{number % 2}"]))
                wire.close()
                engine.settle()
            engine.forget_wires(keep=publisher)
            engine.advance(5)
            return engine.memory(), resident_bytes()

        run()
        ledger, resident = run()
        for _ in range(8):
            ledger_after, resident_after = run()
        stats = engine.hub.stats()
        assert (stats["sessions"], stats["shared_subscriptions"], stats["subscriptions"]) == (1, 0, 0)
        assert ledger_after == ledger
        assert resident_after - resident < RESIDENT_MAX


def test_a_broker_without_clients_or_messages_is_as_small_as_it_was() -> None:
    """Everything that a busy hour allocated is given back when the last client and message are gone."""
    with Engine() as engine:
        start = engine.memory()
        subscriber = engine.client("s")
        subscriber.subscribe("t/#", 1)
        publisher = engine.client("p")
        for at in range(2000):
            publisher.send(encode.publish(5, f"t/{at}", bytes(500), qos=1, packet_id=at + 1, retain=True))
            if at % 100 == 0:
                subscriber.drain()
        subscriber.drain()
        assert engine.memory() > start + 1_000_000
        for at in range(2000):
            publisher.send(encode.publish(5, f"t/{at}", b"", retain=True))
        engine.settle()
        subscriber.close()
        publisher.close()
        engine.settle()
        assert engine.memory() - start < TABLES
