"""PUBLISH through the broker: what arrives is what was sent."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_qos, every_version, from_311
from tests.wireclient import encode
from tests.wireclient import properties as p

USERS: list[tuple[int, p.PropertyValue]] = [
    (p.USER_PROPERTY, pair) for pair in [("z", "1"), ("a", "2"), ("z", "1"), ("", "empty key"), ("empty value", "")]
]


@normative("MQTT-3.3.2-3", "MQTT-3.3.1-2", "MQTT-4.3.1-1", "MQTT-3.3.2-1", "MQTT-2.2.1-2", "MQTT-3.3.4-1")
@normative311("MQTT-3.3.2-3", "MQTT-3.3.1-2", "MQTT-4.3.1-1", "MQTT-3.3.2-1", "MQTT-2.3.1-5", "MQTT-3.3.4-1")
@pytest.mark.parametrize("to", [3, 4, 5])
@pytest.mark.parametrize("via", [3, 4, 5])
@every_qos
def test_messages_cross_versions_unaltered(join: Join, topic: str, via: int, to: int, qos: int) -> None:
    subscriber, publisher = join(to), join(via)
    subscriber.subscribe((topic, 2))
    payload = bytes(range(256))
    publisher.publish(topic, payload, qos=qos)
    message = subscriber.receive()
    assert (message.topic, message.payload, message.qos) == (topic, payload, qos)
    assert (message.dup, message.retain) == (False, False)


@normative("MQTT-3.8.4-8", "MQTT-3.8.4-7")
@normative311("MQTT-3.8.4-6", "MQTT-3.8.4-5")
@every_version
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
def test_delivery_has_the_lower_qos(join: Join, topic: str, version: int, granted: int, published: int) -> None:
    subscriber = join(version)
    assert subscriber.subscribe((topic, granted)).codes == [granted]
    join(version).publish(topic, b"x", qos=published)
    assert subscriber.receive().qos == min(granted, published)


@normative(
    "MQTT-3.3.2-4",
    "MQTT-3.3.2-15",
    "MQTT-3.3.2-16",
    "MQTT-3.3.2-17",
    "MQTT-3.3.2-18",
    "MQTT-3.3.2-20",
    "MQTT-3.3.2-13",
    "MQTT-3.3.2-19",
)
@every_qos
@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
def test_properties_are_forwarded_unaltered(join: Join, topic: str, qos: int, retain: bool) -> None:
    sent: list[tuple[int, p.PropertyValue]] = [
        (p.PAYLOAD_FORMAT, 1),
        (p.CONTENT_TYPE, "größe/json"),
        (p.RESPONSE_TOPIC, "answers/ünï/ code"),
        (p.CORRELATION_DATA, b"\x00\xff\x00"),
        *USERS,
    ]
    subscriber, publisher = join(), join()
    if not retain:
        subscriber.subscribe((topic, 2))
    publisher.publish(topic, "größe".encode(), qos=qos, retain=retain, props=sent)
    if retain:
        subscriber.subscribe((topic, 2))
    message = subscriber.receive()
    assert sorted(message.props, key=lambda pair: pair[0]) == sorted(sent, key=lambda pair: pair[0])
    if retain:
        publisher.publish(topic, retain=True)


@normative("MQTT-3.3.2-17", "MQTT-3.3.2-18")
def test_properties_survive_the_queue_of_a_client_that_is_away(join: Join, cid: str, topic: str) -> None:
    away = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    away.subscribe((topic, 1), props=[(p.SUBSCRIPTION_ID, 7)])
    away.drop()
    join().publish(topic, b"x", qos=1, props=[*USERS, (p.RESPONSE_TOPIC, "r"), (p.CORRELATION_DATA, b"")])
    message = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)]).receive()
    assert [pair for pair in message.props if pair[0] == p.USER_PROPERTY] == USERS
    assert message.value(p.RESPONSE_TOPIC) == "r"
    assert message.value(p.CORRELATION_DATA) == b""
    assert message.values(p.SUBSCRIPTION_ID) == [7]


@normative("MQTT-3.3.2-3")
@normative311("MQTT-3.3.2-3")
@pytest.mark.parametrize("to", [3, 4])
def test_older_subscribers_get_no_properties(join: Join, topic: str, to: int) -> None:
    older = join(to)
    older.subscribe((topic, 1))
    props: list[tuple[int, p.PropertyValue]] = [*USERS, (p.CONTENT_TYPE, "x"), (p.MESSAGE_EXPIRY, 100)]
    join().publish(topic, b"payload only", qos=1, props=props)
    assert older.receive().payload == b"payload only"


@normative("MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-20")
def test_properties_of_great_length(join: Join, topic: str) -> None:
    long: list[tuple[int, p.PropertyValue]] = [
        (p.CONTENT_TYPE, "c" * 65535),
        (p.RESPONSE_TOPIC, "r" * 65535),
        (p.CORRELATION_DATA, b"\xff" * 65535),
        (p.USER_PROPERTY, ("k" * 65535, "v" * 65535)),
    ]
    subscriber = join()
    subscriber.subscribe((topic, 1))
    join().publish(topic, b"x", qos=1, props=long)
    assert sorted(subscriber.receive().props, key=lambda pair: pair[0]) == long


@normative("MQTT-3.3.2-17")
def test_many_user_properties(join: Join, topic: str) -> None:
    users: list[tuple[int, p.PropertyValue]] = [(p.USER_PROPERTY, (f"k{i % 7}", "v" * i)) for i in range(200)]
    subscriber = join()
    subscriber.subscribe(topic)
    join().publish(topic, b"x", qos=1, props=users)
    assert subscriber.receive().props == users


@normative("MQTT-3.3.2-15", "MQTT-3.3.2-16")
def test_request_and_response(join: Join, unique: Callable[[str], str]) -> None:
    requests, answers = unique("t/"), unique("t/")
    server, client = join(), join()
    server.subscribe((requests, 1))
    client.subscribe((answers, 1))
    client.publish(requests, b"2+2", qos=1, props=[(p.RESPONSE_TOPIC, answers), (p.CORRELATION_DATA, b"#1")])
    request = server.receive()
    reply_to, correlation = request.value(p.RESPONSE_TOPIC), request.value(p.CORRELATION_DATA)
    assert isinstance(reply_to, str)
    assert isinstance(correlation, bytes)
    server.publish(reply_to, b"4", qos=1, props=[(p.CORRELATION_DATA, correlation)])
    answer = client.receive()
    assert (answer.payload, answer.value(p.CORRELATION_DATA)) == (b"4", b"#1")


@normative("MQTT-3.3.1-3")
@normative311("MQTT-3.3.1-3")
@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_dup_is_not_forwarded(join: Join, topic: str, version: int, qos: int) -> None:
    subscriber = join(version)
    subscriber.subscribe((topic, 2))
    join(version).publish(topic, b"x", qos=qos, dup=True)
    message = subscriber.receive()
    assert (message.payload, message.dup) == (b"x", False)


@normative("MQTT-3.3.2-6", "MQTT-3.3.2-5")
@pytest.mark.parametrize("qos", [1, 2])
def test_expiry_counts_down_in_the_queue(join: Join, cid: str, topic: str, qos: int) -> None:
    away = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    away.subscribe((topic, 2))
    away.drop()
    publisher = join()
    publisher.publish(topic, b"expires", qos=qos, props=[(p.MESSAGE_EXPIRY, 1)])
    publisher.publish(topic, b"stays", qos=qos, props=[(p.MESSAGE_EXPIRY, 100)])
    publisher.publish(topic, b"for ever", qos=qos)
    time.sleep(1.5)
    back = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)])
    first, second = back.receive(), back.receive()
    assert (first.payload, first.value(p.MESSAGE_EXPIRY)) in ((b"stays", 99), (b"stays", 98))
    assert (second.payload, second.value(p.MESSAGE_EXPIRY)) == (b"for ever", None)
    back.expect_silence()


@normative("MQTT-3.3.2-6", "MQTT-3.3.2-5")
def test_expiry_counts_down_for_retained_messages(join: Join, topic: str) -> None:
    publisher = join()
    publisher.publish(topic + "/a", b"expires", retain=True, props=[(p.MESSAGE_EXPIRY, 1)])
    publisher.publish(topic + "/b", b"stays", retain=True, props=[(p.MESSAGE_EXPIRY, 100)])
    time.sleep(1.5)
    subscriber = join()
    subscriber.subscribe(topic + "/#")
    message = subscriber.receive()
    assert (message.payload, message.value(p.MESSAGE_EXPIRY)) in ((b"stays", 99), (b"stays", 98))
    subscriber.expect_silence()
    publisher.publish(topic + "/b", retain=True)


@normative("MQTT-3.3.2-6")
def test_expiry_of_a_live_message_is_forwarded(join: Join, topic: str) -> None:
    subscriber = join()
    subscriber.subscribe(topic)
    publisher = join()
    for expiry in (1, 1000, 0xFFFFFFFF):
        publisher.publish(topic, b"x", props=[(p.MESSAGE_EXPIRY, expiry)])
        assert subscriber.receive().value(p.MESSAGE_EXPIRY) == expiry


@normative("MQTT-4.3.3-7", "MQTT-4.3.3-13", "MQTT-4.4.0-1")
def test_expiry_does_not_apply_to_what_was_sent(join: Join, cid: str, topic: str) -> None:
    away = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    away.subscribe((topic, 2))
    join().publish(topic, b"begun", qos=2, props=[(p.MESSAGE_EXPIRY, 1)])
    begun = away.recv()
    away.drop()
    time.sleep(1.5)
    back = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)])
    again = back.receive()
    assert again.payload == b"begun"
    assert again.dup
    assert again.packet_id == getattr(begun, "packet_id")  # noqa: B009 - recv() returns any packet
    back.expect_silence()


@normative("MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-5", "MQTT-4.6.0-6")
@normative311("MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-5", "MQTT-4.6.0-6")
@every_version
@every_qos
def test_order_is_kept_per_topic_and_qos(join: Join, topic: str, version: int, qos: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 2))
    expected = [str(i).encode() for i in range(50)]
    for begin in range(0, 50, 10):
        ids = range(begin + 1, begin + 11)
        publisher.send(
            *(encode.publish(version, topic, expected[i - 1], qos=qos, packet_id=i if qos else None) for i in ids)
        )
        if qos:
            kind = "PUBACK" if qos == 1 else "PUBREC"
            assert [publisher.expect_ack(kind).packet_id for _ in ids] == list(ids)
        if qos == 2:
            publisher.send(*(encode.ack(version, encode.PUBREL, i) for i in ids))
            assert [publisher.expect_ack("PUBCOMP").packet_id for _ in ids] == list(ids)
    assert subscriber.receive_payloads(50) == expected


@every_version
def test_an_empty_payload_is_a_message(join: Join, topic: str, version: int) -> None:
    subscriber = join(version)
    subscriber.subscribe(topic)
    join(version).publish(topic, b"")
    assert subscriber.receive().payload == b""


@every_version
@pytest.mark.parametrize("size", [127, 128, 16383, 16384, 100_000, 1_000_000])
def test_payloads_of_all_sizes(join: Join, topic: str, version: int, size: int) -> None:
    subscriber = join(version)
    subscriber.subscribe((topic, 1))
    payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    join(version).publish(topic, payload, qos=1)
    assert subscriber.receive().payload == payload


@normative("MQTT-3.8.3-3")
def test_no_local(join: Join, topic: str) -> None:
    subscriber = join()
    subscriber.subscribe((topic, 0x04))
    subscriber.publish(topic, b"own")
    subscriber.expect_silence()
    join().publish(topic, b"another's")
    assert subscriber.receive().payload == b"another's"


@normative("MQTT-3.8.3-3")
def test_no_local_goes_by_client_id(join: Join, cid: str, topic: str) -> None:
    kept = [(p.SESSION_EXPIRY, 60)]
    first = join(5, cid, props=kept)
    first.subscribe((topic, 0x05))
    first.publish(topic, b"own", qos=1)
    first.drop()
    second = join(5, cid, clean=False, props=kept)
    second.publish(topic, b"own", qos=1)
    second.expect_silence()


@from_311
def test_own_messages_come_back_by_default(join: Join, topic: str, version: int) -> None:
    client = join(version)
    client.subscribe(topic)
    client.publish(topic, b"own")
    assert client.receive().payload == b"own"


@normative("MQTT-3.4.2-1", "MQTT-3.5.2-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_nobody_listening_is_a_success(join: Join, topic: str, qos: int) -> None:
    assert join().publish(topic, b"x", qos=qos) in (0, 0x10)


@normative("MQTT-1.5.4-3", "MQTT-4.7.3-4")
@normative311("MQTT-1.5.3-3", "MQTT-4.7.3-4")
@from_311
def test_a_byte_order_mark_is_a_character(join: Join, topic: str, version: int) -> None:
    marked = join(version)
    plain = join(version)
    marked.subscribe("\ufeff" + topic)
    plain.subscribe(topic)
    publisher = join(version)
    publisher.publish("\ufeff" + topic, b"marked")
    assert marked.receive().topic == "\ufeff" + topic
    plain.expect_silence()
    publisher.publish(topic, b"plain")
    assert plain.receive().topic == topic
    marked.expect_silence()


@normative("MQTT-4.7.3-3")
@normative311("MQTT-4.7.3-3")
@from_311
def test_a_topic_name_of_the_greatest_length(join: Join, topic: str, version: int) -> None:
    longest = (topic + "/" + "x" * 65535)[:65535]
    client = join(version)
    client.subscribe(longest)
    client.publish(longest, b"x")
    assert client.receive().topic == longest
