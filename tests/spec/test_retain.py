"""Retained messages in all their forms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_qos, every_version
from tests.wireclient import Publish
from tests.wireclient import properties as p

RETAIN_AS_PUBLISHED = 0x08
HANDLING_1, HANDLING_2 = 0x10, 0x20


@pytest.fixture
def kept(join: Join, topic: str) -> Iterator[str]:
    """A topic with the retained message b"kept" of QoS 1."""
    publisher = join()
    publisher.publish(topic, b"kept", qos=1, retain=True)
    yield topic
    publisher.publish(topic, retain=True)


@normative("MQTT-3.3.1-5", "MQTT-3.3.1-9")
@normative311("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-8")
@every_version
@every_qos
def test_new_subscribers_get_the_retained_message(join: Join, topic: str, version: int, qos: int) -> None:
    publisher, subscriber = join(version), join(version)
    publisher.publish(topic, b"old", qos=qos, retain=True)
    publisher.publish(topic, b"kept", qos=qos, retain=True)
    subscriber.subscribe((topic, 2))
    message = subscriber.receive()
    assert (message.payload, message.retain, message.qos, message.dup) == (b"kept", True, qos, False)
    subscriber.expect_silence()
    publisher.publish(topic, retain=True)


@normative311("MQTT-3.3.1-7")
@every_version
def test_a_retained_qos_0_message_replaces_what_was_there(join: Join, topic: str, version: int) -> None:
    publisher, subscriber = join(version), join(version)
    publisher.publish(topic, b"old", qos=2, retain=True)
    publisher.publish(topic, b"new", qos=0, retain=True)
    subscriber.subscribe((topic, 2))
    message = subscriber.receive()
    assert (message.payload, message.qos) == (b"new", 0)
    publisher.publish(topic, retain=True)


@normative("MQTT-3.3.1-6", "MQTT-3.3.1-7")
@normative311("MQTT-3.3.1-10", "MQTT-3.3.1-11")
@every_version
@every_qos
def test_an_empty_retained_message_removes_and_is_delivered(join: Join, topic: str, version: int, qos: int) -> None:
    publisher, watcher, late = join(version), join(version), join(version)
    publisher.publish(topic, b"kept", qos=qos, retain=True)
    watcher.subscribe((topic, 2))
    assert watcher.receive().payload == b"kept"
    publisher.publish(topic, b"", qos=qos, retain=True)
    message = watcher.receive()
    assert (message.payload, message.retain) == (b"", False)
    late.subscribe((topic, 2))
    late.expect_silence()


@normative("MQTT-3.3.1-8")
@normative311("MQTT-3.3.1-12")
@every_version
def test_a_message_without_retain_changes_nothing(join: Join, kept: str, version: int) -> None:
    publisher = join(version)
    publisher.publish(kept, b"passing")
    publisher.publish(kept, b"")
    publisher.publish(kept + "/other", b"passing")
    subscriber = join(version)
    subscriber.subscribe(kept + "/#")
    assert subscriber.receive().payload == b"kept"
    subscriber.expect_silence()


@normative("MQTT-3.3.1-12")
@normative311("MQTT-3.3.1-9")
@every_version
def test_established_subscriptions_get_retain_0(join: Join, topic: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe(topic)
    publisher.publish(topic, b"kept", retain=True)
    assert not subscriber.receive().retain
    publisher.publish(topic, retain=True)


@normative("MQTT-3.3.1-13")
@pytest.mark.parametrize("retain", [False, True])
def test_retain_as_published(join: Join, topic: str, retain: bool) -> None:
    as_published, plain, publisher = join(), join(), join()
    as_published.subscribe((topic, RETAIN_AS_PUBLISHED))
    plain.subscribe(topic)
    publisher.publish(topic, b"x", retain=retain)
    assert as_published.receive().retain is retain
    assert plain.receive().retain is False
    publisher.publish(topic, retain=True)


@normative("MQTT-3.3.1-13", "MQTT-3.3.1-12")
def test_retain_as_published_holds_for_clients_that_are_away(join: Join, cid: str, topic: str) -> None:
    away = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    away.subscribe((topic, RETAIN_AS_PUBLISHED | 1), (topic + "/plain", 1))
    away.drop()
    publisher = join()
    publisher.publish(topic, b"x", qos=1, retain=True)
    publisher.publish(topic + "/plain", b"y", qos=1, retain=True)
    back = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)])
    assert {m.payload: m.retain for m in (back.receive(), back.receive())} == {b"x": True, b"y": False}
    publisher.publish(topic, retain=True)
    publisher.publish(topic + "/plain", retain=True)


@normative("MQTT-3.3.1-9", "MQTT-3.8.4-4")
@normative311("MQTT-3.3.1-6", "MQTT-3.8.4-3")
@every_version
def test_handling_0_sends_on_each_subscribe(join: Join, kept: str, version: int) -> None:
    subscriber = join(version)
    for _ in range(3):
        subscriber.subscribe((kept, 1))
        message = subscriber.receive()
        assert (message.payload, message.retain) == (b"kept", True)
    subscriber.expect_silence()


@normative("MQTT-3.3.1-10")
def test_handling_1_sends_only_for_a_new_subscription(join: Join, kept: str) -> None:
    subscriber = join()
    subscriber.subscribe((kept, HANDLING_1))
    assert subscriber.receive().payload == b"kept"
    subscriber.subscribe((kept, HANDLING_1 | 1))
    subscriber.expect_silence()
    subscriber.unsubscribe(kept)
    subscriber.subscribe((kept, HANDLING_1))
    assert subscriber.receive().payload == b"kept"


@normative("MQTT-3.3.1-10")
def test_handling_1_counts_the_subscriptions_of_a_resumed_session(join: Join, cid: str, kept: str) -> None:
    first = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    first.subscribe((kept, HANDLING_1))
    first.receive()
    first.drop()
    resumed = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)])
    resumed.subscribe((kept, HANDLING_1))
    resumed.expect_silence()


@normative("MQTT-3.3.1-11")
def test_handling_2_never_sends(join: Join, kept: str) -> None:
    subscriber = join()
    subscriber.subscribe((kept, HANDLING_2))
    subscriber.expect_silence()
    join().publish(kept, b"live")
    assert subscriber.receive().payload == b"live"


@normative("MQTT-3.3.1-9")
@normative311("MQTT-3.3.1-6")
@every_version
def test_a_wildcard_subscription_gets_all_that_match(join: Join, topic: str, version: int) -> None:
    publisher, subscriber = join(version), join(version)
    names = [f"{topic}/{a}/{b}" for a in "abc" for b in range(20)]
    for name in names:
        publisher.publish(name, name.encode(), qos=1, retain=True)
    subscriber.subscribe((topic + "/+/#", 1))
    received = [subscriber.receive() for _ in names]
    assert sorted(m.topic for m in received) == sorted(names)
    assert all(m.payload == m.topic.encode() and m.retain for m in received)
    subscriber.expect_silence()
    for name in names:
        publisher.publish(name, retain=True)


@normative("MQTT-3.3.1-9", "MQTT-3.8.4-8")
@normative311("MQTT-3.3.1-6", "MQTT-3.8.4-6")
@every_version
@pytest.mark.parametrize("granted", [0, 1])
def test_retained_messages_have_the_lower_qos(join: Join, kept: str, version: int, granted: int) -> None:
    subscriber = join(version)
    subscriber.subscribe((kept, granted))
    assert subscriber.receive().qos == granted


@normative("MQTT-3.3.4-3")
def test_retained_messages_carry_the_subscription_identifier(join: Join, kept: str) -> None:
    subscriber = join()
    subscriber.subscribe((kept, 1), props=[(p.SUBSCRIPTION_ID, 77)])
    assert subscriber.receive().values(p.SUBSCRIPTION_ID) == [77]


@normative311("MQTT-3.1.2-7")
@every_version
def test_retained_messages_outlive_the_session(join: Join, topic: str, version: int) -> None:
    publisher = join(version)
    publisher.publish(topic, b"kept", retain=True)
    publisher.disconnect()
    subscriber = join(version)
    subscriber.subscribe(topic)
    assert subscriber.receive().payload == b"kept"
    subscriber.publish(topic, retain=True)


def test_shared_subscriptions_get_no_retained_messages(join: Join, kept: str) -> None:
    subscriber = join()
    subscriber.subscribe((f"$share/g/{kept}", 1))
    subscriber.expect_silence()


@normative("MQTT-3.8.4-5")
@normative311("MQTT-3.8.4-4")
@every_version
def test_each_filter_of_a_subscribe_gets_its_retained_messages(join: Join, kept: str, version: int) -> None:
    subscriber = join(version)
    subscriber.subscribe((kept, 1), (kept + "/#", 1))
    first, second = subscriber.expect(Publish), subscriber.expect(Publish)
    assert first.payload == second.payload == b"kept"
    assert first.packet_id != second.packet_id
    subscriber.expect_silence()


def test_a_retained_message_by_alias_has_its_topic(join: Join, topic: str) -> None:
    publisher, subscriber = join(), join()
    publisher.publish(topic, b"sets the alias", props=[(p.TOPIC_ALIAS, 1)])
    publisher.publish("", b"kept", retain=True, props=[(p.TOPIC_ALIAS, 1)])
    subscriber.subscribe(topic)
    message = subscriber.receive()
    assert (message.topic, message.payload, message.value(p.TOPIC_ALIAS)) == (topic, b"kept", None)
    publisher.publish("", b"", retain=True, props=[(p.TOPIC_ALIAS, 1)])
    join().subscribe(topic)


@normative("MQTT-3.3.1-9", "MQTT-3.3.4-9")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retained_messages_wait_for_the_quota_and_none_is_lost(join: Join, topic: str, qos: int) -> None:
    publisher, subscriber = join(), join(props=[(p.RECEIVE_MAXIMUM, 3)])
    names = {f"{topic}/{i}" for i in range(60)}
    for name in names:
        publisher.publish(name, b"kept", qos=qos, retain=True)
    subscriber.subscribe((topic + "/#", 2))
    assert {subscriber.receive().topic for _ in names} == names
    subscriber.expect_silence()
    for name in names:
        publisher.publish(name, retain=True)
