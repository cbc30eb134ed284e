"""Coming back: what was in flight is repeated as far as it still needs to be, and never in the way of what follows."""

from __future__ import annotations

import pytest

from tests.inprocess import Engine, Wire
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Publish

LASTING = [(p.SESSION_EXPIRY, 1000)]


def back(engine: Engine, receive_maximum: int = 65_535) -> Wire:
    return engine.client("s", clean=False, props=[*LASTING, (p.RECEIVE_MAXIMUM, receive_maximum)])


def in_flight(engine: Engine, count: int, payload: bytes, qos: int = 1) -> list[int]:
    """Lets a client go with so many deliveries unacknowledged; returns their packet ids."""
    wire = back(engine)
    wire.subscribe("t", 2)
    publisher = engine.client("p", version=4)
    packet_ids = []
    for i in range(1, count + 1):
        publisher.send(encode.publish(4, "t", payload + b"%d" % i, qos=qos, packet_id=i))
        packet_ids += [packet.packet_id for packet in wire.read_on() if isinstance(packet, Publish)]
    assert len(packet_ids) == count
    wire.close()
    engine.settle()
    return packet_ids


def test_acknowledging_what_was_not_repeated_yet_does_not_stop_the_rest() -> None:
    """The client may have got it on its last connection; the broker's output is congested meanwhile."""
    with Engine(output_max=8192, queue_bytes_max=1 << 24) as engine:
        packet_ids = in_flight(engine, 12, bytes(60_000))
        wire = back(engine)
        for packet_id in reversed(packet_ids):
            wire.send(encode.ack(5, encode.PUBACK, packet_id))
        engine.settle()
        wire.read_on()
        engine.hub.publish(encode.publish(5, "t", b"next", qos=1, packet_id=1))
        assert wire.drain()[-1].payload == b"next"


def test_what_is_repeated_keeps_to_a_smaller_receive_maximum() -> None:
    with Engine() as engine:
        packet_ids = in_flight(engine, 5, b"m")
        wire = back(engine, receive_maximum=2)
        repeated = [packet.packet_id for packet in wire.read_on() if isinstance(packet, Publish)]
        assert repeated == packet_ids[:2]
        for at, packet_id in enumerate(packet_ids):
            wire.send(encode.ack(5, encode.PUBACK, packet_id))
            assert [packet.packet_id for packet in wire.read_on() if isinstance(packet, Publish)] == packet_ids[
                at + 2 : at + 3
            ]


@pytest.mark.parametrize("receive_maximum", [1, 2, 100])
def test_everything_unfinished_comes_again_in_order_with_its_packet_id(receive_maximum: int) -> None:
    with Engine() as engine:
        packet_ids = in_flight(engine, 6, b"m")
        repeated = back(engine, receive_maximum).drain()
        assert [(message.packet_id, message.dup) for message in repeated] == [(number, True) for number in packet_ids]


def test_a_received_but_not_completed_qos_2_delivery_goes_on_with_pubrel() -> None:
    """[MQTT-4.3.3-6]: after PUBREC the PUBLISH is never sent again."""
    with Engine() as engine:
        wire = back(engine)
        wire.subscribe("t", 2)
        engine.hub.publish(encode.publish(5, "t", b"once", qos=2, packet_id=1))
        (message,) = [packet for packet in wire.read_on() if isinstance(packet, Publish)]
        wire.send(encode.ack(5, encode.PUBREC, message.packet_id))
        engine.settle()
        wire.close()
        engine.settle()
        again = back(engine)
        assert [(packet.kind, packet.packet_id) for packet in again.read_on() if isinstance(packet, Ack)] == [
            ("PUBREL", message.packet_id)
        ]
        again.send(encode.ack(5, encode.PUBCOMP, message.packet_id))
        assert again.drain() == []


def test_offline_messages_beyond_their_expiry_are_not_delivered_and_the_rest_say_how_long_they_last() -> None:
    with Engine() as engine:
        wire = back(engine)
        wire.subscribe("t", 1)
        wire.close()
        engine.settle()
        for payload, expiry in ((b"short", 5), (b"long", 100)):
            engine.hub.publish(encode.publish(5, "t", payload, qos=1, packet_id=1, props=[(p.MESSAGE_EXPIRY, expiry)]))
        engine.advance(30)
        (message,) = back(engine).drain()
        assert message.payload == b"long"
        (left,) = [value for number, value in message.props if number == p.MESSAGE_EXPIRY]
        assert left in (69, 70)
