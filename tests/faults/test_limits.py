"""Limits that are reached: what is refused is said, what was accepted is kept, what others do goes on."""

import pytest

from tests.inprocess import Engine
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Pingresp, Publish, Suback

MEMORY_MAX = 2 << 20
QUOTA_EXCEEDED = 0x97
KIB64 = bytes(65_000)


def fill_memory(engine: Engine) -> None:
    """Retained messages until the broker says that it is full."""
    filler = engine.client("filler")
    for i in range(1000):
        (answer,) = filler.publish(f"fill/{i}", KIB64, qos=1, packet_id=1, retain=True)
        assert isinstance(answer, Ack)
        if answer.code == QUOTA_EXCEEDED:
            return
    raise AssertionError("memory never got full")


def test_full_memory_lets_no_new_sessions_in() -> None:
    with Engine(memory_max=MEMORY_MAX) as engine:
        engine.client("old", clean=False, props=[(p.SESSION_EXPIRY, 100)]).shut()
        fill_memory(engine)
        known, unknown = (engine.client(name, clean=False) for name in ("old", "new"))
        assert known.connack is not None
        assert (known.connack.session_present, known.connack.code) == (True, 0)
        assert unknown.connack is not None
        assert unknown.connack.code == QUOTA_EXCEEDED


def empty_memory(engine: Engine) -> None:
    """The broker's own publish is not held to the limit."""
    for i in range(1000):
        engine.hub.publish(encode.publish(5, f"fill/{i}", b"", retain=True))
    engine.advance(1)


def test_full_memory_refuses_mqtt_5_and_accepts_again_when_there_is_room() -> None:
    with Engine(memory_max=MEMORY_MAX) as engine:
        client = engine.client("five")
        fill_memory(engine)
        assert engine.memory() < MEMORY_MAX + 200_000
        for qos in (1, 2):
            (answer,) = client.publish("t", b"x", qos=qos, packet_id=5)
            assert isinstance(answer, Ack)
            assert answer.code == QUOTA_EXCEEDED
        (suback,) = client.subscribe("t", 1)
        assert isinstance(suback, Suback)
        assert suback.codes == [QUOTA_EXCEEDED]
        empty_memory(engine)
        client.subscribe("t", 1)
        client.publish("t", b"again", qos=1, packet_id=6)
        assert client.exchange(encode.PINGREQ) == [Pingresp()]


@pytest.mark.parametrize("version", [3, 4])
def test_full_memory_pauses_mqtt_3_and_loses_nothing(version: int) -> None:
    with Engine(memory_max=MEMORY_MAX) as engine:
        subscriber = engine.client("s", version=4)
        subscriber.subscribe("t", 1)
        publisher = engine.client("three", version=version)
        fill_memory(engine)
        for i in range(1, 6):
            publisher.send(encode.publish(version, "t", b"%d" % i, qos=1, packet_id=i))
        engine.settle()
        engine.advance(3)
        assert publisher.read() == []
        assert not publisher.ended
        empty_memory(engine)
        engine.advance(1)
        assert [answer.packet_id for answer in publisher.read() if isinstance(answer, Ack)] == [1, 2, 3, 4, 5]
        assert [message.payload for message in subscriber.drain()] == [b"%d" % i for i in range(1, 6)]


def test_paused_publishers_can_go() -> None:
    with Engine(memory_max=MEMORY_MAX) as engine:
        crowd = [engine.client(f"p{i}", version=4) for i in range(20)]
        fill_memory(engine)
        connections = engine.hub.stats()["connections"] - len(crowd)
        for publisher in crowd:
            publisher.send(encode.publish(4, "t", b"x", qos=1, packet_id=1))
            engine.settle()
            publisher.close()
        engine.settle()
        empty_memory(engine)
        engine.advance(3)
        assert engine.hub.stats()["connections"] == connections


def test_connections_beyond_the_maximum_are_closed_and_counted_and_places_are_given_again() -> None:
    with Engine(connections_max=5) as engine:
        crowd = [engine.client(f"c{i}") for i in range(5)]
        late = engine.wire()
        late.send(encode.connect(5, client_id="late"))
        engine.settle()
        assert late.read() == []
        assert late.ended
        assert engine.hub.stats()["connections_refused"] == 1
        crowd.pop().close()
        engine.settle()
        assert engine.client("late").connack is not None
        assert all(wire.exchange(encode.PINGREQ) == [Pingresp()] for wire in crowd)


def test_subscriptions_beyond_the_maximum_are_refused_but_not_those_that_are_there() -> None:
    with Engine(subscriptions_max=3) as engine:
        client = engine.client("c")
        filters = ["a", "b/#", "$share/g/c", "d", "$share/g/e", "a", "$share/g/c"]
        packets = [client.subscribe(text, 1)[0] for text in filters]
        codes = [packet.codes[0] for packet in packets if isinstance(packet, Suback)]
        assert codes == [1, 1, 1, QUOTA_EXCEEDED, QUOTA_EXCEEDED, 1, 1]
        client.exchange(encode.unsubscribe(5, 1, ["$share/g/c"]))
        (packet,) = client.subscribe("d", 1)
        assert isinstance(packet, Suback)
        assert packet.codes == [1]


def test_at_the_retained_maximum_old_topics_are_replaced_and_new_ones_refused() -> None:
    with Engine(retained_max=3, retained_bytes_max=1000) as engine:
        client = engine.client("c")
        for round_ in range(4):
            for i in range(3):
                client.publish(f"r/{i}", b"%d" % round_, retain=True)
            assert engine.hub.stats()["retained"] == 3, f"round {round_}"
        client.publish("r/new", b"x", retain=True)
        assert engine.hub.stats()["retained"] == 3
        for size in (900, 905, 910):
            client.publish("r/0", bytes(size), retain=True)
            assert engine.hub.stats()["retained"] == 3, f"{size} bytes"


def test_half_a_packet_costs_what_arrived_not_what_it_announced() -> None:
    with Engine() as engine:
        start = engine.memory()
        for i in range(300):
            wire = engine.client(f"h{i}")
            wire.send(b"\x32" + encode.varint(1_000_000) + b"\x00")
        engine.settle()
        assert engine.memory() - start < 300 * 1024


def test_the_memory_of_a_half_packet_is_given_back_with_its_connection() -> None:
    with Engine() as engine:
        start = engine.memory()
        whole = encode.publish(5, "t", bytes(900_000), qos=1, packet_id=1)
        for i in range(10):
            wire = engine.client(f"h{i}")
            wire.send(whole[: 90_000 * (i + 1)])
            engine.settle()
            assert engine.memory() > start + 80_000
            wire.close()
            engine.settle()
            assert engine.memory() < start + 40_000


def test_a_subscriber_with_receive_maximum_1_gets_everything_in_order() -> None:
    with Engine() as engine:
        publisher = engine.client("p")
        subscriber = engine.client("s", props=[(p.RECEIVE_MAXIMUM, 1)])
        subscriber.subscribe("t", 2)
        expected = []
        for i in range(300):
            publisher.send(encode.publish(5, "t", b"%d" % i, qos=1 + i % 2, packet_id=i + 1))
            expected.append(b"%d" % i)
        engine.settle()
        received = [packet for packet in subscriber.read() if isinstance(packet, Publish)]
        assert len(received) == 1
        subscriber.send(encode.ack(5, encode.PUBACK, received[0].packet_id))
        assert [message.payload for message in received + subscriber.drain()] == expected
