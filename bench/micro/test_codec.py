"""How long the codec takes, for the packets of a busy broker's life."""

from typing import Any, Protocol

import pytest

from fastmq._codec import Decoder, decode, decode_connect, encode
from fastmq.packets import (
    Connack,
    Connect,
    Packet,
    Properties,
    Puback,
    Publish,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Will,
)


class Benchmark(Protocol):
    def __call__(self, function: Any, *args: Any) -> Any: ...


USER = [("tenant", "acme"), ("trace", "4bf92f3577b34da6a3ce929d0e0e4736")]
PACKETS: dict[str, tuple[int, Packet]] = {
    "connect-3.1.1": (4, Connect("device-000001", 4, True, 60)),
    "connect-3.1.1-will-password": (
        4,
        Connect("device-000001", 4, False, 60, "user", b"secret", Will("status/1", b"offline", 1, True)),
    ),
    "connect-5": (5, Connect("device-000001", 5, True, 60)),
    "connect-5-properties": (
        5,
        Connect(
            "device-000001",
            properties=Properties(
                session_expiry_interval=3600, receive_maximum=100, topic_alias_maximum=10, user_properties=USER
            ),
        ),
    ),
    "connack-3.1.1": (4, Connack()),
    "connack-5": (
        5,
        Connack(
            properties=Properties(
                assigned_client_identifier="auto-4bf92f35",
                receive_maximum=1024,
                topic_alias_maximum=64,
                maximum_packet_size=1 << 20,
            )
        ),
    ),
    "publish-16B": (4, Publish("sensors/kitchen/temperature", bytes(16))),
    "publish-16B-qos1": (5, Publish("sensors/kitchen/temperature", bytes(16), 1, packet_id=7)),
    "publish-1KiB-properties": (
        5,
        Publish(
            "sensors/kitchen/temperature",
            bytes(1024),
            properties=Properties(content_type="application/json", response_topic="r/1", user_properties=USER),
        ),
    ),
    "publish-64KiB": (4, Publish("firmware/blob", bytes(65536))),
    "puback": (4, Puback(7)),
    "subscribe-1": (4, Subscribe(7, [SubscriptionRequest("sensors/+/temperature", 1)])),
    "subscribe-100": (5, Subscribe(7, [SubscriptionRequest(f"home/{n}/state", 1) for n in range(100)])),
    "suback-100": (5, Suback(7, [1] * 100)),
}


@pytest.mark.parametrize("name", PACKETS)
def test_decode(benchmark: Benchmark, name: str) -> None:
    version, packet = PACKETS[name]
    wire = encode(packet, version)
    header = 1 + next(at for at in range(1, 5) if wire[at] < 128)
    first, body = wire[0], wire[header:]
    assert benchmark(decode, first, body, version) == packet


@pytest.mark.parametrize("name", PACKETS)
def test_encode(benchmark: Benchmark, name: str) -> None:
    version, packet = PACKETS[name]
    assert Decoder(version).feed(benchmark(encode, packet, version)) == [packet]


@pytest.mark.parametrize("name", ["connect-3.1.1", "connect-5-properties"])
def test_decode_connect(benchmark: Benchmark, name: str) -> None:
    version, packet = PACKETS[name]
    assert benchmark(decode_connect, encode(packet, version)[2:]) == packet


def test_feed_a_thousand_small_publishes(benchmark: Benchmark) -> None:
    """What one read of the client's socket may hold."""
    packet = Publish("sensors/kitchen/temperature", bytes(16))
    wire = encode(packet, 4) * 1000
    assert benchmark(lambda: Decoder(4).feed(wire)) == [packet] * 1000
