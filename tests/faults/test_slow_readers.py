"""A subscriber that does not read costs at most its cap; its neighbours notice nothing; what may be lost is counted."""

import pytest

from tests.inprocess import Engine, Wire
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Pingresp, Publish

CAP = 64 << 10
KIB = bytes(1024)
OVERHEAD = 64 << 10
"""Bytes beside the cap itself: the last packet, whole buffers instead of their contents."""


def payloads(wire: Wire) -> list[bytes]:
    return [packet.payload for packet in wire.read() if isinstance(packet, Publish)]


def publish_all(engine: Engine, publisher: Wire, topic: str, messages: list[bytes], qos: int = 0) -> None:
    for at, message in enumerate(messages, start=1):
        publisher.send(encode.publish(5, topic, message, qos=qos, packet_id=at % 60_000 + 1 if qos else None))
        if at % 20 == 0:
            engine.settle()
    engine.settle()
    engine.advance(1)  # whom a slow subscriber held back goes on


def test_unread_qos_0_is_dropped_and_counted_and_costs_no_more_than_the_cap() -> None:
    with Engine(output_max=CAP) as engine:
        slow, neighbour, publisher = (engine.client(name) for name in ("slow", "neighbour", "publisher"))
        slow.subscribe("t")
        neighbour.subscribe("t")
        start = engine.memory()
        got: list[bytes] = []
        messages = [b"%d " % i + KIB for i in range(3000)]
        for at in range(0, len(messages), 50):
            publish_all(engine, publisher, "t", messages[at : at + 50])
            got += payloads(neighbour)
            assert engine.memory() - start < CAP + OVERHEAD
        assert got == messages
        dropped = engine.hub.stats()["dropped_output_full"]
        assert dropped > 1000
        assert len([packet for packet in slow.read_on() if isinstance(packet, Publish)]) + dropped == len(messages)
        publish_all(engine, publisher, "t", [b"after"])
        assert payloads(slow) == [b"after"]


def test_unread_qos_1_waits_up_to_the_queue_and_arrives_in_order() -> None:
    with Engine(output_max=CAP, queue_max=500) as engine:
        slow = engine.client("slow", props=[(p.RECEIVE_MAXIMUM, 1)])
        publisher = engine.client("publisher")
        slow.subscribe("t", 1)
        messages = [b"%d " % i + KIB for i in range(400)]
        publish_all(engine, publisher, "t", messages, qos=1)
        assert all(packet.code == 0 for packet in publisher.read() if isinstance(packet, Ack))
        assert [message.payload for message in slow.drain()] == messages
        assert engine.hub.stats()["publish_dropped"] == 0


def test_a_full_queue_drops_and_counts_and_the_rest_arrives_in_order() -> None:
    with Engine(queue_max=10) as engine:
        slow = engine.client("slow", props=[(p.RECEIVE_MAXIMUM, 1)])
        publisher = engine.client("publisher")
        slow.subscribe("t", 1)
        publish_all(engine, publisher, "t", [b"%d" % i for i in range(100)], qos=1)
        assert [message.payload for message in slow.drain()] == [b"%d" % i for i in range(11)]
        assert engine.hub.stats()["dropped_queue_full"] == 89


def test_a_full_queue_may_drop_the_oldest_instead() -> None:
    with Engine(queue_max=10, drop_oldest=True) as engine:
        slow = engine.client("slow", props=[(p.RECEIVE_MAXIMUM, 1)])
        publisher = engine.client("publisher")
        slow.subscribe("t", 1)
        publish_all(engine, publisher, "t", [b"%d" % i for i in range(100)], qos=1)
        assert [message.payload for message in slow.drain()] == [b"0", *(b"%d" % i for i in range(90, 100))]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(encode.PINGREQ, id="PINGREQ"),
        pytest.param(encode.subscribe(5, 1, [("x", 0)]), id="SUBSCRIBE"),
        pytest.param(encode.unsubscribe(5, 1, ["x"]), id="UNSUBSCRIBE"),
        pytest.param(encode.ack(5, encode.PUBREL, 1), id="PUBREL"),
        pytest.param(encode.publish(5, "nobody", b"", qos=1, packet_id=1), id="PUBLISH"),
    ],
)
def test_a_client_that_asks_for_ever_and_never_reads_is_read_no_more(packet: bytes) -> None:
    with Engine(output_max=CAP) as engine:
        asking, neighbour = engine.client("asking"), engine.client("neighbour")
        start = engine.memory()
        flood = packet * (20_000 // len(packet))
        sent = 0
        for _ in range(400):
            try:
                sent += asking.send_some(flood)
            except BlockingIOError:
                break
            engine.settle()
        else:
            pytest.fail("the broker reads on for ever")
        assert engine.memory() - start < 4 * CAP + OVERHEAD
        assert neighbour.exchange(encode.PINGREQ) == [Pingresp()]
        assert asking.read_on()
        assert not asking.ended


def test_retained_messages_wait_for_a_slow_subscriber_and_all_arrive() -> None:
    count = 5000
    with Engine(output_max=CAP) as engine:
        publisher = engine.client("publisher")
        for i in range(count):
            publisher.send(encode.publish(5, f"r/{i}", KIB, retain=True))
        engine.settle()
        slow = engine.client("slow")
        start = engine.memory()
        slow.send(encode.subscribe(5, 1, [("r/#", 1)]))
        engine.settle()
        assert engine.memory() - start < CAP + OVERHEAD
        assert len({message.topic for message in slow.drain()}) == count
        assert engine.hub.stats()["publish_dropped"] == 0


def test_a_huge_message_to_many_unread_subscribers_is_kept_once() -> None:
    with Engine() as engine:
        publisher = engine.client("publisher")
        crowd = [engine.client(f"s{i}") for i in range(50)]
        for wire in crowd:
            wire.subscribe("big")
        start = engine.memory()
        publisher.send(encode.publish(5, "big", bytes(1_000_000)))
        engine.settle()
        assert engine.memory() - start < 1_000_000 + len(crowd) * 4096
        for wire in crowd:
            assert [packet.payload for packet in wire.read_on() if isinstance(packet, Publish)] == [bytes(1_000_000)]
