"""CONNECT and CONNACK as they should be."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Callable

import pytest

from tests.spec.brokers import Address
from tests.spec.conftest import Dial, Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import before_5, every_version, from_311
from tests.wireclient import Connack, ConnectionEnded, Disconnect, Pingresp, Will, doors, encode
from tests.wireclient import properties as p


@normative("MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-8", "MQTT-3.1.2-6")
@normative311("MQTT-3.1.4-4", "MQTT-3.2.0-1", "MQTT-3.2.2-1", "MQTT-3.2.2-3", "MQTT-7.1.1-1")
@every_version
@pytest.mark.parametrize("clean", [True, False])
def test_a_new_client_gets_connack_0_without_session(dial: Dial, cid: str, version: int, clean: bool) -> None:
    connack = dial(version).connect(cid, clean=clean)
    assert (connack.code, connack.session_present) == (0, False)


@normative("MQTT-3.1.3-5", "MQTT-3.1.3-3")
@normative311("MQTT-3.1.3-5", "MQTT-3.1.3-3")
@every_version
@pytest.mark.parametrize(
    "client_id", ["a", "Z", "0", "0123456789abcdefghijklm", "NOPQRSTUVWXYZ", "ABCDEFGHIJKLMnopqrstuv"]
)
def test_short_alphanumeric_client_ids_are_allowed(dial: Dial, version: int, client_id: str) -> None:
    assert set(client_id) <= set(string.ascii_letters + string.digits)
    assert dial(version).connect(client_id).code == 0


@every_version
def test_long_and_odd_client_ids_are_allowed(dial: Dial, cid: str, version: int) -> None:
    for odd in (cid + "x" * 100, cid + "/+#$ ", cid + "ünïcødé-日本"):
        assert dial(version).connect(odd).code == 0


@normative("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
@pytest.mark.parametrize("clean", [True, False])
def test_an_empty_client_id_gets_a_unique_one(dial: Dial, clean: bool) -> None:
    first, second = dial(), dial()
    given = [c.connect("", clean=clean).value(p.ASSIGNED_CLIENT_ID) for c in (first, second)]
    assert all(isinstance(g, str) and g for g in given)
    assert given[0] != given[1]
    first.ping()


@normative("MQTT-3.1.3-7", "MQTT-3.1.2-23")
def test_the_assigned_client_id_names_the_session(dial: Dial) -> None:
    first = dial()
    given = first.connect("", clean=False, props=[(p.SESSION_EXPIRY, 60)]).value(p.ASSIGNED_CLIENT_ID)
    assert isinstance(given, str)
    first.disconnect()
    assert dial().connect(given, clean=False).session_present


@normative("MQTT-3.2.2-16")
def test_a_given_client_id_is_not_assigned(join: Join) -> None:
    client = join()
    assert client.connack is not None
    assert client.connack.value(p.ASSIGNED_CLIENT_ID) is None


@normative311("MQTT-3.1.3-6")
def test_311_an_empty_client_id_with_clean_session_is_accepted(dial: Dial, topic: str) -> None:
    first, second = dial(4), dial(4)
    assert first.connect("").code == 0
    assert second.connect("").code == 0
    first.subscribe(topic)
    second.publish(topic, b"both live")
    assert first.receive().payload == b"both live"


@normative311("MQTT-3.1.3-8", "MQTT-3.1.3-7", "MQTT-3.1.3-9", "MQTT-3.2.2-4", "MQTT-3.2.2-5")
def test_311_an_empty_client_id_without_clean_session_is_rejected(dial: Dial) -> None:
    client = dial(4)
    connack = client.connect("", clean=False)
    assert (connack.code, connack.session_present) == (2, False)
    client.expect_closed()


@pytest.mark.parametrize("clean", [True, False])
def test_31_an_empty_client_id_is_rejected(dial: Dial, clean: bool) -> None:
    client = dial(3)
    assert client.connect("", clean=clean).code == 2
    client.expect_closed()


@normative("MQTT-3.1.0-2", "MQTT-3.2.0-2", "MQTT-4.13.1-1")
@normative311("MQTT-3.1.0-2", "MQTT-4.8.0-1")
@every_version
def test_a_second_connect_ends_the_connection(join: Join, version: int) -> None:
    client = join(version)
    client.send(encode.connect(version, client_id=client.client_id))
    client.expect_disconnect(0x82)


_BEFORE_CONNECT = {
    "PUBLISH": encode.publish(5, "t", b"x"),
    "PUBACK": encode.ack(5, encode.PUBACK, 1),
    "PUBREC": encode.ack(5, encode.PUBREC, 1),
    "PUBREL": encode.ack(5, encode.PUBREL, 1),
    "PUBCOMP": encode.ack(5, encode.PUBCOMP, 1),
    "SUBSCRIBE": encode.subscribe(5, 1, [("t", 0)]),
    "UNSUBSCRIBE": encode.unsubscribe(5, 1, ["t"]),
    "PINGREQ": encode.PINGREQ,
    "DISCONNECT": encode.disconnect(5),
    "AUTH": encode.auth(0x18, [(p.AUTH_METHOD, "x")]),
    "type 0": b"\x00\x00",
    "CONNACK": b"\x20\x03\x00\x00\x00",
}


@normative("MQTT-3.1.0-1", "MQTT-3.14.0-1")
@normative311("MQTT-3.1.0-1")
@pytest.mark.parametrize("wire", _BEFORE_CONNECT.values(), ids=_BEFORE_CONNECT.keys())
def test_whatever_comes_before_connect_ends_the_connection(dial: Dial, wire: bytes) -> None:
    client = dial()
    client.send(wire)
    client.expect_closed()


#: Which form a client understands that speaks neither version nobody knows: both are allowed.
_UNACCEPTABLE_VERSION = (b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00")


def _answer(address: Address, wire: bytes) -> bytes:
    with contextlib.closing(doors.enter(address, 5)) as s:
        s.sendall(wire)
        got = b""
        while chunk := s.recv(100):
            got += chunk
        return got


@normative("MQTT-3.1.2-1", "MQTT-3.1.4-1")
@normative311("MQTT-3.1.2-1", "MQTT-3.2.2-6")
@from_311
@pytest.mark.parametrize("name", ["MQTX", "mqtt", "MQT", "MQTTT", "", "HTTP", "MQIsdp"])
def test_a_wrong_protocol_name_is_refused(broker: Address, version: int, name: str) -> None:
    wire = encode.connect(version, client_id="x", name=name)
    assert _answer(broker, wire) in (b"", *_UNACCEPTABLE_VERSION)


@normative("MQTT-3.1.2-2")
@normative311("MQTT-3.1.2-2")
@pytest.mark.parametrize("level", [0, 1, 2, 3, 6, 7, 0x7F])
def test_an_unknown_protocol_level_is_refused(broker: Address, level: int) -> None:
    assert _answer(broker, encode.connect(4, client_id="x", level=level)) in _UNACCEPTABLE_VERSION


@normative("MQTT-3.1.4-3", "MQTT-3.1.3-2")
@normative311("MQTT-3.1.4-2", "MQTT-3.1.3-2")
@every_version
def test_takeover_ends_the_older_connection(join: Join, cid: str, version: int) -> None:
    older = join(version, cid)
    newer = join(version, cid)
    older.expect_disconnect(0x8E)
    newer.ping()


@normative("MQTT-3.1.4-3")
@normative311("MQTT-3.1.4-2")
def test_takeover_crosses_versions(join: Join, cid: str) -> None:
    versions = [5, 4, 5, 3]
    holders = [join(v, cid) for v in versions]
    for older in holders[:-1]:
        older.expect_disconnect(0x8E)
    holders[-1].ping()


@normative("MQTT-3.1.4-3", "MQTT-3.1.2-5")
@normative311("MQTT-3.1.4-2", "MQTT-3.1.2-4")
@every_version
def test_takeover_keeps_the_session(join: Join, cid: str, topic: str, version: int) -> None:
    props = [(p.SESSION_EXPIRY, 60)] if version == 5 else []
    older = join(version, cid, clean=False, props=props)
    older.subscribe((topic, 1))
    newer = join(version, cid, clean=False, props=props)
    join().publish(topic, b"for the newer", qos=1)
    assert newer.receive().payload == b"for the newer"


@normative("MQTT-4.12.0-6", "MQTT-4.12.0-7")
def test_without_a_method_in_connect_connack_has_none(join: Join) -> None:
    client = join()
    assert client.connack is not None
    assert client.connack.value(p.AUTH_METHOD) is None
    assert client.connack.value(p.AUTH_DATA) is None


@normative("MQTT-4.12.0-1", "MQTT-4.12.0-4", "MQTT-3.2.2-7", "MQTT-3.2.2-6", "MQTT-4.13.2-1")
def test_an_unknown_authentication_method_is_refused(dial: Dial, cid: str) -> None:
    client = dial()
    assert client.connect(cid, props=[(p.AUTH_METHOD, "NO-SUCH-METHOD"), (p.AUTH_DATA, b"x")]).code in (0x8C, 0x87)
    client.expect_closed()


@normative("MQTT-3.1.4-2", "MQTT-3.2.2-7", "MQTT-3.2.2-6", "MQTT-4.13.2-1")
@normative311("MQTT-3.2.2-4", "MQTT-3.2.2-5")
@every_version
def test_a_client_without_permission_is_refused(dial: Dial, guarded: Address, cid: str, version: int) -> None:
    client = dial(version, at=guarded)
    connack = client.connect(cid)
    assert connack.code in ((0x86, 0x87) if version == 5 else (4, 5))
    assert not connack.session_present
    client.expect_closed()


@normative("MQTT-3.1.4-6", "MQTT-3.1.2-30")
@normative311("MQTT-3.1.4-5")
@before_5
def test_nothing_after_a_rejected_connect_is_processed(dial: Dial, join: Join, topic: str, version: int) -> None:
    watcher = join(4)
    watcher.subscribe(topic)
    for rejected in (dial(version), dial(5)):
        bad = (
            encode.connect(5, client_id="x", props=[(p.AUTH_METHOD, "NO-SUCH-METHOD")])
            if rejected.version == 5
            else encode.connect(rejected.version, client_id="", clean=False)
        )
        rejected.send(bad, encode.publish(rejected.version, topic, b"must not pass"))
        assert rejected.expect(Connack).code != 0
        rejected.expect_closed()
    watcher.expect_silence()


@normative("MQTT-3.1.4-5")
@normative311("MQTT-3.1.4-4")
@every_version
def test_packets_may_follow_connect_at_once(dial: Dial, cid: str, version: int) -> None:
    client = dial(version)
    client.send(encode.connect(version, client_id=cid), encode.PINGREQ)
    client.expect(Connack)
    client.expect(Pingresp)


@normative("MQTT-4.2-1")
@normative311("MQTT-7.1.1-1")
@every_version
def test_packets_arrive_whole_however_they_are_cut(dial: Dial, cid: str, topic: str, version: int) -> None:
    client = dial(version)
    everything = (
        encode.connect(version, client_id=cid)
        + encode.subscribe(version, 1, [(topic, 0)])
        + encode.publish(version, topic, b"cut")
    )
    for byte in everything:
        client.send(bytes([byte]))
    client.expect(Connack)
    client.recv()
    assert client.receive().payload == b"cut"


@normative("MQTT-3.1.2-28")
@pytest.mark.parametrize("props", [[], [(p.REQUEST_RESPONSE_INFO, 0)]], ids=["absent", "0"])
def test_no_response_information_unless_asked(
    join: Join, limited: Address, props: list[tuple[int, p.PropertyValue]]
) -> None:
    client = join(at=limited, props=props)
    assert client.connack is not None
    assert client.connack.value(p.RESPONSE_INFO) is None


def test_response_information_when_asked(join: Join, limited: Address) -> None:
    client = join(at=limited, props=[(p.REQUEST_RESPONSE_INFO, 1)])
    assert client.connack is not None
    information = client.connack.value(p.RESPONSE_INFO)
    assert isinstance(information, str)
    assert information.startswith("answers/")


@normative("MQTT-3.2.2-19", "MQTT-3.2.2-20", "MQTT-3.1.2-24")
def test_an_error_connack_fits_the_maximum_packet_size(dial: Dial, cid: str) -> None:
    client = dial()
    props: list[tuple[int, p.PropertyValue]] = [(p.MAXIMUM_PACKET_SIZE, 8), (p.AUTH_METHOD, "NO-SUCH-METHOD")]
    assert client.connect(cid, props=props).code >= 0x80
    assert client.last_size <= 8


@normative("MQTT-3.1.2-24")
@pytest.mark.parametrize("maximum", [1, 4, 5, 8, 12, 16, 20, 30])
def test_connack_fits_the_maximum_packet_size_or_is_not_sent(dial: Dial, cid: str, maximum: int) -> None:
    client = dial()
    try:
        client.connect(cid, props=[(p.MAXIMUM_PACKET_SIZE, maximum)])
    except ConnectionEnded:
        return
    assert client.last_size <= maximum


@normative("MQTT-3.1.3-8", "MQTT-3.2.2-7")
@normative311("MQTT-3.1.3-9", "MQTT-3.2.2-5")
@every_version
def test_a_client_id_above_the_limit_is_rejected(dial: Dial, limited: Address, version: int) -> None:
    client = dial(version, at=limited)
    assert client.connect("x" * 65).code == (0x85 if version == 5 else 2)
    client.expect_closed()
    assert dial(version, at=limited).connect("x" * 64).code == 0


def test_who_says_nothing_is_sent_away(dial: Dial, limited: Address) -> None:
    dial(at=limited).expect_closed(timeout=4)


def test_every_connect_property_is_accepted(join: Join, unique: Callable[[str], str]) -> None:
    will = Will(
        unique("t/"),
        b"x",
        qos=2,
        retain=False,
        props=[
            (p.WILL_DELAY, 1),
            (p.PAYLOAD_FORMAT, 1),
            (p.MESSAGE_EXPIRY, 1),
            (p.CONTENT_TYPE, "text"),
            (p.RESPONSE_TOPIC, "answer"),
            (p.CORRELATION_DATA, b"\x00\xff"),
            (p.USER_PROPERTY, ("a", "1")),
            (p.USER_PROPERTY, ("a", "1")),
        ],
    )
    client = join(
        props=[
            (p.SESSION_EXPIRY, 0),
            (p.RECEIVE_MAXIMUM, 1),
            (p.MAXIMUM_PACKET_SIZE, 0xFFFFFFFF),
            (p.TOPIC_ALIAS_MAXIMUM, 0xFFFF),
            (p.REQUEST_RESPONSE_INFO, 0),
            (p.REQUEST_PROBLEM_INFO, 1),
            (p.USER_PROPERTY, ("k", "v")),
            (p.USER_PROPERTY, ("k", "w")),
        ],
        will=will,
        username="u",
        password=b"\x00p",
    )
    client.ping()


@every_version
@pytest.mark.parametrize("password", [None, b"", b"\x00\xff" * 1000], ids=["none", "empty", "binary"])
@pytest.mark.parametrize("username", ["", "name", "ünï"], ids=["empty", "ascii", "unicode"])
def test_user_names_and_passwords_are_accepted(join: Join, version: int, username: str, password: bytes | None) -> None:
    join(version, username=username, password=password).ping()


@normative("MQTT-3.1.2-16", "MQTT-3.1.2-18")
def test_a_password_without_a_user_name_is_allowed_in_5(join: Join) -> None:
    join(5, password=b"only").ping()


@normative("MQTT-3.12.4-1")
@normative311("MQTT-3.12.4-1")
@every_version
def test_each_pingreq_gets_a_pingresp(join: Join, version: int) -> None:
    client = join(version)
    client.send(encode.PINGREQ * 3)
    for _ in range(3):
        client.expect(Pingresp)


@normative("MQTT-3.14.4-2", "MQTT-3.14.4-1")
@every_version
def test_the_server_closes_after_disconnect(join: Join, version: int) -> None:
    client = join(version)
    client.send(encode.disconnect(version))
    client.expect_closed()


def test_the_server_sends_no_disconnect_of_its_own_to_older_versions(join: Join, cid: str) -> None:
    older = join(4, cid)
    join(4, cid)
    older.expect_closed()
    newer = join(5, cid)
    join(5, cid)
    assert newer.expect(Disconnect).code == 0x8E
