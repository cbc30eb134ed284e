"""From bytes to packets, strictly: whatever a server may not send raises WireError."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.wireclient import properties as p
from tests.wireclient.properties import FORMATS, PropertyValue


class WireError(AssertionError):
    """The server sent bytes that the specification forbids."""


@dataclass(frozen=True, slots=True)
class _WithProperties:
    props: Sequence[tuple[int, PropertyValue]]

    def values(self, identifier: int) -> list[PropertyValue]:
        return [value for i, value in self.props if i == identifier]

    def value(self, identifier: int) -> PropertyValue | None:
        found = self.values(identifier)
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Connack(_WithProperties):
    session_present: bool
    code: int


@dataclass(frozen=True, slots=True)
class Publish(_WithProperties):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int


@dataclass(frozen=True, slots=True)
class Ack(_WithProperties):
    kind: str
    packet_id: int
    code: int


@dataclass(frozen=True, slots=True)
class Suback(_WithProperties):
    packet_id: int
    codes: list[int]


@dataclass(frozen=True, slots=True)
class Unsuback(_WithProperties):
    packet_id: int
    codes: list[int]


@dataclass(frozen=True, slots=True)
class Pingresp:
    pass


@dataclass(frozen=True, slots=True)
class Disconnect(_WithProperties):
    code: int


@dataclass(frozen=True, slots=True)
class Auth(_WithProperties):
    code: int


Packet = Connack | Publish | Ack | Suback | Unsuback | Pingresp | Disconnect | Auth

_PROPERTIES_OF: dict[str, frozenset[int]] = {
    "CONNACK": frozenset(
        {
            p.SESSION_EXPIRY,
            p.RECEIVE_MAXIMUM,
            p.MAXIMUM_QOS,
            p.RETAIN_AVAILABLE,
            p.MAXIMUM_PACKET_SIZE,
            p.ASSIGNED_CLIENT_ID,
            p.TOPIC_ALIAS_MAXIMUM,
            p.REASON_STRING,
            p.USER_PROPERTY,
            p.WILDCARD_AVAILABLE,
            p.SUBSCRIPTION_ID_AVAILABLE,
            p.SHARED_AVAILABLE,
            p.SERVER_KEEP_ALIVE,
            p.RESPONSE_INFO,
            p.SERVER_REFERENCE,
            p.AUTH_METHOD,
            p.AUTH_DATA,
        }
    ),
    "PUBLISH": frozenset(
        {
            p.PAYLOAD_FORMAT,
            p.MESSAGE_EXPIRY,
            p.TOPIC_ALIAS,
            p.RESPONSE_TOPIC,
            p.CORRELATION_DATA,
            p.USER_PROPERTY,
            p.SUBSCRIPTION_ID,
            p.CONTENT_TYPE,
        }
    ),
    # A server never sends Session Expiry Interval here. [MQTT-3.14.2-2]
    "DISCONNECT": frozenset({p.REASON_STRING, p.USER_PROPERTY, p.SERVER_REFERENCE}),
    "AUTH": frozenset({p.AUTH_METHOD, p.AUTH_DATA, p.REASON_STRING, p.USER_PROPERTY}),
}
_ACK_PROPERTIES = frozenset({p.REASON_STRING, p.USER_PROPERTY})
_REPEATABLE = frozenset({p.USER_PROPERTY})

#: Reason codes that a server may put into each packet of MQTT 5 (tables 3-1 to 3-10 of the specification).
REASONS: dict[str, frozenset[int]] = {
    "CONNACK": frozenset({0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}),
    "PUBACK": frozenset({0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
    "PUBREC": frozenset({0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
    "PUBREL": frozenset({0, 0x92}),
    "PUBCOMP": frozenset({0, 0x92}),
    "SUBACK": frozenset({0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    "UNSUBACK": frozenset({0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    "DISCONNECT": frozenset({0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, *range(0x8C, 0x91), *range(0x93, 0xA3)}),
    "AUTH": frozenset({0, 0x18}),
}


class _Reader:
    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.at, self.what = data, 0, what

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise WireError(f"{self.what} ends too early: {self.data.hex()}")
        self.at += n
        return self.data[self.at - n : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(struct.unpack("!H", self.take(2))[0])

    def u32(self) -> int:
        return int(struct.unpack("!I", self.take(4))[0])

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise WireError(f"{self.what}: variable byte integer is not minimal [MQTT-1.5.5-1]")
                return value
        raise WireError(f"{self.what}: variable byte integer of more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def string(self) -> str:
        raw = self.binary()
        try:
            value = raw.decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise WireError(f"{self.what}: ill-formed UTF-8 {raw.hex()}") from error
        if "\x00" in value:
            raise WireError(f"{self.what}: U+0000 in a string")
        return value

    def left(self) -> int:
        return len(self.data) - self.at

    def done(self) -> None:
        if self.left():
            raise WireError(f"{self.what}: {self.left()} bytes too many: {self.data.hex()}")

    def properties(self, allowed: frozenset[int]) -> list[tuple[int, PropertyValue]]:
        length = self.varint()
        inner = _Reader(self.take(length), f"properties of {self.what}")
        found: list[tuple[int, PropertyValue]] = []
        seen: set[int] = set()
        while inner.left():
            identifier = inner.varint()
            if identifier not in allowed:
                raise WireError(f"{self.what}: property 0x{identifier:02x} does not belong here")
            repeatable = identifier in _REPEATABLE or (identifier == p.SUBSCRIPTION_ID and self.what == "PUBLISH")
            if identifier in seen and not repeatable:
                raise WireError(f"{self.what}: property 0x{identifier:02x} occurs twice")
            seen.add(identifier)
            found.append((identifier, inner.property_value(FORMATS[identifier])))
        return found

    def property_value(self, kind: str) -> PropertyValue:
        if kind == "b":
            return self.u8()
        if kind == "h":
            return self.u16()
        if kind == "i":
            return self.u32()
        if kind == "v":
            return self.varint()
        if kind == "s":
            return self.string()
        if kind == "d":
            return self.binary()
        return (self.string(), self.string())


def _reason(what: str, code: int) -> int:
    if code not in REASONS[what]:
        raise WireError(f"{what}: reason code 0x{code:02x} does not belong here")
    return code


def decode(first_byte: int, body: bytes, version: int) -> Packet:
    """One packet from a server to a client of that protocol version."""
    kind, flags = first_byte >> 4, first_byte & 0x0F
    if kind != 3 and flags != (2 if kind == 6 else 0):
        raise WireError(f"reserved flags are {flags:#x} in packet type {kind} [MQTT-2.1.3-1]")
    if kind == 2:
        return _connack(_Reader(body, "CONNACK"), version)
    if kind == 3:
        return _publish(flags, _Reader(body, "PUBLISH"), version)
    if kind in (4, 5, 6, 7):
        return _ack(_Reader(body, {4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP"}[kind]), version)
    if kind == 9:
        return _suback(_Reader(body, "SUBACK"), version)
    if kind == 11:
        return _unsuback(_Reader(body, "UNSUBACK"), version)
    if kind == 13:
        _Reader(body, "PINGRESP").done()
        return Pingresp()
    if kind == 14 and version >= 5:
        return Disconnect(*_code_and_properties(_Reader(body, "DISCONNECT")))
    if kind == 15 and version >= 5:
        return Auth(*_code_and_properties(_Reader(body, "AUTH")))
    raise WireError(f"a server of version {version} sent packet type {kind}")


def _connack(r: _Reader, version: int) -> Connack:
    flags, code = r.u8(), r.u8()
    if flags > 1:
        raise WireError("CONNACK: reserved acknowledge flags are set [MQTT-3.2.2-1]")
    if version >= 5:
        _reason("CONNACK", code)
    elif code > 5:
        raise WireError(f"CONNACK: return code {code} is not of MQTT 3.1.1")
    props = r.properties(_PROPERTIES_OF["CONNACK"]) if version >= 5 else []
    r.done()
    if code and flags:
        raise WireError("CONNACK: session present with an error [MQTT-3.2.2-6]")
    return Connack(props, bool(flags), code)


def _publish(flags: int, r: _Reader, version: int) -> Publish:
    qos = (flags >> 1) & 3
    if qos == 3:
        raise WireError("PUBLISH: QoS 3 [MQTT-3.3.1-4]")
    if qos == 0 and flags & 8:
        raise WireError("PUBLISH: DUP with QoS 0 [MQTT-3.3.1-2]")
    topic = r.string()
    packet_id = r.u16() if qos else 0
    if qos and not packet_id:
        raise WireError("PUBLISH: packet identifier 0 [MQTT-2.2.1-4]")
    props = r.properties(_PROPERTIES_OF["PUBLISH"]) if version >= 5 else []
    if not topic and not any(i == p.TOPIC_ALIAS for i, _ in props):
        raise WireError("PUBLISH: neither topic nor alias")
    if "#" in topic or "+" in topic:
        raise WireError("PUBLISH: wildcard in the topic name [MQTT-3.3.2-2]")
    payload = r.take(r.left())
    return Publish(props, topic, payload, qos, bool(flags & 1), bool(flags & 8), packet_id)


def _ack(r: _Reader, version: int) -> Ack:
    packet_id, code = r.u16(), 0
    props: list[tuple[int, PropertyValue]] = []
    if version >= 5 and r.left():
        code = _reason(r.what, r.u8())
        if r.left():
            props = r.properties(_ACK_PROPERTIES)
    r.done()
    return Ack(props, r.what, packet_id, code)


def _suback(r: _Reader, version: int) -> Suback:
    packet_id = r.u16()
    props = r.properties(_ACK_PROPERTIES) if version >= 5 else []
    codes = list(r.take(r.left()))
    for code in codes:
        if version >= 5:
            _reason("SUBACK", code)
        elif code not in (0, 1, 2, 0x80):
            raise WireError(f"SUBACK: return code 0x{code:02x} is reserved [MQTT-3.9.3-2]")
    return Suback(props, packet_id, codes)


def _unsuback(r: _Reader, version: int) -> Unsuback:
    packet_id = r.u16()
    if version < 5:
        r.done()
        return Unsuback([], packet_id, [])
    props = r.properties(_ACK_PROPERTIES)
    return Unsuback(props, packet_id, [_reason("UNSUBACK", code) for code in r.take(r.left())])


def _code_and_properties(r: _Reader) -> tuple[list[tuple[int, PropertyValue]], int]:
    code = _reason(r.what, r.u8()) if r.left() else 0
    props = r.properties(_PROPERTIES_OF[r.what]) if r.left() else []
    r.done()
    return props, code
