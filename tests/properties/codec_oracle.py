"""A second codec, slow and plain, written from the specification's tables alone: the oracle for fastmq._codec.

It shares nothing with the engine but the packet classes, and builds bytes by adding them up. `decode` takes only what
is right; anything else raises Wrong, without a reason code: which code is right, tests/unit/test_codec_errors.py says.
"""

from collections.abc import Iterable
from typing import Any

from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from tests.properties.codec_oracle_fields import (
    REASONS,
    ROWS,
    Reader,
    Wrong,
    binary,
    flag,
    properties,
    require,
    u16,
    utf8,
    varint,
)

__all__ = ["REASONS", "ROWS", "Wrong", "decode", "encode", "varint"]

TYPES = [
    None, Connect, Connack, Publish, Puback, Pubrec, Pubrel, Pubcomp, Subscribe, Suback, Unsubscribe, Unsuback, Pingreq,
    Pingresp, Disconnect, Auth,
]  # fmt: skip


def encode(packet: Packet, version: int) -> bytes:
    number = TYPES.index(type(packet))
    body = encode_body(packet, version)
    bits = 2 if isinstance(packet, Pubrel | Subscribe | Unsubscribe) else 0
    if isinstance(packet, Publish):
        bits = packet.dup * 8 + packet.qos * 2 + packet.retain
    return bytes([number * 16 + bits]) + varint(len(body)) + body


def encode_body(packet: Packet, version: int) -> bytes:
    if isinstance(packet, Pingreq | Pingresp):
        return b""
    extra = properties(packet.properties, type(packet).__name__.upper()) if version == 5 else b""
    if isinstance(packet, Connect):
        return connect_body(packet, extra)
    if isinstance(packet, Publish):
        packet_id = u16(packet.packet_id) if packet.qos else b""
        return utf8(packet.topic) + packet_id + extra + packet.payload
    if isinstance(packet, Connack):
        return flag(packet.session_present) + bytes([packet.reason]) + extra
    if isinstance(packet, Subscribe):
        wanted = b"".join(utf8(each.filter) + bytes([options(each, version)]) for each in packet.subscriptions)
        return u16(packet.packet_id) + extra + wanted
    if isinstance(packet, Unsubscribe):
        return u16(packet.packet_id) + extra + b"".join(utf8(each) for each in packet.filters)
    if isinstance(packet, Suback | Unsuback):
        return u16(packet.packet_id) + extra + bytes(packet.reasons)
    start = b"" if isinstance(packet, Disconnect | Auth) else u16(packet.packet_id)
    return start + (short(packet.reason, extra, isinstance(packet, Auth)) if version == 5 else b"")


def short(reason: int, extra: bytes, is_auth: bool) -> bytes:
    """The reason code may go when it is 0 and nothing follows; the properties when there are none."""
    if extra != b"\0":
        return bytes([reason]) + extra
    if reason == 0:
        return b""
    return bytes([reason, 0]) if is_auth else bytes([reason])


def options(wanted: SubscriptionRequest, version: int) -> int:
    if version < 5:
        return wanted.qos
    return wanted.qos + wanted.no_local * 4 + wanted.retain_as_published * 8 + wanted.retain_handling * 16


def connect_body(packet: Connect, extra: bytes) -> bytes:
    will, bits = packet.will, packet.clean_start * 2
    if will is not None:
        bits += 4 + will.qos * 8 + will.retain * 32
    bits += (packet.password is not None) * 64 + (packet.username is not None) * 128
    out = utf8("MQIsdp" if packet.version == 3 else "MQTT") + bytes([packet.version, bits]) + u16(packet.keepalive)
    out += extra + utf8(packet.client_id)
    if will is not None:
        out += (properties(will.properties, "w") if packet.version == 5 else b"") + utf8(will.topic)
        out += binary(will.payload)
    if packet.username is not None:
        out += utf8(packet.username)
    return out if packet.password is None else out + binary(packet.password)


def decode(data: bytes, version: int) -> Packet:
    """The one packet that `data` is. A CONNECT says its version itself."""
    reader = Reader(data)
    first, length = reader.u8(), reader.varint()
    require(len(reader.data) == length, "not one packet")
    kind, bits = TYPES[first // 16], first % 16
    require(kind is not None and (kind is not Auth or version == 5), "packet type")
    assert kind is not None
    if kind is not Publish:
        marked = kind in (Pubrel, Subscribe, Unsubscribe)
        require(bits == 2 * marked or (marked and version == 3 and bits == 10), "flags")
    packet = decode_body(reader, kind, bits, version)
    require(reader.data == b"", "too long")
    return packet


def decode_body(reader: Reader, kind: Any, bits: int, version: int) -> Packet:
    where = kind.__name__.upper()

    def extra() -> Properties:
        return reader.properties(where) if version == 5 else Properties()

    if kind in (Pingreq, Pingresp):
        return Pingreq() if kind is Pingreq else Pingresp()
    if kind is Connect:
        return decode_connect(reader)
    if kind is Publish:
        return decode_publish(reader, bits, version)
    if kind is Connack:
        present = reader.bool01() == 1
        reason = reader.u8()
        require(reason <= 5 if version < 5 else reason_fits(reason, where), "reason")
        return Connack(present, reason, extra())
    if kind in (Disconnect, Auth):
        return decode_goodbye(reader, kind, version)
    packet_id = reader.packet_id()
    if kind in (Puback, Pubrec, Pubrel, Pubcomp):
        reason, given = decode_reason(reader, where) if version == 5 else (0, Properties())
        acknowledgement: Packet = kind(packet_id, reason, given)
        return acknowledgement
    given = extra()
    if kind is Subscribe:
        wanted = [decode_request(reader, version) for _ in until_empty(reader)]
        require(wanted != [], "no filter")
        return Subscribe(packet_id, wanted, given)
    if kind is Unsubscribe:
        filters = [reader.utf8() for _ in until_empty(reader)]
        require(filters != [] and "" not in filters, "no filter")
        return Unsubscribe(packet_id, filters, given)
    if kind is Unsuback and version < 5:
        return Unsuback(packet_id)
    codes = [reader.u8() for _ in until_empty(reader)]
    require(codes != [] and all(reason_fits(each, where) for each in codes), "reasons")
    require(version == 5 or set(codes) <= {0, 1, 2, 0x80}, "return codes")
    answer: Packet = kind(packet_id, codes, given)
    return answer


def until_empty(reader: Reader) -> Iterable[None]:
    while reader.data:
        yield None


def reason_fits(reason: int, where: str) -> bool:
    return f"{reason:02x}" in REASONS[where].split()


def decode_reason(reader: Reader, where: str) -> tuple[int, Properties]:
    if not reader.data:
        return 0, Properties()
    reason = reader.u8()
    require(reason_fits(reason, where), "reason")
    return reason, reader.properties(where) if reader.data else Properties()


def decode_goodbye(reader: Reader, kind: Any, version: int) -> Packet:
    reason, given = decode_reason(reader, kind.__name__.upper()) if version == 5 else (0, Properties())
    if kind is Disconnect:
        return Disconnect(reason, given)
    require(reason == 0 or given.authentication_method is not None, "AUTH without method")
    return Auth(reason, given)


def decode_request(reader: Reader, version: int) -> SubscriptionRequest:
    topic_filter, bits = reader.utf8(), reader.u8()
    require(topic_filter != "", "empty filter")
    require(bits % 4 < 3 and bits < (64 if version == 5 else 4) and bits // 16 < 3, "options")
    wanted = SubscriptionRequest(topic_filter, bits % 4, bits // 4 % 2 == 1, bits // 8 % 2 == 1, bits // 16)
    require(not (wanted.no_local and topic_filter.startswith("$share/")), "no local on a shared subscription")
    return wanted


def decode_publish(reader: Reader, bits: int, version: int) -> Publish:
    dup, qos, retain = bits // 8 == 1, bits // 2 % 4, bits % 2 == 1
    require(qos < 3 and not (dup and qos == 0 and version > 3), "flags")
    topic = reader.utf8()
    require(not set(topic) & set("+#"), "wildcard")
    packet_id = reader.packet_id() if qos else 0
    given = reader.properties("PUBLISH") if version == 5 else Properties()
    require(topic != "" or given.topic_alias is not None, "no topic")
    return Publish(topic, reader.take(len(reader.data)), qos, retain, dup, packet_id, given)


def decode_connect(reader: Reader) -> Connect:
    name, version, bits, keepalive = reader.utf8(), reader.u8(), reader.u8(), reader.u16()
    require((name, version) in (("MQIsdp", 3), ("MQTT", 4), ("MQTT", 5)), "version")
    has_will, qos, retain = bits // 4 % 2 == 1, bits // 8 % 4, bits // 32 % 2 == 1
    has_password, has_username = bits // 64 % 2 == 1, bits // 128 == 1
    require(qos < 3, "will QoS")
    if version > 3:
        require(bits % 2 == 0 and (has_will or (qos == 0 and not retain)), "flags")
    require(version != 4 or has_username or not has_password, "password without user name")
    given = reader.properties("CONNECT") if version == 5 else Properties()
    client_id, will = reader.utf8(), None
    if has_will:
        will_given = reader.properties("w") if version == 5 else Properties()
        will = Will(reader.topic(), reader.binary(), qos, retain, will_given)

    def is_there(flagged: bool) -> bool:
        return flagged and not (version == 3 and not reader.data)

    username = reader.utf8() if is_there(has_username) else None
    password = reader.binary() if is_there(has_password) else None
    return Connect(client_id, version, bits // 2 % 2 == 1, keepalive, username, password, will, given)
