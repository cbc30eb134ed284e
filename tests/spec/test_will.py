"""The will: when it is published, when it is not, and as what."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Dial, Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_qos, every_version, from_311
from tests.wireclient import Will, encode
from tests.wireclient import properties as p


@normative("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-14", "MQTT-3.1.2-10")
@normative311("MQTT-3.1.2-8", "MQTT-3.1.2-9", "MQTT-3.1.2-10", "MQTT-3.1.2-16")
@every_version
@every_qos
def test_a_lost_connection_publishes_the_will_once(join: Join, cid: str, topic: str, version: int, qos: int) -> None:
    watcher = join(version)
    watcher.subscribe((topic, 2))
    join(version, cid, will=Will(topic, b"gone", qos=qos)).drop()
    message = watcher.receive()
    assert (message.topic, message.payload, message.qos, message.retain) == (topic, b"gone", qos, False)
    join(version, cid).drop()
    watcher.expect_silence()
    late = join(version)
    late.subscribe(topic)
    late.expect_silence()


@normative("MQTT-3.1.2-15")
@normative311("MQTT-3.1.2-17", "MQTT-3.1.2-9")
@every_version
def test_a_retained_will_is_retained(join: Join, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe((topic, 1))
    join(version, will=Will(topic, b"gone", qos=1, retain=True)).drop()
    assert watcher.receive().payload == b"gone"
    late = join(version)
    late.subscribe((topic, 1))
    message = late.receive()
    assert (message.payload, message.retain, message.qos) == (b"gone", True, 1)
    late.publish(topic, b"", retain=True)


@normative("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
@normative311("MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3")
@every_version
def test_disconnect_discards_the_will(join: Join, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe(topic)
    join(version, will=Will(topic, b"gone", retain=True)).disconnect()
    watcher.expect_silence()
    late = join(version)
    late.subscribe(topic)
    late.expect_silence()


@normative("MQTT-3.1.2-8", "MQTT-3.14.2-1")
@pytest.mark.parametrize("code", [0x04, 0x80, 0x81, 0x93])
def test_disconnect_with_another_reason_publishes_the_will(join: Join, topic: str, code: int) -> None:
    watcher = join()
    watcher.subscribe(topic)
    join(will=Will(topic, b"gone")).disconnect(code)
    assert watcher.receive().payload == b"gone"


@normative("MQTT-3.1.2-8")
@normative311("MQTT-3.1.2-8")
@every_version
def test_an_error_of_the_client_publishes_the_will(join: Join, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe(topic)
    offender = join(version, will=Will(topic, b"gone"))
    offender.send(b"\x00\x00")
    assert watcher.receive().payload == b"gone"


@normative("MQTT-3.1.2-8", "MQTT-3.1.4-3")
@normative311("MQTT-3.1.2-8")
@every_version
def test_takeover_publishes_the_will(join: Join, cid: str, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe(topic)
    join(version, cid, will=Will(topic, b"gone"))
    join(version, cid)
    assert watcher.receive().payload == b"gone"


@normative311("MQTT-3.1.2-12")
@every_version
def test_without_the_flag_there_is_no_will(join: Join, cid: str, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe(topic)
    join(version, cid, will=Will(topic, b"gone")).disconnect()
    join(version, cid).drop()
    watcher.expect_silence()


@normative("MQTT-3.1.3-9", "MQTT-3.1.2-8")
def test_a_return_before_the_delay_prevents_the_will(join: Join, cid: str, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    will = Will(topic, b"gone", props=[(p.WILL_DELAY, 1)])
    kept = [(p.SESSION_EXPIRY, 60)]
    join(5, cid, props=kept, will=will).drop()
    join(5, cid, clean=False, props=kept, will=Will(topic, b"the later will", props=[(p.WILL_DELAY, 1)])).drop()
    # The first will would have come before the second: same delay, begun earlier.
    assert watcher.receive(timeout=4).payload == b"the later will"
    watcher.expect_silence()


@normative("MQTT-3.1.3-9")
def test_takeover_within_the_delay_prevents_the_will(join: Join, cid: str, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    kept = [(p.SESSION_EXPIRY, 60)]
    older = join(5, cid, props=kept, will=Will(topic, b"gone", props=[(p.WILL_DELAY, 1)]))
    join(5, cid, clean=False, props=kept, will=Will(topic, b"the later will", props=[(p.WILL_DELAY, 1)])).drop()
    older.expect_disconnect(0x8E)
    assert watcher.receive(timeout=4).payload == b"the later will"
    watcher.expect_silence()


@normative("MQTT-3.1.2-8")
def test_a_clean_start_ends_the_session_and_so_sends_the_will(join: Join, cid: str, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    will = Will(topic, b"gone", props=[(p.WILL_DELAY, 600)])
    join(5, cid, props=[(p.SESSION_EXPIRY, 600)], will=will).drop()
    watcher.expect_silence()
    join(5, cid, clean=True)
    assert watcher.receive().payload == b"gone"


@normative("MQTT-3.1.2-8")
def test_without_session_expiry_the_delay_is_void(join: Join, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    join(will=Will(topic, b"gone", props=[(p.WILL_DELAY, 600)])).drop()
    assert watcher.receive().payload == b"gone"


@normative("MQTT-3.1.3-10", "MQTT-3.1.2-7")
def test_will_properties_are_published_in_order(join: Join, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    users: list[tuple[int, p.PropertyValue]] = [
        (p.USER_PROPERTY, pair) for pair in [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("a", "0")]
    ]
    props: list[tuple[int, p.PropertyValue]] = [
        (p.PAYLOAD_FORMAT, 1),
        (p.CONTENT_TYPE, "text/plain"),
        (p.RESPONSE_TOPIC, "answers/here"),
        (p.CORRELATION_DATA, b"\x00\x01\xff"),
        (p.MESSAGE_EXPIRY, 1000),
        *users,
    ]
    join(will=Will(topic, b"gone", props=props)).drop()
    message = watcher.receive()
    assert [pair for pair in message.props if pair[0] == p.USER_PROPERTY] == users
    assert message.value(p.PAYLOAD_FORMAT) == 1
    assert message.value(p.CONTENT_TYPE) == "text/plain"
    assert message.value(p.RESPONSE_TOPIC) == "answers/here"
    assert message.value(p.CORRELATION_DATA) == b"\x00\x01\xff"
    assert message.value(p.MESSAGE_EXPIRY) in (1000, 999)
    assert message.value(p.WILL_DELAY) is None


@normative("MQTT-3.1.3-1", "MQTT-3.1.2-9", "MQTT-3.1.2-17", "MQTT-3.1.2-19")
@normative311("MQTT-3.1.3-1", "MQTT-3.1.2-9", "MQTT-3.1.2-19", "MQTT-3.1.2-21")
@every_version
def test_all_fields_of_connect_are_told_apart(join: Join, cid: str, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe((topic, 2))
    will = Will(topic, b"the will \x00\xff", qos=2, props=[(p.CONTENT_TYPE, "x")] if version == 5 else [])
    kept: list[tuple[int, p.PropertyValue]] = [(p.SESSION_EXPIRY, 60)] if version == 5 else []
    everything = join(version, cid, clean=False, props=kept, will=will, username="a name", password=b"a \x00 password")
    everything.drop()
    message = watcher.receive()
    assert (message.topic, message.payload, message.qos) == (topic, b"the will \x00\xff", 2)
    assert message.value(p.CONTENT_TYPE) == ("x" if version == 5 else None)


@normative("MQTT-3.1.2-8", "MQTT-4.5.0-1")
@normative311("MQTT-3.1.2-8", "MQTT-4.5.0-1")
@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_a_will_waits_for_subscribers_that_are_away(join: Join, cid: str, topic: str, version: int, qos: int) -> None:
    kept: list[tuple[int, p.PropertyValue]] = [(p.SESSION_EXPIRY, 60)] if version == 5 else []
    watcher = join(version, cid, clean=False, props=kept)
    watcher.subscribe((topic, 2))
    watcher.drop()
    join(version, will=Will(topic, b"gone", qos=qos)).drop()
    message = join(version, cid, clean=False, props=kept).receive()
    assert (message.payload, message.qos) == (b"gone", qos)


@every_version
def test_an_empty_will_is_published(join: Join, topic: str, version: int) -> None:
    watcher = join(version)
    watcher.subscribe(topic)
    join(version, will=Will(topic, b"")).drop()
    assert watcher.receive().payload == b""


@normative("MQTT-3.1.2-7")
@normative311("MQTT-3.1.2-8")
@from_311
def test_a_refused_connect_leaves_no_will(dial: Dial, join: Join, topic: str, version: int) -> None:
    watcher = join()
    watcher.subscribe(topic)
    refused = dial(version)
    refused.send(encode.connect(version, client_id="x", flags=0x07, tail=encode.text(topic) + encode.text("no")))
    refused.drop()
    watcher.expect_silence()


@every_version
def test_a_client_may_watch_its_own_will_topic(join: Join, cid: str, topic: str, version: int) -> None:
    kept: list[tuple[int, p.PropertyValue]] = [(p.SESSION_EXPIRY, 60)] if version == 5 else []
    client = join(version, cid, clean=False, props=kept, will=Will(topic, b"own", qos=1))
    client.subscribe((topic, 1))
    client.drop()
    assert join(version, cid, clean=False, props=kept).receive().payload == b"own"
