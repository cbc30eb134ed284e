"""What a resumed session gets again: the same messages, the same ids, the same order, DUP set."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version
from tests.wireclient import Ack, Client, Publish, encode
from tests.wireclient import properties as p


@pytest.fixture
def subscribed(join: Join, cid: str, topic: str, version: int) -> Client:
    client = resume(join, cid, version)
    client.subscribe((topic, 2))
    return client


def resume(join: Join, cid: str, version: int) -> Client:
    return join(version, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)] if version == 5 else [])


@normative("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.6.0-1", "MQTT-4.3.2-3", "MQTT-4.3.3-3")
@normative311("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.6.0-1", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
@every_version
def test_unacknowledged_messages_come_again(join: Join, cid: str, topic: str, version: int, subscribed: Client) -> None:
    publisher = join(version)
    for i in range(10):
        publisher.publish(topic, str(i).encode(), qos=1 + i % 2)
    first = [subscribed.expect(Publish) for _ in range(10)]
    subscribed.drop()
    publisher.publish(topic, b"new", qos=1)
    back = resume(join, cid, version)
    again = [back.expect(Publish) for _ in range(10)]
    assert [(m.packet_id, m.payload, m.qos) for m in again] == [(m.packet_id, m.payload, m.qos) for m in first]
    assert all(m.dup for m in again)
    fresh = back.expect(Publish)
    assert (fresh.payload, fresh.dup) == (b"new", False)
    assert fresh.packet_id not in {m.packet_id for m in again}
    back.expect_silence()


@normative("MQTT-4.4.0-1", "MQTT-4.3.3-5", "MQTT-4.3.3-6")
@normative311("MQTT-4.4.0-1", "MQTT-4.3.3-1")
@every_version
def test_after_pubrec_the_pubrel_comes_again(
    join: Join, cid: str, topic: str, version: int, subscribed: Client
) -> None:
    join(version).publish(topic, b"x", qos=2)
    message = subscribed.expect(Publish)
    subscribed.send(encode.ack(version, encode.PUBREC, message.packet_id))
    subscribed.expect_ack("PUBREL", message.packet_id)
    subscribed.drop()
    for _ in range(2):
        back = resume(join, cid, version)
        back.expect_ack("PUBREL", message.packet_id)
        back.expect_silence()
        back.drop()
    back = resume(join, cid, version)
    back.expect_ack("PUBREL", message.packet_id)
    back.send(encode.ack(version, encode.PUBCOMP, message.packet_id))
    back.expect_silence()
    back.drop()
    resume(join, cid, version).expect_silence()


@normative("MQTT-4.4.0-1", "MQTT-4.6.0-1")
@normative311("MQTT-4.4.0-1", "MQTT-4.6.0-1")
@every_version
def test_what_was_acknowledged_does_not_come_again(
    join: Join, cid: str, topic: str, version: int, subscribed: Client
) -> None:
    publisher = join(version)
    for i in range(6):
        publisher.publish(topic, str(i).encode(), qos=1)
    messages = [subscribed.expect(Publish) for _ in range(6)]
    for i in (1, 4):
        subscribed.send(encode.ack(version, encode.PUBACK, messages[i].packet_id))
    subscribed.ping()
    subscribed.drop()
    back = resume(join, cid, version)
    assert back.receive_payloads(4) == [b"0", b"2", b"3", b"5"]
    back.expect_silence()


@normative("MQTT-4.6.0-1", "MQTT-4.4.0-1")
@normative311("MQTT-4.6.0-1", "MQTT-4.4.0-1")
@every_version
def test_a_mixture_comes_again_in_its_first_order(
    join: Join, cid: str, topic: str, version: int, subscribed: Client
) -> None:
    publisher = join(version)
    for i in range(6):
        publisher.publish(topic, str(i).encode(), qos=2)
    messages = [subscribed.expect(Publish) for _ in range(6)]
    released = [messages[3], messages[1]]
    for message in released:
        subscribed.send(encode.ack(version, encode.PUBREC, message.packet_id))
        subscribed.expect_ack("PUBREL", message.packet_id)
    subscribed.drop()
    back = resume(join, cid, version)
    again = [back.recv() for _ in range(6)]
    publishes = [m.payload for m in again if isinstance(m, Publish)]
    releases = {m.packet_id for m in again if isinstance(m, Ack)}
    assert publishes == [b"0", b"2", b"4", b"5"]
    assert releases == {m.packet_id for m in released}


@normative("MQTT-4.4.0-1")
@normative311("MQTT-4.4.0-1")
@every_version
def test_takeover_sends_again_too(join: Join, cid: str, topic: str, version: int, subscribed: Client) -> None:
    join(version).publish(topic, b"x", qos=1)
    first = subscribed.expect(Publish)
    again = resume(join, cid, version).expect(Publish)
    assert (again.payload, again.packet_id, again.dup) == (b"x", first.packet_id, True)


@normative("MQTT-4.3.3-6", "MQTT-4.4.0-1")
@normative311("MQTT-4.3.3-1")
@every_version
def test_a_pubrec_after_resuming_is_answered(
    join: Join, cid: str, topic: str, version: int, subscribed: Client
) -> None:
    join(version).publish(topic, b"x", qos=2)
    first = subscribed.expect(Publish)
    subscribed.drop()
    back = resume(join, cid, version)
    assert back.expect(Publish).packet_id == first.packet_id
    back.send(encode.ack(version, encode.PUBREC, first.packet_id))
    back.expect_ack("PUBREL", first.packet_id)
    back.send(encode.ack(version, encode.PUBCOMP, first.packet_id))
    back.drop()
    resume(join, cid, version).expect_silence()


@normative("MQTT-4.4.0-1", "MQTT-3.1.2-4")
@normative311("MQTT-3.1.2-6")
@every_version
def test_a_clean_start_forgets_what_was_in_flight(
    join: Join, cid: str, topic: str, version: int, subscribed: Client
) -> None:
    join(version).publish(topic, b"x", qos=1)
    subscribed.expect(Publish)
    subscribed.drop()
    join(version, cid, clean=True).expect_silence()


@normative("MQTT-4.4.0-1", "MQTT-3.3.4-9", "MQTT-4.9.0-1")
def test_the_send_quota_holds_for_what_comes_again(join: Join, cid: str, topic: str) -> None:
    kept = [(p.SESSION_EXPIRY, 60), (p.RECEIVE_MAXIMUM, 10)]
    client = join(5, cid, props=kept)
    client.subscribe((topic, 1))
    publisher = join()
    for i in range(5):
        publisher.publish(topic, str(i).encode(), qos=1)
    for _ in range(5):
        client.expect(Publish)
    client.drop()
    back = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60), (p.RECEIVE_MAXIMUM, 2)])
    received = [back.expect(Publish), back.expect(Publish)]
    back.expect_silence()
    for _ in range(3):
        back.send(encode.ack(5, encode.PUBACK, received[-2].packet_id))
        received.append(back.expect(Publish))
        back.expect_silence()
    assert [m.payload for m in received] == [b"0", b"1", b"2", b"3", b"4"]
    assert all(m.dup for m in received)
