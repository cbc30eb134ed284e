"""Which member of a group gets a message: what each strategy promises."""

from __future__ import annotations

from collections import Counter

import pytest

from fastmq._hub import STRATEGIES
from tests.inprocess import Engine, Wire
from tests.wireclient import encode
from tests.wireclient.decode import Ack, Publish

MEMBERS = 3


def group(engine: Engine, filters: str = "$share/g/t/#", qos: int = 1) -> list[Wire]:
    members = [engine.client(f"m{i}", props=[(0x21, 20)]) for i in range(MEMBERS)]
    for member in members:
        member.subscribe(filters, qos)
    return members


def shares(members: list[Wire]) -> list[list[bytes]]:
    return [[packet.payload for packet in member.read() if isinstance(packet, Publish)] for member in members]


def publish(engine: Engine, publisher: Wire, topic: str, count: int) -> None:
    for i in range(1, count + 1):
        publisher.send(encode.publish(5, topic, b"%s %d" % (topic.encode(), i), qos=1, packet_id=i))
    engine.settle()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_message_goes_to_exactly_one_member(strategy: str) -> None:
    with Engine(strategy=strategy) as engine:
        members = group(engine)
        publisher = engine.client("p")
        for number in range(10):
            publish(engine, publisher, f"t/{number}", 3)
        got = Counter(payload for share in shares(members) for payload in share)
        assert len(got) == 30
        assert set(got.values()) == {1}


def test_round_robin_goes_round() -> None:
    with Engine(strategy="round_robin") as engine:
        members = group(engine)
        publish(engine, engine.client("p"), "t", 9)
        assert [len(share) for share in shares(members)] == [3, 3, 3]


def test_random_reaches_everyone() -> None:
    with Engine(strategy="random") as engine:
        members = group(engine)
        publish(engine, engine.client("p"), "t", 40)
        assert all(shares(members))


def test_sticky_stays_with_one_until_it_leaves() -> None:
    with Engine(strategy="sticky") as engine:
        members = group(engine)
        publisher = engine.client("p")
        publish(engine, publisher, "t", 10)
        favourite = [len(share) for share in shares(members)].index(10)
        members.pop(favourite).close()
        engine.settle()
        publish(engine, publisher, "t", 5)
        # What the first had not acknowledged goes to the others, then the new messages.
        assert sum(len(share) for share in shares(members)) == 15


@pytest.mark.parametrize(("strategy", "by_topic"), [("hash_topic", True), ("hash_clientid", False)])
def test_hashes_keep_what_belongs_together_at_one_member(strategy: str, by_topic: bool) -> None:
    with Engine(strategy=strategy) as engine:
        members = group(engine)
        publishers = [engine.client(f"p{i}") for i in range(4)]
        topics = [f"t/{i}" for i in range(4)]
        keys: dict[bytes, set[int]] = {}
        for publisher_at, publisher in enumerate(publishers):
            for topic in topics:
                publish(engine, publisher, topic, 1)
                (at,) = [at for at, share in enumerate(shares(members)) if share]
                key = topic.encode() if by_topic else b"%d" % publisher_at
                keys.setdefault(key, set()).add(at)
        assert all(len(places) == 1 for places in keys.values())


def test_least_inflight_spares_the_busy() -> None:
    with Engine(strategy="least_inflight") as engine:
        busy, quick, other = group(engine)
        publisher = engine.client("p")
        for i in range(30):
            publisher.publish("t", b"%d" % i, qos=1, packet_id=i + 1)
            for member in (quick, other):
                member.drain()
        assert len([packet for packet in busy.read() if isinstance(packet, Publish)]) <= 2


def test_a_group_without_anyone_keeps_qos_1_and_drops_qos_0() -> None:
    with Engine() as engine:
        member = engine.client("m", clean=False, props=[(0x11, 100)])
        member.subscribe("$share/g/t", 1)
        member.close()
        engine.settle()
        publisher = engine.client("p")
        (first,) = publisher.publish("t", b"kept", qos=1, packet_id=1)
        assert isinstance(first, Ack)
        assert first.code == 0
        publisher.publish("t", b"dropped")
        assert engine.hub.stats()["dropped_offline"] == 1
        back = engine.client("m", clean=False, props=[(0x11, 100)])
        assert [message.payload for message in back.drain()] == [b"kept"]


def test_a_full_group_queue_drops_and_counts() -> None:
    with Engine(group_queue_max=5) as engine:
        member = engine.client("m", props=[(0x21, 1)])
        member.subscribe("$share/g/t", 1)
        publish(engine, engine.client("p"), "t", 10)
        assert [message.payload for message in member.drain()] == [b"t %d" % i for i in range(1, 7)]
        assert engine.hub.stats()["dropped_queue_full"] == 4


def test_groups_count_as_memory_while_they_last() -> None:
    with Engine() as engine:
        members = [engine.client(f"m{i}") for i in range(20)]
        before = engine.hub.stats()["memory_bytes"]
        for member in members:
            member.subscribe("$share/g/t/#", 1)
        assert engine.hub.stats()["memory_bytes"] > before + 20 * 32
        for member in members:
            member.send(encode.unsubscribe(5, 2, ["$share/g/t/#"]))
        engine.settle()
        assert engine.hub.stats()["subscriptions"] == 0
        assert engine.hub.stats()["memory_bytes"] <= before + 2048, "the tables of names may stay as large as they were"
