"""Packets of every size around the buffers' edges, whole, split and side by side, arrive as they were sent."""

import pytest

from tests.inprocess import Engine
from tests.wireclient import encode
from tests.wireclient.decode import Publish

EDGES = sorted({edge + off for edge in (65_536, 131_072) for off in range(-8, 9)} | {1023, 1024, 2048, 16_384})
PACKET_MAX = 1 << 20


def packet_of(size: int, mark: int) -> tuple[bytes, bytes]:
    """A QoS 0 PUBLISH of exactly so many bytes, and its payload; no two marks give the same bytes."""
    for payload_len in range(size - 12, size):
        payload = (b"%d " % mark * payload_len)[:payload_len]
        packet = encode.publish(4, "t", payload)
        if len(packet) == size:
            return packet, payload
    raise AssertionError(f"no PUBLISH has {size} bytes")


@pytest.mark.parametrize("first", [1, 2, 4, 100, 65_535, 65_536])
@pytest.mark.parametrize("size", EDGES)
def test_a_packet_around_the_buffers_edges_arrives_whole(size: int, first: int) -> None:
    with Engine() as engine:
        publisher, subscriber = engine.client("p", version=4), engine.client("s", version=4)
        subscriber.subscribe("t")
        expected = []
        stream = b""
        for mark, each in enumerate((size, 10, size, size + 1, 20)):
            packet, payload = packet_of(each, mark)
            stream += packet
            expected.append(payload)
        got: list[bytes] = []
        for part in (stream[:first], stream[first : first + 70_000], stream[first + 70_000 :]):
            publisher.send(part)
            got += [message.payload for message in subscriber.read_on() if isinstance(message, Publish)]
        assert got == expected


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("below", [0, 1, 2, 1000])
def test_payloads_up_to_the_largest_packet_arrive(below: int, qos: int) -> None:
    with Engine(packet_max=PACKET_MAX) as engine:
        publisher, subscriber = engine.client("p"), engine.client("s")
        subscriber.subscribe("big", 2)
        head = len(encode.publish(5, "big", bytes(500_000), qos=qos, packet_id=1 if qos else None)) - 500_000
        payload = b"x" * (PACKET_MAX - head - below)
        publisher.send(encode.publish(5, "big", payload, qos=qos, packet_id=1 if qos else None))
        assert [message.payload for message in subscriber.drain()] == [payload]


def test_a_packet_that_is_one_byte_too_large_is_refused_by_its_header_alone() -> None:
    with Engine(packet_max=PACKET_MAX) as engine:
        publisher = engine.client("p")
        (last,) = publisher.exchange(b"\x30" + encode.varint(PACKET_MAX - 3))
        assert getattr(last, "code", None) == 0x95
        assert publisher.ended


def test_bytes_one_at_a_time_make_the_same_packets() -> None:
    with Engine() as engine:
        publisher, subscriber = engine.client("p"), engine.client("s")
        subscriber.subscribe("t", 2)
        packets = b"".join(
            encode.publish(5, "t", b"%d" % i, qos=i % 3, packet_id=i + 1 if i % 3 else None) for i in range(30)
        )
        for byte in packets:
            publisher.send(bytes([byte]))
            engine.turn()
        assert [message.payload for message in subscriber.drain()] == [b"%d" % i for i in range(30)]
