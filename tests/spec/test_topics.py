"""Topic names and filters: what matches, what does not, what is refused."""

from __future__ import annotations

import pytest

from tests.spec.brokers import Address
from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.test_connect_malformed import ill_formed
from tests.spec.versions import every_version, from_311
from tests.wireclient import Client, ConnectionEnded, Disconnect, Suback, encode

#: filter, topics that match, topics that do not; T is replaced by the test's own first level.
MATCHES: list[tuple[str, list[str], list[str]]] = [
    ("T/#", ["T", "T/", "T/a", "T/a/b/c", "T//"], ["Tx", "/T", "t"]),
    ("T/+", ["T/a", "T/", "T/ "], ["T", "T/a/b", "T/a/"]),
    ("T/+/b", ["T/a/b", "T//b"], ["T/b", "T/a/b/c", "T/a/B"]),
    ("T/+/+", ["T/a/b", "T//"], ["T/a", "T/a/b/c"]),
    ("T/+/#", ["T/a", "T/a/b", "T/", "T//"], ["T"]),
    ("T/a/#", ["T/a", "T/a/b"], ["T/b", "T/ab"]),
    ("T//b", ["T//b"], ["T/b", "T/a/b"]),
    ("/T", ["/T"], ["T", "T/", "//T"]),
    ("+/T", ["/T", "a/T"], ["T", "a/b/T", "/a/T"]),
    ("T/", ["T/"], ["T", "T//"]),
    ("T/a b", ["T/a b"], ["T/ab", "T/a  b"]),
    ("T/Aa", ["T/Aa"], ["T/aa", "T/AA"]),
    ("T/\u00e9", ["T/\u00e9"], ["T/e", "T/e\u0301"]),
    ("T/日本/+", ["T/日本/語"], ["T/日本"]),
    ("T/a.b*", ["T/a.b*"], ["T/a.bc", "T/aXb*"]),
    ("T/$x", ["T/$x"], ["T/x"]),
    ("T/+/\U0001f600", ["T/a/\U0001f600"], ["T/a/b"]),
]


@normative("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-4", "MQTT-3.3.2-3")
@normative311("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-4", "MQTT-3.3.2-3")
@from_311
@pytest.mark.parametrize(("pattern", "inside", "outside"), MATCHES, ids=[m[0] for m in MATCHES])
def test_matching(join: Join, cid: str, version: int, pattern: str, inside: list[str], outside: list[str]) -> None:
    client, publisher = join(version), join(version)
    client.subscribe(pattern.replace("T", cid))
    for name in outside:
        publisher.publish(name.replace("T", cid), b"no")
    for name in inside:
        publisher.publish(name.replace("T", cid), b"yes")
        message = client.receive()
        assert (message.topic, message.payload) == (name.replace("T", cid), b"yes")
    client.expect_silence()


@normative("MQTT-4.7.1-1", "MQTT-4.7.2-1")
@normative311("MQTT-4.7.2-1")
@every_version
def test_wildcards_in_front_do_not_match_dollar_topics(join: Join, cid: str, version: int) -> None:
    everything, first_level, explicit = join(version), join(version), join(version)
    everything.subscribe("#")
    first_level.subscribe(f"+/{cid}", f"+/{cid}/#")
    explicit.subscribe("$tests/#")
    join(version).publish(f"$tests/{cid}", b"x")
    first_level.expect_silence()
    assert not [m for m in everything.arrived() if m.topic.startswith("$")]
    assert explicit.receive().topic == f"$tests/{cid}"


@normative("MQTT-4.7.2-1")
@normative311("MQTT-4.7.2-1")
@from_311
def test_wildcards_in_front_get_no_retained_dollar_topics(join: Join, cid: str, version: int) -> None:
    publisher = join(version)
    publisher.publish(f"$tests/{cid}", b"kept", retain=True)
    client = join(version)
    client.subscribe(f"+/{cid}")
    client.expect_silence()
    client.subscribe(f"$tests/{cid}")
    assert client.receive().payload == b"kept"
    publisher.publish(f"$tests/{cid}", retain=True)


BAD_FILTERS = ["", "a/#/b", "a#", "#/a", "a/b#", "a+", "+a", "a/+b/c", "a/b+", "##", "++", "a/##"]
BAD_SHARES = ["$share/", "$share/g", "$share//t", "$share/g/", "$share/a+b/t", "$share/a#/t", "$share/+/t"]


def refuses(client: Client, wrong: str | bytes) -> None:
    """A filter that no specification allows is refused by its code, or ends the connection."""
    client.send(encode.subscribe(client.version, 77, [(wrong, 0)]))
    try:
        answer = client.recv()
    except ConnectionEnded:
        assert client.version < 5
        return
    if isinstance(answer, Suback):
        assert answer.codes == [0x8F if client.version == 5 else 0x80]
        return
    assert isinstance(answer, Disconnect)
    assert answer.code in (0x81, 0x82, 0x8F)
    client.expect_closed()


@normative("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1")
@normative311("MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-1")
@every_version
@pytest.mark.parametrize("wrong", BAD_FILTERS)
def test_a_filter_with_misplaced_wildcards_is_refused(join: Join, version: int, wrong: str) -> None:
    refuses(join(version), wrong)


@normative("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize("wrong", BAD_SHARES)
def test_a_malformed_shared_subscription_is_refused(join: Join, wrong: str) -> None:
    refuses(join(), wrong)


@normative("MQTT-3.8.3-1", "MQTT-4.7.3-2", "MQTT-1.5.4-1", "MQTT-1.5.4-2")
@normative311("MQTT-3.8.3-1", "MQTT-4.7.3-2", "MQTT-1.5.3-1", "MQTT-1.5.3-2")
@every_version
@ill_formed
def test_a_filter_that_is_no_utf8(join: Join, version: int, raw: bytes) -> None:
    client = join(version)
    client.send(encode.subscribe(version, 1, [("fine", 0), (raw, 0)]))
    client.expect_disconnect(0x81)


@normative("MQTT-3.10.3-1", "MQTT-4.7.3-2")
@normative311("MQTT-3.10.3-1", "MQTT-4.7.3-2")
@every_version
@ill_formed
def test_an_unsubscribe_filter_that_is_no_utf8(join: Join, version: int, raw: bytes) -> None:
    client = join(version)
    client.send(encode.unsubscribe(version, 1, ["fine", raw]))
    client.expect_disconnect(0x81)


@normative("MQTT-3.3.2-1", "MQTT-4.7.3-2", "MQTT-1.5.4-1", "MQTT-1.5.4-2")
@normative311("MQTT-3.3.2-1", "MQTT-4.7.3-2", "MQTT-1.5.3-1", "MQTT-1.5.3-2")
@every_version
@ill_formed
def test_a_topic_name_that_is_no_utf8(join: Join, version: int, raw: bytes) -> None:
    client = join(version)
    client.send(encode.publish(version, raw, b"x"))
    client.expect_disconnect(0x81)


@normative("MQTT-3.3.2-2", "MQTT-4.7.0-1")
@normative311("MQTT-3.3.2-2", "MQTT-4.7.1-1")
@every_version
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("name", ["a/+", "#", "+", "a/#", "a#b", "a+b"])
def test_a_topic_name_with_wildcards(join: Join, version: int, name: str, qos: int) -> None:
    client = join(version)
    client.send(encode.publish(version, name, b"x", qos=qos, packet_id=1 if qos else None))
    client.expect_disconnect(0x81, 0x82, 0x90)


@normative311("MQTT-4.7.3-1")
@pytest.mark.parametrize("version", [3, 4])
def test_an_empty_topic_name(join: Join, version: int) -> None:
    client = join(version)
    client.send(encode.publish(version, "", b"x"))
    client.expect_closed()


@normative("MQTT-4.7.3-1")
@from_311
@pytest.mark.parametrize("name", ["/", "//", " ", "a"])
def test_one_character_is_enough(join: Join, version: int, name: str) -> None:
    client = join(version)
    client.subscribe(name)
    client.publish(name, b"x")
    assert client.receive().topic == name


def test_a_topic_with_too_many_levels_is_refused(join: Join, limited: Address) -> None:
    client = join(at=limited, keep_alive=2)
    assert client.subscribe("/".join("abcdefgh")).codes == [0]
    assert client.subscribe("/".join("abcdefghi")).codes == [0x8F]
    client.publish("/".join("abcdefgh"), b"x")
    assert client.receive().payload == b"x"
    client.send(encode.publish(5, "/".join("abcdefghi"), b"x"))
    client.expect_disconnect(0x90)
