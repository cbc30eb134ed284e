"""Fields, properties and reason codes that break the rules: the right reason, then the end."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version
from tests.wireclient import Publish, encode
from tests.wireclient import properties as p
from tests.wireclient.encode import one_property, text

MALFORMED, PROTOCOL_ERROR = 0x81, 0x82


# --- SUBSCRIBE options and properties --------------------------------------------------------------------------


@normative("MQTT-3.8.3-5")
@pytest.mark.parametrize("options", [0x40, 0x80, 0xC0, 0xFF])
def test_reserved_subscription_option_bits(join: Join, topic: str, options: int) -> None:
    client = join()
    client.send(encode.subscribe(5, 1, [(topic, options)]))
    client.expect_disconnect(MALFORMED)


@normative("MQTT-3.8.3-5", "MQTT-4.13.1-1")
@pytest.mark.parametrize("options", [0x03, 0x30], ids=["QoS 3", "retain handling 3"])
def test_subscription_options_of_3(join: Join, topic: str, options: int) -> None:
    client = join()
    client.send(encode.subscribe(5, 1, [(topic, options)]))
    client.expect_disconnect(PROTOCOL_ERROR)


@normative311("MQTT-3.8.3-4")
@pytest.mark.parametrize("options", [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80])
def test_311_reserved_bits_and_qos_3_in_subscribe(join: Join, topic: str, options: int) -> None:
    client = join(4)
    client.send(encode.subscribe(4, 1, [(topic, options)]))
    client.expect_closed()


_WRONG_SUBSCRIBE_PROPERTIES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "identifier 0": (b"\x0b\x00", (PROTOCOL_ERROR,)),
    "identifier twice": (b"\x0b\x01\x0b\x02", (PROTOCOL_ERROR,)),
    "identifier of five bytes": (b"\x0b\xff\xff\xff\xff\x01", (MALFORMED,)),
    "topic alias": (one_property(p.TOPIC_ALIAS, 1), (MALFORMED,)),
    "session expiry": (one_property(p.SESSION_EXPIRY, 1), (MALFORMED,)),
    "reason string": (one_property(p.REASON_STRING, "x"), (MALFORMED,)),
    "unknown": (b"\x7e\x01", (MALFORMED,)),
    "user property no UTF-8": (b"\x26" + text(b"\xff") + text("v"), (MALFORMED,)),
}


@normative("MQTT-4.13.1-1", "MQTT-1.5.7-1")
@pytest.mark.parametrize(("raw", "codes"), _WRONG_SUBSCRIBE_PROPERTIES.values(), ids=_WRONG_SUBSCRIBE_PROPERTIES.keys())
def test_wrong_subscribe_properties(join: Join, topic: str, raw: bytes, codes: tuple[int, ...]) -> None:
    client = join()
    client.send(encode.subscribe(5, 1, [(topic, 0)], props=raw))
    client.expect_disconnect(*codes)


@normative("MQTT-4.13.1-1")
@pytest.mark.parametrize("raw", [b"\x0b\x01", one_property(p.REASON_STRING, "x"), b"\x7e\x01"])
def test_wrong_unsubscribe_properties(join: Join, topic: str, raw: bytes) -> None:
    client = join()
    client.send(encode.unsubscribe(5, 1, [topic], props=raw))
    client.expect_disconnect(MALFORMED)


# --- PUBLISH properties ----------------------------------------------------------------------------------------

_WRONG_PUBLISH_PROPERTIES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "payload format 2": (one_property(p.PAYLOAD_FORMAT, 2), (MALFORMED, PROTOCOL_ERROR)),
    "response topic with +": (one_property(p.RESPONSE_TOPIC, "a/+"), (MALFORMED, PROTOCOL_ERROR, 0x90)),
    "response topic with #": (one_property(p.RESPONSE_TOPIC, "#"), (MALFORMED, PROTOCOL_ERROR, 0x90)),
    "response topic no UTF-8": (one_property(p.RESPONSE_TOPIC, b"a\xff"), (MALFORMED,)),
    "response topic with null": (one_property(p.RESPONSE_TOPIC, b"a\x00"), (MALFORMED,)),
    "content type no UTF-8": (one_property(p.CONTENT_TYPE, b"\xed\xb0\x80"), (MALFORMED,)),
    "user property no UTF-8": (b"\x26" + text("k") + text(b"\xc3"), (MALFORMED,)),
    "subscription identifier": (one_property(p.SUBSCRIPTION_ID, 1), (PROTOCOL_ERROR,)),
    "session expiry": (one_property(p.SESSION_EXPIRY, 1), (MALFORMED,)),
    "reason string": (one_property(p.REASON_STRING, "x"), (MALFORMED,)),
    "will delay": (one_property(p.WILL_DELAY, 1), (MALFORMED,)),
    "unknown": (b"\x7e\x01", (MALFORMED,)),
    "cut off": (b"\x02\x00\x00", (MALFORMED,)),
    "expiry twice": (one_property(p.MESSAGE_EXPIRY, 1) * 2, (PROTOCOL_ERROR,)),
    "payload format twice": (one_property(p.PAYLOAD_FORMAT, 1) * 2, (PROTOCOL_ERROR,)),
    "topic alias twice": (one_property(p.TOPIC_ALIAS, 1) * 2, (PROTOCOL_ERROR,)),
    "response topic twice": (one_property(p.RESPONSE_TOPIC, "x") * 2, (PROTOCOL_ERROR,)),
    "correlation data twice": (one_property(p.CORRELATION_DATA, b"x") * 2, (PROTOCOL_ERROR,)),
    "content type twice": (one_property(p.CONTENT_TYPE, "x") * 2, (PROTOCOL_ERROR,)),
}


@normative("MQTT-3.3.2-14", "MQTT-3.3.2-13", "MQTT-3.3.2-19", "MQTT-3.3.4-6", "MQTT-1.5.7-1", "MQTT-4.13.2-1")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(("raw", "codes"), _WRONG_PUBLISH_PROPERTIES.values(), ids=_WRONG_PUBLISH_PROPERTIES.keys())
def test_wrong_publish_properties(join: Join, topic: str, qos: int, raw: bytes, codes: tuple[int, ...]) -> None:
    client = join()
    client.send(encode.publish(5, topic, b"x", qos=qos, packet_id=1 if qos else None, props=raw))
    client.expect_disconnect(*codes)


# --- acknowledgements, DISCONNECT, AUTH ------------------------------------------------------------------------


@normative("MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1")
@pytest.mark.parametrize(
    ("first", "code"),
    [(0x40, 0x01), (0x40, 0x92), (0x50, 0x02), (0x50, 0xFF), (0x62, 0x80), (0x62, 0x10), (0x70, 0x01), (0x70, 0x97)],
)
def test_reason_codes_of_other_packets(join: Join, topic: str, first: int, code: int) -> None:
    client = join()
    client.subscribe((topic, 2))
    client.publish(topic, b"x", qos=1 if first == 0x40 else 2)
    message = client.expect(Publish)
    if first == 0x70:
        client.send(encode.ack(5, encode.PUBREC, message.packet_id))
        client.expect_ack("PUBREL")
    client.send(encode.ack(5, first, message.packet_id, code))
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)


@normative("MQTT-4.13.1-1")
@pytest.mark.parametrize("first", [0x40, 0x50, 0x62, 0x70])
@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (one_property(p.TOPIC_ALIAS, 1), MALFORMED),
        (one_property(p.REASON_STRING, "x") * 2, PROTOCOL_ERROR),
        (one_property(p.REASON_STRING, b"\xff"), MALFORMED),
    ],
    ids=["foreign", "twice", "no UTF-8"],
)
def test_wrong_properties_of_acknowledgements(join: Join, first: int, raw: bytes, code: int) -> None:
    client = join()
    client.send(encode.ack(5, first, 1, 0, raw))
    client.expect_disconnect(code)


@normative("MQTT-3.14.2-1", "MQTT-4.13.1-1")
@pytest.mark.parametrize(
    ("wire", "codes"),
    [
        (encode.disconnect(5, 0x03), (MALFORMED, PROTOCOL_ERROR)),
        (encode.disconnect(5, 0xFF), (MALFORMED, PROTOCOL_ERROR)),
        (encode.disconnect(5, 0, one_property(p.TOPIC_ALIAS, 1)), (MALFORMED,)),
        (encode.disconnect(5, 0, one_property(p.REASON_STRING, "x") * 2), (PROTOCOL_ERROR,)),
        (encode.disconnect(5, 0, one_property(p.SESSION_EXPIRY, 0) * 2), (PROTOCOL_ERROR,)),
        (encode.disconnect(5, 0, one_property(p.REASON_STRING, b"\xff")), (MALFORMED,)),
    ],
    ids=["reason 3", "reason 255", "foreign property", "reason string twice", "expiry twice", "no UTF-8"],
)
def test_wrong_disconnects(join: Join, wire: bytes, codes: tuple[int, ...]) -> None:
    client = join()
    client.send(wire)
    client.expect_disconnect(*codes)


@normative("MQTT-4.12.0-7", "MQTT-4.12.1-1", "MQTT-3.15.2-1")
@pytest.mark.parametrize(
    "wire",
    [
        encode.auth(0x18, [(p.AUTH_METHOD, "x")]),
        encode.auth(0x19, [(p.AUTH_METHOD, "x"), (p.AUTH_DATA, b"y")]),
        encode.auth(),
    ],
    ids=["continue", "re-authenticate", "short"],
)
def test_auth_without_a_method_in_connect(join: Join, wire: bytes) -> None:
    client = join()
    client.send(wire)
    client.expect_disconnect(PROTOCOL_ERROR)


@normative("MQTT-3.15.1-1")
@pytest.mark.parametrize("flags", [1, 2, 8, 15])
def test_reserved_flags_of_auth(join: Join, flags: int) -> None:
    client = join()
    client.send(encode.auth(0x19, [(p.AUTH_METHOD, "x")], first_byte=0xF0 | flags))
    client.expect_disconnect(MALFORMED)


@normative("MQTT-3.14.4-1", "MQTT-3.14.4-2")
@normative311("MQTT-3.14.4-1", "MQTT-3.14.4-2")
@every_version
def test_nothing_after_disconnect_is_processed(join: Join, topic: str, version: int) -> None:
    watcher, client = join(version), join(version)
    watcher.subscribe(topic)
    client.send(encode.disconnect(version), encode.publish(version, topic, b"too late"), encode.PINGREQ)
    client.expect_closed()
    watcher.expect_silence()


@normative("MQTT-4.13.1-1", "MQTT-3.14.4-1")
@normative311("MQTT-4.8.0-1")
@every_version
def test_nothing_after_an_error_is_processed(join: Join, topic: str, version: int) -> None:
    watcher, client = join(version), join(version)
    watcher.subscribe(topic)
    client.send(b"\x00\x00", encode.publish(version, topic, b"too late"), encode.PINGREQ)
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)
    watcher.expect_silence()


@normative("MQTT-3.14.2-2", "MQTT-3.14.2-1")
def test_a_disconnect_of_the_server_has_no_session_expiry(join: Join) -> None:
    client = join(props=[(p.SESSION_EXPIRY, 60)])
    # The wire client refuses a DISCONNECT with properties or reasons that a server may not send.
    client.send(b"\x00\x00")
    client.expect_disconnect(MALFORMED, PROTOCOL_ERROR)


@normative("MQTT-3.1.2-29")
def test_without_problem_information_there_are_no_reason_strings(join: Join, topic: str) -> None:
    client = join(props=[(p.REQUEST_PROBLEM_INFO, 0)])
    assert client.subscribe(topic).props == []
    assert client.unsubscribe("never/subscribed").props == []
    for wire, answer in (
        (encode.publish(5, "no/body/here", b"", qos=1, packet_id=1), "PUBACK"),
        (encode.ack(5, encode.PUBREC, 77), "PUBREL"),
        (encode.ack(5, encode.PUBREL, 78), "PUBCOMP"),
        (encode.publish(5, "no/body/here", b"", qos=2, packet_id=2), "PUBREC"),
    ):
        client.send(wire)
        got = client.recv()
        assert getattr(got, "kind", "") == answer
        assert got.props == []  # type: ignore[union-attr]
    # What others publish keeps its user properties.
    join().publish(topic, b"x", props=[(p.USER_PROPERTY, ("k", "v"))])
    assert client.receive().values(p.USER_PROPERTY) == [("k", "v")]
