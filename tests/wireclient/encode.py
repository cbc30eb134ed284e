"""From fields to bytes. Nothing is validated: the tests need wrong packets as much as right ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.wireclient.properties import FORMATS, Properties, PropertyValue

Text = str | bytes


def varint(value: int, width: int = 0) -> bytes:
    """A variable byte integer; `width` pads it to that many bytes, which makes it non-minimal."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        if value or len(out) + 1 < width:
            out.append(low | 0x80)
        else:
            out.append(low)
            return bytes(out)


def text(value: Text) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(raw)) + raw


def u16(value: int) -> bytes:
    return struct.pack("!H", value)


def frame(first_byte: int, body: bytes = b"") -> bytes:
    return bytes([first_byte]) + varint(len(body)) + body


def one_property(identifier: int, value: PropertyValue) -> bytes:
    kind = FORMATS[identifier]
    head = varint(identifier)
    if kind == "p":
        assert isinstance(value, tuple)
        return head + text(value[0]) + text(value[1])
    if isinstance(value, int):
        if kind == "v":
            return head + varint(value)
        return head + struct.pack({"b": "!B", "h": "!H", "i": "!I"}[kind], value)
    assert isinstance(value, str | bytes)
    return head + text(value)


def properties(props: Properties, version: int) -> bytes:
    if version < 5:
        assert not props, "properties exist in MQTT 5 only"
        return b""
    raw = props if isinstance(props, bytes) else b"".join(one_property(i, v) for i, v in props)
    return varint(len(raw)) + raw


@dataclass(frozen=True, slots=True)
class Will:
    topic: Text
    payload: bytes = b"gone"
    qos: int = 0
    retain: bool = False
    props: Properties = ()


def connect(
    version: int = 5,
    *,
    client_id: Text = "",
    clean: bool = True,
    keep_alive: int = 60,
    props: Properties = (),
    will: Will | None = None,
    username: Text | None = None,
    password: bytes | None = None,
    flags: int | None = None,
    name: Text | None = None,
    level: int | None = None,
    first_byte: int = 0x10,
    tail: bytes = b"",
) -> bytes:
    """CONNECT. `flags`, `name`, `level` replace what the other fields imply; `tail` follows the payload."""
    implied = 0x02 if clean else 0
    payload = text(client_id)
    if will is not None:
        implied |= 0x04 | (will.qos << 3) | (0x20 if will.retain else 0)
        payload += properties(will.props, version) + text(will.topic) + text(will.payload)
    if username is not None:
        implied |= 0x80
        payload += text(username)
    if password is not None:
        implied |= 0x40
        payload += text(password)
    if name is None:
        name = "MQIsdp" if version == 3 else "MQTT"
    head = text(name) + bytes([version if level is None else level, implied if flags is None else flags])
    return frame(first_byte, head + u16(keep_alive) + properties(props, version) + payload + tail)


def publish(
    version: int,
    topic: Text,
    payload: bytes = b"",
    *,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    packet_id: int | None = None,
    props: Properties = (),
) -> bytes:
    first = 0x30 | (8 if dup else 0) | (qos << 1) | (1 if retain else 0)
    head = text(topic) + (b"" if packet_id is None else u16(packet_id))
    return frame(first, head + properties(props, version) + payload)


PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70


def ack(version: int, first_byte: int, packet_id: int, code: int | None = None, props: Properties = ()) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP; `code` None leaves the short form of two bytes."""
    body = u16(packet_id)
    if code is not None:
        body += bytes([code])
        if props:
            body += properties(props, version)
    return frame(first_byte, body)


def subscribe(
    version: int, packet_id: int, filters: Sequence[tuple[Text, int]], props: Properties = (), first_byte: int = 0x82
) -> bytes:
    payload = b"".join(text(f) + bytes([options]) for f, options in filters)
    return frame(first_byte, u16(packet_id) + properties(props, version) + payload)


def unsubscribe(
    version: int, packet_id: int, filters: Sequence[Text], props: Properties = (), first_byte: int = 0xA2
) -> bytes:
    return frame(first_byte, u16(packet_id) + properties(props, version) + b"".join(text(f) for f in filters))


PINGREQ = b"\xc0\x00"


def disconnect(version: int = 5, code: int | None = None, props: Properties = (), first_byte: int = 0xE0) -> bytes:
    if version < 5 or (code is None and not props):
        return frame(first_byte)
    return frame(first_byte, bytes([code or 0]) + (properties(props, version) if props else b""))


def auth(code: int | None = None, props: Properties = (), first_byte: int = 0xF0) -> bytes:
    return frame(first_byte, b"" if code is None else bytes([code]) + properties(props, 5))
