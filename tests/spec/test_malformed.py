"""Packets after CONNECT whose frame, length or order is wrong: the right reason, then the end."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version, from_311
from tests.wireclient import encode
from tests.wireclient.encode import frame, text, u16

MALFORMED, PROTOCOL_ERROR = 0x81, 0x82


# --- fixed headers ---------------------------------------------------------------------------------------------

_RESERVED_FLAGS: dict[str, tuple[int, bytes]] = {
    "PUBACK": (0x40, u16(1)),
    "PUBREC": (0x50, u16(1)),
    "PUBREL": (0x60, u16(1)),
    "PUBCOMP": (0x70, u16(1)),
    "SUBSCRIBE": (0x80, b""),
    "UNSUBSCRIBE": (0xA0, b""),
    "PINGREQ": (0xC0, b""),
    "DISCONNECT": (0xE0, b""),
}
_RIGHT_FLAGS = {"PUBREL": 2, "SUBSCRIBE": 2, "UNSUBSCRIBE": 2}
_WRONG_HEADERS = [
    (name, high | flags, body)
    for name, (high, body) in _RESERVED_FLAGS.items()
    for flags in (0, 1, 2, 3, 4, 8, 15)
    if flags != _RIGHT_FLAGS.get(name, 0)
]


@normative("MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1", "MQTT-4.13.1-1")
@normative311("MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1")
@from_311
@pytest.mark.parametrize(
    ("name", "first", "body"), _WRONG_HEADERS, ids=[f"{name}-{first:02x}" for name, first, _ in _WRONG_HEADERS]
)
def test_reserved_flags(join: Join, topic: str, version: int, name: str, first: int, body: bytes) -> None:
    if name == "SUBSCRIBE":
        body = encode.subscribe(version, 1, [(topic, 0)])[2:]
    elif name == "UNSUBSCRIBE":
        body = encode.unsubscribe(version, 1, [topic])[2:]
    client = join(version)
    client.send(frame(first, body))
    client.expect_disconnect(MALFORMED)


@normative("MQTT-3.3.1-4")
@normative311("MQTT-3.3.1-4", "MQTT-4.8.0-1")
@every_version
@pytest.mark.parametrize("first", [0x36, 0x37, 0x3E, 0x3F])
def test_qos_3(join: Join, topic: str, version: int, first: int) -> None:
    client = join(version)
    client.send(frame(first, text(topic) + u16(1) + (b"\x00" if version == 5 else b"")))
    client.expect_disconnect(MALFORMED)


@normative("MQTT-3.3.1-2")
@normative311("MQTT-3.3.1-2")
@from_311
def test_dup_with_qos_0(join: Join, topic: str, version: int) -> None:
    client = join(version)
    client.send(encode.publish(version, topic, b"x", dup=True))
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)


@normative("MQTT-4.13.1-1")
@normative311("MQTT-4.8.0-1")
@every_version
@pytest.mark.parametrize("first", [0x00, 0x0F])
def test_packet_type_0(join: Join, version: int, first: int) -> None:
    client = join(version)
    client.send(bytes([first, 0]))
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)


@normative("MQTT-4.13.1-1")
@normative311("MQTT-4.8.0-1")
@every_version
@pytest.mark.parametrize(
    "wire", [b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00", b"\xb0\x02\x00\x01", b"\xd0\x00"],
    ids=["CONNACK", "SUBACK", "UNSUBACK", "PINGRESP"],
)  # fmt: skip
def test_packets_that_only_a_server_sends(join: Join, version: int, wire: bytes) -> None:
    client = join(version)
    client.send(wire)
    client.expect_disconnect(PROTOCOL_ERROR, MALFORMED)


@normative("MQTT-4.13.1-1", "MQTT-1.5.5-1")
@normative311("MQTT-4.8.0-1")
@every_version
@pytest.mark.parametrize("first", [0x30, 0x82, 0xC0])
def test_a_remaining_length_of_five_bytes(join: Join, version: int, first: int) -> None:
    client = join(version)
    client.send(bytes([first]) + b"\x80\x80\x80\x80\x01")
    client.expect_disconnect(MALFORMED)


@normative("MQTT-1.5.5-1")
@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_remaining_length_that_is_not_minimal(join: Join, width: int) -> None:
    client = join()
    client.send(b"\xc0" + encode.varint(0, width=width))
    client.expect_disconnect(MALFORMED)


@normative("MQTT-1.5.5-1")
def test_a_property_length_that_is_not_minimal(join: Join, topic: str) -> None:
    client = join()
    client.send(frame(0x30, text(topic) + b"\x80\x00" + b"x"))
    client.expect_disconnect(MALFORMED)


@normative("MQTT-1.5.5-1")
def test_a_subscription_identifier_that_is_not_minimal(join: Join, topic: str) -> None:
    client = join()
    client.send(encode.subscribe(5, 1, [(topic, 0)], props=b"\x0b\x81\x00"))
    client.expect_disconnect(MALFORMED)


# --- lengths that do not fit -----------------------------------------------------------------------------------

_WRONG_LENGTHS: dict[str, bytes] = {
    "PINGREQ with a body": b"\xc0\x01\x00",
    "PUBACK without id": b"\x40\x00",
    "PUBACK with half an id": b"\x40\x01\x00",
    "PUBREC without id": b"\x50\x00",
    "PUBREL without id": b"\x62\x00",
    "PUBREL with half an id": b"\x62\x01\x00",
    "PUBCOMP without id": b"\x70\x00",
    "PUBLISH without topic": b"\x30\x00",
    "PUBLISH with half a length": b"\x30\x01\x00",
    "PUBLISH with a topic cut off": b"\x30\x03\x00\x05a",
    "PUBLISH of QoS 1 without id": frame(0x32, text("abc")),
    "PUBLISH of QoS 2 with half an id": frame(0x34, text("abc") + b"\x01"),
    "SUBSCRIBE without id": b"\x82\x00",
    "SUBSCRIBE with an id only": b"\x82\x02\x00\x01",
    "UNSUBSCRIBE without id": b"\xa2\x00",
    "UNSUBSCRIBE with an id only": b"\xa2\x02\x00\x01",
}


@normative("MQTT-4.13.1-1", "MQTT-3.8.3-2", "MQTT-3.10.3-2")
@normative311("MQTT-4.8.0-1", "MQTT-3.8.3-3", "MQTT-3.10.3-2")
@every_version
@pytest.mark.parametrize("wire", _WRONG_LENGTHS.values(), ids=_WRONG_LENGTHS.keys())
def test_packets_that_are_too_short_or_too_long(join: Join, version: int, wire: bytes) -> None:
    client = join(version)
    client.send(wire)
    client.expect_disconnect(MALFORMED)


_WRONG_LENGTHS_BEFORE_5: dict[str, bytes] = {
    "PUBACK with an extra byte": b"\x40\x03\x00\x01\x00",
    "PUBREL with an extra byte": b"\x62\x03\x00\x01\x00",
    "DISCONNECT with a body": b"\xe0\x01\x00",
    "SUBSCRIBE without options": frame(0x82, u16(1) + text("abc")),
    "SUBSCRIBE with a filter cut off": frame(0x82, u16(1) + b"\x00\x09abc\x00"),
    "SUBSCRIBE with half a second filter": frame(0x82, u16(1) + text("abc") + b"\x00" + b"\x00"),
    "UNSUBSCRIBE with a filter cut off": frame(0xA2, u16(1) + b"\x00\x09abc"),
    "AUTH": b"\xf0\x00",
}


@normative311("MQTT-4.8.0-1")
@pytest.mark.parametrize("wire", _WRONG_LENGTHS_BEFORE_5.values(), ids=_WRONG_LENGTHS_BEFORE_5.keys())
def test_wrong_lengths_before_5(join: Join, wire: bytes) -> None:
    client = join(4)
    client.send(wire)
    client.expect_closed()


_WRONG_BODIES_5: dict[str, bytes] = {
    "PUBLISH without property length": frame(0x30, text("abc")),
    "PUBLISH with a property length beyond": frame(0x30, text("abc") + b"\x05"),
    "PUBACK with a property length beyond": frame(0x40, u16(1) + b"\x00\x05"),
    "PUBACK with bytes after the properties": frame(0x40, u16(1) + b"\x00\x00\x00"),
    "SUBSCRIBE without options": frame(0x82, u16(1) + b"\x00" + text("abc")),
    "SUBSCRIBE with a filter cut off": frame(0x82, u16(1) + b"\x00" + b"\x00\x09abc\x00"),
    "SUBSCRIBE with a property length beyond": frame(0x82, u16(1) + b"\x40" + text("abc") + b"\x00"),
    "UNSUBSCRIBE with a filter cut off": frame(0xA2, u16(1) + b"\x00" + b"\x00\x09abc"),
    "DISCONNECT with bytes after the properties": frame(0xE0, b"\x00\x00\x00"),
    "DISCONNECT with a property length beyond": frame(0xE0, b"\x00\x09"),
    "DISCONNECT with a property cut off": frame(0xE0, b"\x00\x02\x11\x00"),
}


@normative("MQTT-4.13.1-1", "MQTT-2.2.2-1")
@pytest.mark.parametrize("wire", _WRONG_BODIES_5.values(), ids=_WRONG_BODIES_5.keys())
def test_wrong_bodies_of_5(join: Join, wire: bytes) -> None:
    client = join()
    client.send(wire)
    client.expect_disconnect(MALFORMED)


@normative("MQTT-3.8.3-2", "MQTT-3.10.3-2")
@pytest.mark.parametrize("wire", [encode.subscribe(5, 1, []), encode.unsubscribe(5, 1, [])], ids=["SUB", "UNSUB"])
def test_no_filters_at_all(join: Join, wire: bytes) -> None:
    client = join()
    client.send(wire)
    client.expect_disconnect(PROTOCOL_ERROR)


# --- packet identifiers ----------------------------------------------------------------------------------------


@normative("MQTT-2.2.1-3")
@normative311("MQTT-2.3.1-1", "MQTT-2.3.1-2")
@from_311
@pytest.mark.parametrize("kind", ["PUBLISH 1", "PUBLISH 2", "SUBSCRIBE", "UNSUBSCRIBE"])
def test_packet_identifier_0(join: Join, topic: str, version: int, kind: str) -> None:
    wire = {
        "PUBLISH 1": encode.publish(version, topic, b"x", qos=1, packet_id=0),
        "PUBLISH 2": encode.publish(version, topic, b"x", qos=2, packet_id=0),
        "SUBSCRIBE": encode.subscribe(version, 0, [(topic, 0)]),
        "UNSUBSCRIBE": encode.unsubscribe(version, 0, [topic]),
    }[kind]
    client = join(version)
    client.send(wire)
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)


# --- the answer to an error ------------------------------------------------------------------------------------


@normative("MQTT-4.13.1-1", "MQTT-4.13.2-1")
@normative311("MQTT-4.8.0-1")
@every_version
def test_the_reason_arrives_though_more_is_on_its_way(join: Join, topic: str, version: int) -> None:
    """A server that closes with bytes unread resets the connection, and the reset can overtake the DISCONNECT."""
    client = join(version)
    client.send(b"\x00\x00", encode.publish(version, topic, b"x" * 1000) * 200)
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)


@normative("MQTT-4.13.1-1")
@normative311("MQTT-4.8.0-1")
@every_version
def test_an_error_of_one_client_hurts_no_other(join: Join, topic: str, version: int) -> None:
    other, offender = join(version), join(version)
    other.subscribe((topic, 1))
    offender.subscribe((topic, 1))
    offender.send(encode.publish(version, topic, b"before", qos=1, packet_id=1), b"\xff\xff\xff\xff\xff")
    assert other.receive().payload == b"before"
    other.publish(topic, b"after", qos=1)
    assert other.receive().payload == b"after"
