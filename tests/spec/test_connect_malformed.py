"""CONNECT as it should not be: each refused with its reason, never understood."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Dial
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version, from_311
from tests.wireclient import Will, encode
from tests.wireclient import properties as p
from tests.wireclient.encode import one_property

MALFORMED, PROTOCOL_ERROR = 0x81, 0x82
WILL = Will("w", b"x")

ILL_FORMED = {
    "lone surrogate": b"a\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbfb",
    "overlong slash": b"\xc0\xaf",
    "cut sequence": b"a\xe2\x82",
    "lone continuation": b"\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "null": b"a\x00b",
    "overlong null": b"\xc0\x80",
}
ill_formed = pytest.mark.parametrize("raw", ILL_FORMED.values(), ids=ILL_FORMED.keys())


@normative("MQTT-3.1.2-3", "MQTT-3.1.4-1")
@normative311("MQTT-3.1.2-3", "MQTT-3.1.4-1")
@from_311
def test_the_reserved_connect_flag(dial: Dial, version: int) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", flags=0x03))
    client.expect_refused(MALFORMED)


@normative("MQTT-3.1.2-11", "MQTT-3.1.2-13")
@normative311("MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-15")
@from_311
@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22], ids=["QoS 1", "QoS 2", "retain"])
def test_will_bits_without_a_will(dial: Dial, version: int, flags: int) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", flags=flags))
    client.expect_refused(MALFORMED, PROTOCOL_ERROR)


@normative("MQTT-3.1.2-12")
@normative311("MQTT-3.1.2-14")
@every_version
def test_will_qos_3(dial: Dial, version: int) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", will=Will("w", b"x", qos=3)))
    client.expect_refused(MALFORMED)


_MISSING = {
    "will": 0x06,
    "user name": 0x82,
    "user name and password": 0xC2,
}


@normative("MQTT-3.1.2-9", "MQTT-3.1.2-17", "MQTT-3.1.2-19", "MQTT-3.1.3-1")
@normative311("MQTT-3.1.2-9", "MQTT-3.1.2-19", "MQTT-3.1.2-21", "MQTT-3.1.3-1")
@from_311
@pytest.mark.parametrize("flags", _MISSING.values(), ids=_MISSING.keys())
def test_a_field_that_its_flag_promises_is_missing(dial: Dial, version: int, flags: int) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", flags=flags))
    client.expect_refused(MALFORMED)


@normative("MQTT-3.1.2-16", "MQTT-3.1.2-18")
@normative311("MQTT-3.1.2-11", "MQTT-3.1.2-18", "MQTT-3.1.2-20")
@from_311
@pytest.mark.parametrize("tail", [encode.text("unexpected"), b"\x00"], ids=["a field", "a byte"])
def test_bytes_that_no_flag_announces(dial: Dial, version: int, tail: bytes) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", tail=tail))
    client.expect_refused(MALFORMED)


@normative311("MQTT-3.1.2-22")
def test_311_a_password_without_a_user_name(dial: Dial) -> None:
    client = dial(4)
    client.send(encode.connect(4, client_id="x", password=b"alone"))
    client.expect_closed()


@normative("MQTT-3.1.3-3")
@normative311("MQTT-3.1.3-3")
@every_version
def test_no_client_id_at_all(dial: Dial, version: int) -> None:
    name = encode.text("MQIsdp" if version == 3 else "MQTT")
    body = name + bytes([version, 2]) + encode.u16(60) + encode.properties((), version)
    client = dial(version)
    client.send(encode.frame(0x10, body))
    client.expect_refused(MALFORMED)


@normative("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-3.1.3-4")
@normative311("MQTT-1.5.3-1", "MQTT-1.5.3-2", "MQTT-3.1.3-4")
@every_version
@ill_formed
def test_a_client_id_that_is_no_utf8(dial: Dial, version: int, raw: bytes) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id=raw))
    client.expect_refused(MALFORMED, 0x85)


@normative("MQTT-3.1.3-11")
@normative311("MQTT-3.1.3-10")
@every_version
@ill_formed
def test_a_will_topic_that_is_no_utf8(dial: Dial, version: int, raw: bytes) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", will=Will(raw, b"x")))
    client.expect_refused(MALFORMED)


@normative("MQTT-3.1.3-12")
@normative311("MQTT-3.1.3-11")
@from_311
@ill_formed
def test_a_user_name_that_is_no_utf8(dial: Dial, version: int, raw: bytes) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", username=raw))
    client.expect_refused(MALFORMED)


@normative("MQTT-4.7.0-1", "MQTT-4.7.3-1")
@normative311("MQTT-4.7.1-1", "MQTT-4.7.3-1")
@every_version
@pytest.mark.parametrize("topic", ["a/+/b", "a/#", "#", "a+", ""])
def test_a_will_topic_that_is_no_topic_name(dial: Dial, version: int, topic: str) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", will=Will(topic, b"x")))
    client.expect_refused(MALFORMED, PROTOCOL_ERROR, 0x90)


_LONG_NUMBER = 65000
_WRONG_PROPERTIES: dict[str, tuple[bytes, int]] = {
    "receive maximum 0": (one_property(p.RECEIVE_MAXIMUM, 0), PROTOCOL_ERROR),
    "maximum packet size 0": (one_property(p.MAXIMUM_PACKET_SIZE, 0), PROTOCOL_ERROR),
    "request response information 2": (one_property(p.REQUEST_RESPONSE_INFO, 2), PROTOCOL_ERROR),
    "request problem information 2": (one_property(p.REQUEST_PROBLEM_INFO, 2), PROTOCOL_ERROR),
    "authentication data alone": (one_property(p.AUTH_DATA, b"x"), PROTOCOL_ERROR),
    "unknown property": (b"\x7f\x01", MALFORMED),
    "property 0": (b"\x00\x01", MALFORMED),
    "property id of two bytes": (b"\x80\x01\x01", MALFORMED),
    "property id not minimal": (b"\x91\x00\x00\x00\x00\x01", MALFORMED),
    "value cut off": (b"\x11\x00\x00", MALFORMED),
    "string cut off": (b"\x15\x00\x05ab", MALFORMED),
    "method no UTF-8": (one_property(p.AUTH_METHOD, b"\xff"), MALFORMED),
    "user property key no UTF-8": (b"\x26" + encode.text(b"\xc0\x80") + encode.text("v"), MALFORMED),
    "user property value no UTF-8": (b"\x26" + encode.text("k") + encode.text(b"\xed\xa0\x80"), MALFORMED),
    "user property value with null": (b"\x26" + encode.text("k") + encode.text(b"\x00"), MALFORMED),
    "user property without value": (b"\x26" + encode.text("k"), MALFORMED),
}
_ONCE_ONLY: list[tuple[str, int, p.PropertyValue]] = [
    ("session expiry", p.SESSION_EXPIRY, 5),
    ("receive maximum", p.RECEIVE_MAXIMUM, 5),
    ("maximum packet size", p.MAXIMUM_PACKET_SIZE, _LONG_NUMBER),
    ("topic alias maximum", p.TOPIC_ALIAS_MAXIMUM, 5),
    ("request response information", p.REQUEST_RESPONSE_INFO, 1),
    ("request problem information", p.REQUEST_PROBLEM_INFO, 1),
    ("authentication method", p.AUTH_METHOD, "x"),
]
_WRONG_PROPERTIES |= {
    f"{name} twice": (one_property(identifier, value) * 2, PROTOCOL_ERROR) for name, identifier, value in _ONCE_ONLY
}
_FOREIGN: list[tuple[int, p.PropertyValue]] = [
    (p.PAYLOAD_FORMAT, 0),
    (p.MESSAGE_EXPIRY, 1),
    (p.CONTENT_TYPE, "x"),
    (p.RESPONSE_TOPIC, "x"),
    (p.CORRELATION_DATA, b"x"),
    (p.SUBSCRIPTION_ID, 1),
    (p.ASSIGNED_CLIENT_ID, "x"),
    (p.SERVER_KEEP_ALIVE, 1),
    (p.WILL_DELAY, 1),
    (p.RESPONSE_INFO, "x"),
    (p.SERVER_REFERENCE, "x"),
    (p.REASON_STRING, "x"),
    (p.TOPIC_ALIAS, 1),
    (p.MAXIMUM_QOS, 1),
    (p.RETAIN_AVAILABLE, 1),
    (p.WILDCARD_AVAILABLE, 1),
    (p.SUBSCRIPTION_ID_AVAILABLE, 1),
    (p.SHARED_AVAILABLE, 1),
]


@normative("MQTT-3.1.4-1", "MQTT-1.5.5-1", "MQTT-1.5.7-1", "MQTT-4.13.2-1")
@pytest.mark.parametrize(("raw", "code"), _WRONG_PROPERTIES.values(), ids=_WRONG_PROPERTIES.keys())
def test_a_wrong_connect_property(dial: Dial, raw: bytes, code: int) -> None:
    client = dial()
    client.send(encode.connect(client_id="x", props=raw))
    client.expect_refused(code)


@normative("MQTT-3.1.4-1")
@pytest.mark.parametrize(("identifier", "value"), _FOREIGN, ids=[hex(i) for i, _ in _FOREIGN])
def test_a_property_that_connect_does_not_have(dial: Dial, identifier: int, value: p.PropertyValue) -> None:
    client = dial()
    client.send(encode.connect(client_id="x", props=[(identifier, value)]))
    client.expect_refused(MALFORMED)


_WRONG_WILL_PROPERTIES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "will delay twice": (one_property(p.WILL_DELAY, 1) * 2, (PROTOCOL_ERROR,)),
    "payload format twice": (one_property(p.PAYLOAD_FORMAT, 1) * 2, (PROTOCOL_ERROR,)),
    "message expiry twice": (one_property(p.MESSAGE_EXPIRY, 1) * 2, (PROTOCOL_ERROR,)),
    "content type twice": (one_property(p.CONTENT_TYPE, "x") * 2, (PROTOCOL_ERROR,)),
    "response topic twice": (one_property(p.RESPONSE_TOPIC, "x") * 2, (PROTOCOL_ERROR,)),
    "correlation data twice": (one_property(p.CORRELATION_DATA, b"x") * 2, (PROTOCOL_ERROR,)),
    "payload format 2": (one_property(p.PAYLOAD_FORMAT, 2), (MALFORMED, PROTOCOL_ERROR)),
    "response topic with wildcard": (one_property(p.RESPONSE_TOPIC, "a/+"), (MALFORMED, PROTOCOL_ERROR, 0x90)),
    "session expiry": (one_property(p.SESSION_EXPIRY, 1), (MALFORMED,)),
    "topic alias": (one_property(p.TOPIC_ALIAS, 1), (MALFORMED,)),
    "subscription identifier": (one_property(p.SUBSCRIPTION_ID, 1), (MALFORMED,)),
    "content type no UTF-8": (one_property(p.CONTENT_TYPE, b"\xff"), (MALFORMED,)),
    "value cut off": (b"\x18\x00", (MALFORMED,)),
}


@normative("MQTT-3.1.4-1")
@pytest.mark.parametrize(("raw", "codes"), _WRONG_WILL_PROPERTIES.values(), ids=_WRONG_WILL_PROPERTIES.keys())
def test_a_wrong_will_property(dial: Dial, raw: bytes, codes: tuple[int, ...]) -> None:
    client = dial()
    client.send(encode.connect(client_id="x", will=Will("w", b"x", props=raw)))
    client.expect_refused(*codes)


@normative("MQTT-2.2.2-1")
def test_connect_5_without_a_property_length(dial: Dial) -> None:
    client = dial()
    client.send(encode.frame(0x10, encode.text("MQTT") + b"\x05\x02\x00\x3c"))
    client.expect_refused(MALFORMED)


@normative("MQTT-3.1.4-1")
def test_a_property_length_beyond_the_packet(dial: Dial) -> None:
    client = dial()
    client.send(encode.frame(0x10, encode.text("MQTT") + b"\x05\x02\x00\x3c" + b"\x7f" + encode.text("x")))
    client.expect_refused(MALFORMED)


@normative("MQTT-2.1.3-1")
@normative311("MQTT-2.2.2-1", "MQTT-2.2.2-2")
@from_311
@pytest.mark.parametrize("flags", [1, 2, 4, 8, 15])
def test_flags_in_the_fixed_header_of_connect(dial: Dial, version: int, flags: int) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id="x", first_byte=0x10 | flags))
    client.expect_refused(MALFORMED, silence_allowed=True)


@normative("MQTT-1.5.5-1")
def test_a_remaining_length_that_is_not_minimal(dial: Dial) -> None:
    body = encode.connect(client_id="x")[2:]
    client = dial()
    client.send(b"\x10" + encode.varint(len(body), width=2) + body)
    client.expect_refused(MALFORMED, silence_allowed=True)


@normative311("MQTT-4.8.0-1")
@from_311
def test_a_remaining_length_of_five_bytes(dial: Dial, version: int) -> None:
    client = dial(version)
    client.send(b"\x10\x80\x80\x80\x80\x01")
    client.expect_refused(MALFORMED, silence_allowed=True)
