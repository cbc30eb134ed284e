"""What the codec refuses, and with which reason. A row a rule; `wire` is hex, the whole packet."""

import pytest

from fastmq._codec import Decoder, decode, decode_connect, encode
from fastmq.errors import MalformedPacket, ProtocolError, TopicNameInvalid
from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Publish,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Will,
)
from fastmq.reasons import Reason

MALFORMED, PROTOCOL = Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR

CONNECTS = [
    ("protocol name", Reason.UNSUPPORTED_PROTOCOL_VERSION, "0004 4d515458 04 02 003c 0000"),
    ("protocol name in small letters", Reason.UNSUPPORTED_PROTOCOL_VERSION, "0004 6d717474 04 02 003c 0000"),
    ("level 6", Reason.UNSUPPORTED_PROTOCOL_VERSION, "0004 4d515454 06 02 003c 0000"),
    ("level 3 under the name MQTT", Reason.UNSUPPORTED_PROTOCOL_VERSION, "0004 4d515454 03 02 003c 0000"),
    ("level 4 under the name MQIsdp", Reason.UNSUPPORTED_PROTOCOL_VERSION, "0006 4d5149736470 04 02 003c 0000"),
    ("a bridge's level", Reason.UNSUPPORTED_PROTOCOL_VERSION, "0004 4d515454 84 02 003c 0000"),
    ("[MQTT-3.1.2-3] reserved flag", MALFORMED, "0004 4d515454 04 03 003c 0000"),
    ("[MQTT-3.1.2-12] will QoS 3", MALFORMED, "0004 4d515454 04 1e 003c 0000 0001 61 0000"),
    ("[MQTT-3.1.2-11] will QoS without will", MALFORMED, "0004 4d515454 04 0a 003c 0000"),
    ("[MQTT-3.1.2-13] will retain without will", MALFORMED, "0004 4d515454 05 22 003c 00 0000"),
    ("[MQTT-3.1.2-22] password without user name, 3.1.1", MALFORMED, "0004 4d515454 04 42 003c 0000 0001 70"),
    ("no client id", MALFORMED, "0004 4d515454 04 02 003c"),
    ("client id cut short", MALFORMED, "0004 4d515454 04 02 003c 0005 61"),
    ("[MQTT-1.5.4-2] U+0000 in the client id", MALFORMED, "0004 4d515454 04 02 003c 0001 00"),
    ("[MQTT-1.5.4-1] surrogate in the client id", MALFORMED, "0004 4d515454 04 02 003c 0003 eda080"),
    ("overlong UTF-8 in the client id", MALFORMED, "0004 4d515454 04 02 003c 0002 c0af"),
    ("bad UTF-8 in the user name", MALFORMED, "0004 4d515454 04 82 003c 0000 0001 ff"),
    ("user name missing", MALFORMED, "0004 4d515454 04 82 003c 0000"),
    ("will payload missing", MALFORMED, "0004 4d515454 04 06 003c 0000 0001 61"),
    ("will topic with wildcard", Reason.TOPIC_NAME_INVALID, "0004 4d515454 04 06 003c 0000 0001 23 0000"),
    ("will topic empty", Reason.TOPIC_NAME_INVALID, "0004 4d515454 04 06 003c 0000 0000 0000"),
    ("bytes after the end", MALFORMED, "0004 4d515454 04 02 003c 0000 00"),
    ("properties longer than the packet", MALFORMED, "0004 4d515454 05 02 003c 05 0000"),
    ("property cut short by the property length", MALFORMED, "0004 4d515454 05 02 003c 04 11000000 00 0000"),
    ("[MQTT-1.5.5-1] property length not minimal", MALFORMED, "0004 4d515454 05 02 003c 8000 0000"),
    ("unknown property", MALFORMED, "0004 4d515454 05 02 003c 02 0001 0000"),
    ("a will's property", MALFORMED, "0004 4d515454 05 02 003c 05 1800000001 0000"),
    ("a server's property", MALFORMED, "0004 4d515454 05 02 003c 02 2401 0000"),
    ("a connect property in the will", MALFORMED, "0004 4d515454 05 06 003c 00 0000 05 1100000001 0001 61 0000"),
    ("session expiry twice", PROTOCOL, "0004 4d515454 05 02 003c 0a 1100000001 1100000001 0000"),
    ("receive maximum 0", PROTOCOL, "0004 4d515454 05 02 003c 03 210000 0000"),
    ("maximum packet size 0", PROTOCOL, "0004 4d515454 05 02 003c 05 2700000000 0000"),
    ("request problem information 2", PROTOCOL, "0004 4d515454 05 02 003c 02 1702 0000"),
    ("request response information 2", PROTOCOL, "0004 4d515454 05 02 003c 02 1902 0000"),
    ("authentication data without method", PROTOCOL, "0004 4d515454 05 02 003c 04 160001 78 0000"),
    ("payload format of the will 2", PROTOCOL, "0004 4d515454 05 06 003c 00 0000 02 0102 0001 61 0000"),
    ("response topic of the will empty", PROTOCOL, "0004 4d515454 05 06 003c 00 0000 03 080000 0001 61 0000"),
]

PACKETS = [
    ("type 0", 5, MALFORMED, "00 00"),
    ("AUTH before MQTT 5", 4, MALFORMED, "f0 00"),
    *((f"flags of type {kind}", 4, MALFORMED, f"{kind:x}1 02 0001") for kind in (1, 2, 4, 5, 7, 9, 11, 12, 13, 14)),
    ("[MQTT-3.6.1-1] flags of PUBREL", 4, MALFORMED, "60 02 0001"),
    ("[MQTT-3.8.1-1] flags of SUBSCRIBE", 4, MALFORMED, "80 06 0001 0001 61 00"),
    ("DUP of SUBSCRIBE after MQTT 3.1", 4, MALFORMED, "8a 06 0001 0001 61 00"),
    ("[MQTT-3.10.1-1] flags of UNSUBSCRIBE", 5, MALFORMED, "a3 06 0001 00 0001 61"),
    ("[MQTT-3.3.1-4] QoS 3", 4, MALFORMED, "36 05 0001 61 0001"),
    ("[MQTT-3.3.1-2] DUP with QoS 0", 4, MALFORMED, "38 03 0001 61"),
    ("[MQTT-2.2.1-3] packet identifier 0 of PUBLISH", 4, PROTOCOL, "32 05 0001 61 0000"),
    ("[MQTT-2.2.1-3] packet identifier 0 of SUBSCRIBE", 5, PROTOCOL, "82 07 0000 00 0001 61 00"),
    ("[MQTT-3.3.2-2] wildcard in a topic name", 5, Reason.TOPIC_NAME_INVALID, "30 05 0002 612b 00"),
    ("[MQTT-3.3.2-1] bad UTF-8 in a topic name", 4, MALFORMED, "30 03 0001 ff"),
    ("empty topic, no alias", 5, PROTOCOL, "30 03 0000 00"),
    ("[MQTT-4.7.3-1] empty topic", 4, PROTOCOL, "30 02 0000"),
    ("[MQTT-3.3.2-8] topic alias 0", 5, Reason.TOPIC_ALIAS_INVALID, "30 06 0000 03 230000"),
    ("topic alias twice", 5, PROTOCOL, "30 0a 0001 61 06 230001 230001"),
    ("subscription identifier 0", 5, PROTOCOL, "30 06 0001 61 02 0b00"),
    ("[MQTT-3.3.2-14] wildcard in the response topic", 5, PROTOCOL, "30 08 0001 61 04 080001 23"),
    ("topic longer than the packet", 4, MALFORMED, "30 03 0005 61"),
    ("PUBLISH without packet identifier", 4, MALFORMED, "32 03 0001 61"),
    ("PUBACK too short", 4, MALFORMED, "40 01 00"),
    ("PUBACK too long", 4, MALFORMED, "40 03 0001 00"),
    ("a reason that PUBACK does not have", 5, PROTOCOL, "40 03 0001 8e"),
    ("a reason that PUBREL does not have", 5, PROTOCOL, "62 03 0001 10"),
    ("PUBACK with content type", 5, MALFORMED, "40 08 0001 00 04 030001 61"),
    ("reason string twice", 5, PROTOCOL, "40 0c 0001 00 08 1f0001 61 1f0001 61"),
    ("[MQTT-3.8.3-2] SUBSCRIBE without filter", 4, PROTOCOL, "82 02 0001"),
    ("[MQTT-4.7.3-1] SUBSCRIBE with an empty filter", 4, PROTOCOL, "82 05 0001 0000 00"),
    ("[MQTT-3.8.3-5] reserved option bits", 5, MALFORMED, "82 07 0001 00 0001 61 40"),
    ("[MQTT-3.8.3-4] reserved option bits, 3.1.1", 4, MALFORMED, "82 06 0001 0001 61 04"),
    ("subscription QoS 3", 5, PROTOCOL, "82 07 0001 00 0001 61 03"),
    ("retain handling 3", 5, PROTOCOL, "82 07 0001 00 0001 61 30"),
    ("[MQTT-3.8.3-4] no local on a shared subscription", 5, PROTOCOL, "82 10 0001 00 000a 2473686172652f672f61 04"),
    ("subscription identifier twice", 5, PROTOCOL, "82 0b 0001 04 0b01 0b02 0001 61 00"),
    ("filter without options", 4, MALFORMED, "82 05 0001 0001 61"),
    ("[MQTT-3.10.3-2] UNSUBSCRIBE without filter", 5, PROTOCOL, "a2 03 0001 00"),
    ("PINGREQ with a body", 4, MALFORMED, "c0 01 00"),
    ("DISCONNECT with a body before MQTT 5", 4, MALFORMED, "e0 01 00"),
    ("a reason that DISCONNECT does not have", 5, PROTOCOL, "e0 01 01"),
    ("DISCONNECT too long", 5, MALFORMED, "e0 03 00 00 00"),
    ("AUTH without authentication method", 5, PROTOCOL, "f0 02 18 00"),
    ("a reason that AUTH does not have", 5, PROTOCOL, "f0 02 80 00"),
    ("CONNACK flags", 4, MALFORMED, "20 02 02 00"),
    ("CONNACK return code 6", 4, MALFORMED, "20 02 00 06"),
    ("CONNACK maximum QoS 2", 5, PROTOCOL, "20 05 00 00 02 2402"),
    ("SUBACK return code 3", 4, PROTOCOL, "90 03 0001 03"),
    ("SUBACK of MQTT 5 to MQTT 3", 4, MALFORMED, "90 03 0001 8f"),
]


@pytest.mark.parametrize(("rule", "reason", "wire"), CONNECTS, ids=[row[0] for row in CONNECTS])
def test_a_connect_is_refused(rule: str, reason: Reason, wire: str) -> None:
    body = bytes.fromhex(wire)
    with pytest.raises(ProtocolError) as refused:
        decode_connect(body)
    assert refused.value.reason == reason
    with pytest.raises(ProtocolError) as refused:
        Decoder().feed(bytes([0x10, len(body)]) + body)
    assert refused.value.reason == reason


@pytest.mark.parametrize(("rule", "version", "reason", "wire"), PACKETS, ids=[row[0] for row in PACKETS])
def test_a_packet_is_refused(rule: str, version: int, reason: Reason, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert data[1] == len(data) - 2
    with pytest.raises(ProtocolError) as refused:
        decode(data[0], data[2:], version)
    assert refused.value.reason == reason
    assert str(refused.value)


def test_a_refusal_has_its_own_class_where_there_is_one() -> None:
    with pytest.raises(MalformedPacket):
        decode(0x40, b"\0", 5)
    with pytest.raises(TopicNameInvalid):
        decode(0x30, b"\0\1#\0", 5)


@pytest.mark.parametrize("version", [-1, 0, 2, 6])
def test_there_are_three_versions(version: int) -> None:
    with pytest.raises(ValueError, match="no such MQTT version"):
        encode(Puback(1), version)
    with pytest.raises(ValueError, match="no such MQTT version"):
        decode(0x40, b"\0\1", version)


UNSAYABLE: list[tuple[str, int, Packet]] = [
    ("U+0000", 4, Publish("a\0b")),
    ("a lone surrogate", 4, Publish("\ud800")),
    ("a topic of 65,536 bytes", 4, Publish("a" * 65_536)),
    ("a will of 65,536 bytes", 4, Connect(version=4, will=Will("a", b"x" * 65_536))),
    ("QoS 3", 4, Publish("a", qos=3, packet_id=1)),
    ("QoS 1 without packet identifier", 4, Publish("a", qos=1)),
    ("QoS 0 with packet identifier", 4, Publish("a", packet_id=1)),
    ("will QoS 3", 5, Connect(will=Will("a", qos=3))),
    ("a packet identifier of 17 bits", 5, Puback(65_536)),
    ("packet identifier 0", 5, Pubrel(0)),
    ("packet identifier 0 of SUBSCRIBE", 5, Subscribe(0, [SubscriptionRequest("a")])),
    ("a keep alive of 17 bits", 5, Connect(keepalive=65_536)),
    ("a negative keep alive", 5, Connect(keepalive=-1)),
    ("MQTT 6", 5, Connect(version=6)),
    ("a password without user name before MQTT 5", 4, Connect(version=4, password=b"")),
    ("a reason of 9 bits", 5, Disconnect(256)),
    ("AUTH before MQTT 5", 4, Auth()),
    ("a foreign property", 5, Puback(1, 0, Properties(topic_alias=1))),
    ("an expiry of 33 bits", 5, Disconnect(0, Properties(session_expiry_interval=1 << 32))),
    ("a subscription identifier of 29 bits", 5, Subscribe(1, [], Properties(subscription_identifiers=[1 << 28]))),
    ("a reason that MQTT 3 has no return code for", 4, Connack(False, Reason.PROTOCOL_ERROR)),
]  # fmt: skip


@pytest.mark.parametrize(("what", "version", "packet"), UNSAYABLE, ids=[row[0] for row in UNSAYABLE])
def test_what_cannot_be_said_is_not_encoded(what: str, version: int, packet: Packet) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (each says it in its own words)
        encode(packet, version)
    assert str(refused.value)


def test_only_packets_are_encoded() -> None:
    with pytest.raises(TypeError, match="not a packet"):
        encode(Properties(), 5)  # type: ignore[arg-type]


FULL = Properties(reason_string="because", user_properties=[("key", "value")] * 3)


@pytest.mark.parametrize(
    "packet", [Connack(False, 0, FULL), Puback(1, 0x80, FULL), Suback(1, [0], FULL), Disconnect(4, FULL)]
)
def test_an_answer_sheds_user_properties_and_then_the_reason_string_to_fit(packet: Packet) -> None:
    whole = encode(packet, 5)
    assert encode(packet, 5, len(whole)) == whole
    without_user = encode(packet, 5, len(whole) - 1)
    assert b"value" not in without_user
    assert b"because" in without_user
    bare = encode(packet, 5, len(without_user) - 1)
    assert b"because" not in bare
    with pytest.raises(ValueError, match="the peer takes at most"):
        encode(packet, 5, len(bare) - 1)


def test_a_publish_keeps_its_user_properties_or_is_not_sent() -> None:  # [MQTT-3.3.2-17]
    packet = Publish("a", properties=Properties(user_properties=[("key", "value")]))
    with pytest.raises(ValueError, match="the peer takes at most 10"):
        encode(packet, 5, 10)
