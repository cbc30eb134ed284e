"""Receive Maximum, Maximum Packet Size and topic aliases, in both directions."""

from __future__ import annotations

import time

import pytest

from tests.spec.brokers import Address
from tests.spec.conftest import Dial, Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version
from tests.wireclient import Ack, Publish, encode
from tests.wireclient import properties as p

PACKET_TOO_LARGE, RECEIVE_MAXIMUM_EXCEEDED, ALIAS_INVALID = 0x95, 0x93, 0x94


# --- Receive Maximum -------------------------------------------------------------------------------------------


@normative("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
@pytest.mark.parametrize("quota", [1, 2, 5])
def test_the_server_stops_at_the_clients_receive_maximum(join: Join, topic: str, quota: int) -> None:
    subscriber, publisher = join(props=[(p.RECEIVE_MAXIMUM, quota)]), join()
    subscriber.subscribe((topic, 1))
    for i in range(8):
        publisher.publish(topic, str(i).encode(), qos=1)
    held = [subscriber.expect(Publish) for _ in range(quota)]
    subscriber.expect_silence()
    payloads = [m.payload for m in held]
    for _ in range(8 - quota):
        subscriber.send(encode.ack(5, encode.PUBACK, held.pop(0).packet_id))
        held.append(subscriber.expect(Publish))
        payloads.append(held[-1].payload)
        subscriber.expect_silence()
    assert payloads == [str(i).encode() for i in range(8)]


@normative("MQTT-3.3.4-9", "MQTT-4.9.0-2")
def test_pubrec_gives_nothing_back_but_pubcomp_does(join: Join, topic: str) -> None:
    subscriber, publisher = join(props=[(p.RECEIVE_MAXIMUM, 1)]), join()
    subscriber.subscribe((topic, 2))
    publisher.publish(topic, b"1", qos=2)
    publisher.publish(topic, b"2", qos=2)
    first = subscriber.expect(Publish)
    subscriber.send(encode.ack(5, encode.PUBREC, first.packet_id))
    subscriber.expect_ack("PUBREL", first.packet_id)
    subscriber.expect_silence()
    subscriber.send(encode.ack(5, encode.PUBCOMP, first.packet_id))
    assert subscriber.receive().payload == b"2"


@normative("MQTT-3.3.4-9", "MQTT-4.4.0-2")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_refusal_gives_the_quota_back(join: Join, topic: str, qos: int) -> None:
    subscriber, publisher = join(props=[(p.RECEIVE_MAXIMUM, 1)]), join()
    subscriber.subscribe((topic, 2))
    publisher.publish(topic, b"1", qos=qos)
    publisher.publish(topic, b"2", qos=qos)
    first = subscriber.expect(Publish)
    subscriber.send(encode.ack(5, encode.PUBACK if qos == 1 else encode.PUBREC, first.packet_id, 0x97))
    assert subscriber.receive().payload == b"2"


@normative("MQTT-3.3.4-10", "MQTT-4.9.0-3", "MQTT-3.3.4-8")
def test_an_empty_quota_delays_nothing_else(join: Join, topic: str) -> None:
    subscriber, publisher = join(props=[(p.RECEIVE_MAXIMUM, 1)]), join()
    subscriber.subscribe((topic, 1))
    publisher.publish(topic, b"held", qos=1)
    publisher.publish(topic, b"waiting", qos=1)
    held = subscriber.expect(Publish)
    subscriber.expect_silence()
    subscriber.subscribe(topic + "/zero")
    subscriber.unsubscribe("nothing")
    assert subscriber.publish("elsewhere", b"x", qos=1) in (0, 0x10)
    assert subscriber.publish("elsewhere", b"x", qos=2) in (0, 0x10)
    publisher.publish(topic + "/zero", b"qos 0 passes", qos=0)
    assert subscriber.receive().payload == b"qos 0 passes"
    subscriber.send(encode.ack(5, encode.PUBACK, held.packet_id))
    assert subscriber.receive().payload == b"waiting"


@normative("MQTT-3.3.2-5", "MQTT-3.3.4-9")
def test_a_message_expires_while_it_waits_for_the_quota(join: Join, topic: str) -> None:
    subscriber, publisher = join(props=[(p.RECEIVE_MAXIMUM, 1)]), join()
    subscriber.subscribe((topic, 1))
    publisher.publish(topic, b"held", qos=1)
    publisher.publish(topic, b"expires", qos=1, props=[(p.MESSAGE_EXPIRY, 1)])
    publisher.publish(topic, b"stays", qos=1, props=[(p.MESSAGE_EXPIRY, 100)])
    held = subscriber.expect(Publish)
    time.sleep(1.5)
    subscriber.send(encode.ack(5, encode.PUBACK, held.packet_id))
    message = subscriber.receive()
    assert message.payload == b"stays"
    assert message.value(p.MESSAGE_EXPIRY) in (98, 99)


@normative("MQTT-4.5.0-1", "MQTT-4.6.0-5")
@normative311("MQTT-4.5.0-1", "MQTT-4.6.0-6")
@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_more_messages_than_the_window_holds(join: Join, topic: str, version: int, qos: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 2))
    expected = [str(i).encode() for i in range(200)]
    for payload in expected:
        publisher.publish(topic, payload, qos=qos)
    assert subscriber.receive_payloads(200) == expected
    subscriber.expect_silence()


@normative("MQTT-3.3.4-7", "MQTT-4.13.1-1")
def test_a_client_above_the_servers_receive_maximum_is_disconnected(join: Join, limited: Address, topic: str) -> None:
    client = join(at=limited)
    assert client.connack is not None
    assert client.connack.value(p.RECEIVE_MAXIMUM) == 3
    client.subscribe(topic)
    for i in (1, 2, 3):
        client.send(encode.publish(5, topic, b"x", qos=2, packet_id=i))
        assert client.wait_for(Ack).kind == "PUBREC"
    client.receive_payloads(3)
    client.send(encode.publish(5, topic, b"x", qos=2, packet_id=4))
    client.expect_disconnect(RECEIVE_MAXIMUM_EXCEEDED)


@normative("MQTT-3.3.4-7")
def test_a_message_sent_again_does_not_count_twice(join: Join, limited: Address, topic: str) -> None:
    subscriber = join(at=limited, keep_alive=2)
    subscriber.subscribe((topic, 2))
    client = join(at=limited, keep_alive=2)
    for _ in range(2):
        for i in (1, 2, 3):
            client.send(encode.publish(5, topic, b"x", qos=2, packet_id=i))
            client.expect_ack("PUBREC", i)
    for i in (1, 2, 3):
        client.send(encode.ack(5, encode.PUBREL, i))
        client.expect_ack("PUBCOMP", i)
    for _ in range(20):
        client.publish(topic, b"x", qos=2)


# --- Maximum Packet Size ---------------------------------------------------------------------------------------


@normative("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_too_large_for_the_client_is_discarded(join: Join, topic: str, qos: int) -> None:
    subscriber = join(props=[(p.MAXIMUM_PACKET_SIZE, 100), (p.RECEIVE_MAXIMUM, 1)])
    subscriber.subscribe((topic, 2))
    publisher = join()
    overhead = len(encode.publish(5, topic, b"", qos=qos, packet_id=1 if qos else None))
    fits = b"f" * (100 - overhead)
    publisher.publish(topic, fits + b"!", qos=qos)
    publisher.publish(topic, b"x" * 5000, qos=qos)
    subscriber.expect_silence()
    publisher.publish(topic, fits, qos=qos)
    assert subscriber.receive().payload == fits
    # What was discarded counts as delivered: it holds no place in the window.
    publisher.publish(topic, b"next", qos=qos)
    assert subscriber.receive().payload == b"next"


@normative("MQTT-3.1.2-24", "MQTT-3.1.2-25")
def test_what_is_too_large_for_one_client_reaches_the_others(join: Join, topic: str) -> None:
    small, large, older = join(props=[(p.MAXIMUM_PACKET_SIZE, 50)]), join(), join(4)
    for client in (small, large, older):
        client.subscribe((topic, 1))
    join().publish(topic, b"x" * 100, qos=1)
    assert large.receive().payload == older.receive().payload == b"x" * 100
    small.expect_silence()


@normative("MQTT-3.1.2-25")
def test_a_kept_message_too_large_is_discarded_on_return(join: Join, cid: str, topic: str) -> None:
    away = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    away.subscribe((topic, 1))
    away.drop()
    publisher = join()
    publisher.publish(topic, b"x" * 100, qos=1)
    publisher.publish(topic, b"small", qos=1)
    back = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60), (p.MAXIMUM_PACKET_SIZE, 60)])
    assert back.receive().payload == b"small"
    back.expect_silence()


@normative("MQTT-3.2.2-15", "MQTT-4.13.1-1")
@every_version
def test_a_packet_above_the_servers_maximum_is_refused(join: Join, limited: Address, topic: str, version: int) -> None:
    client = join(version, at=limited)
    assert client.connack is not None
    if version == 5:
        assert client.connack.value(p.MAXIMUM_PACKET_SIZE) == 2000
    overhead = len(encode.publish(version, topic, b"x" * 1900)) - 1900
    client.subscribe(topic)
    client.send(encode.publish(version, topic, b"x" * (2000 - overhead)))
    assert len(client.receive().payload) == 2000 - overhead
    client.send(encode.publish(version, topic, b"x" * (2001 - overhead)))
    client.expect_disconnect(PACKET_TOO_LARGE)


@normative("MQTT-3.2.2-15")
@every_version
def test_a_length_above_the_maximum_is_enough_to_refuse(join: Join, limited: Address, version: int) -> None:
    client = join(version, at=limited)
    client.send(b"\x30\xff\xff\xff\x7f")
    client.expect_disconnect(PACKET_TOO_LARGE)


@normative("MQTT-3.2.2-15")
def test_a_connect_above_the_maximum_is_refused(dial: Dial, limited: Address) -> None:
    client = dial(at=limited)
    client.send(encode.connect(client_id="x", username="u" * 2000))
    client.expect_refused(PACKET_TOO_LARGE, silence_allowed=True)


@normative(
    "MQTT-3.9.2-1",
    "MQTT-3.9.2-2",
    "MQTT-3.11.2-1",
    "MQTT-3.11.2-2",
    "MQTT-3.4.2-2",
    "MQTT-3.4.2-3",
    "MQTT-3.5.2-2",
    "MQTT-3.5.2-3",
    "MQTT-3.6.2-2",
    "MQTT-3.6.2-3",
    "MQTT-3.7.2-2",
    "MQTT-3.7.2-3",
    "MQTT-3.14.2-3",
    "MQTT-3.14.2-4",
    "MQTT-3.1.2-24",
)
def test_no_answer_exceeds_the_clients_maximum(join: Join, topic: str) -> None:
    # A CONNACK with all that a server has to say may need some 60 bytes; the answers below need fewer than 20.
    client = join(props=[(p.MAXIMUM_PACKET_SIZE, 64)])
    client.subscribe((topic, 1))
    assert client.last_size <= 64
    client.send(encode.unsubscribe(5, 9, ["never/subscribed"]))
    client.recv()
    assert client.last_size <= 64
    for wire in (
        encode.ack(5, encode.PUBREC, 99),
        encode.ack(5, encode.PUBREL, 99),
        encode.publish(5, "elsewhere/x", b"", qos=1, packet_id=1),
        encode.publish(5, "elsewhere/x", b"", qos=2, packet_id=2),
        b"\x00\x00",
    ):
        client.send(wire)
        client.recv()
        assert client.last_size <= 64
    client.expect_closed()


# --- topic aliases to the server -------------------------------------------------------------------------------


def alias(number: int) -> list[tuple[int, p.PropertyValue]]:
    return [(p.TOPIC_ALIAS, number)]


@normative("MQTT-3.3.2-12")
def test_the_server_accepts_every_alias_up_to_its_maximum(join: Join, topic: str) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(topic + "/#")
    assert publisher.connack is not None
    maximum = publisher.connack.value(p.TOPIC_ALIAS_MAXIMUM)
    assert isinstance(maximum, int)
    assert maximum > 0
    for number in range(1, maximum + 1):
        publisher.publish(f"{topic}/{number}", b"set", props=alias(number))
        publisher.publish("", b"used", props=alias(number))
        for payload in (b"set", b"used"):
            message = subscriber.receive()
            assert (message.topic, message.payload) == (f"{topic}/{number}", payload)
            assert message.value(p.TOPIC_ALIAS) is None


@normative("MQTT-3.3.2-12")
def test_an_alias_may_be_set_again(join: Join, topic: str) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(topic + "/#")
    for name in ("a", "b", "a"):
        publisher.publish(f"{topic}/{name}", b"set", qos=1, props=alias(1))
        publisher.publish("", b"used", qos=2, props=alias(1))
        assert [subscriber.receive().topic for _ in range(2)] == [f"{topic}/{name}"] * 2


@normative("MQTT-3.3.2-8", "MQTT-3.3.2-9", "MQTT-3.2.2-17")
def test_an_alias_beyond_the_limits_is_refused(join: Join, topic: str) -> None:
    for number in (0, 0xFFFF):
        client = join()
        assert client.connack is not None
        assert client.connack.value(p.TOPIC_ALIAS_MAXIMUM) != 0xFFFF
        client.send(encode.publish(5, topic, b"x", props=alias(number)))
        client.expect_disconnect(ALIAS_INVALID)


@normative("MQTT-3.3.2-9", "MQTT-3.2.2-17")
def test_the_alias_maximum_is_exact(join: Join, limited: Address, topic: str) -> None:
    client = join(at=limited)
    assert client.connack is not None
    assert client.connack.value(p.TOPIC_ALIAS_MAXIMUM) == 5
    client.publish(topic, b"x", props=alias(5))
    client.send(encode.publish(5, topic, b"x", props=alias(6)))
    client.expect_disconnect(ALIAS_INVALID)


@normative("MQTT-3.3.2-7")
def test_aliases_do_not_outlive_the_connection(join: Join, cid: str, topic: str) -> None:
    first = join(5, cid, props=[(p.SESSION_EXPIRY, 60)])
    first.publish(topic, b"x", props=alias(1))
    first.drop()
    second = join(5, cid, clean=False, props=[(p.SESSION_EXPIRY, 60)])
    second.send(encode.publish(5, "", b"x", props=alias(1)))
    second.expect_disconnect(0x82)


@normative("MQTT-4.13.1-1")
@pytest.mark.parametrize("props", [[], alias(7)], ids=["no alias", "an alias never set"])
def test_an_empty_topic_needs_an_alias(join: Join, props: list[tuple[int, p.PropertyValue]]) -> None:
    client = join()
    client.send(encode.publish(5, "", b"x", props=props))
    client.expect_disconnect(0x82)


# --- topic aliases from the server -----------------------------------------------------------------------------


@normative("MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-11", "MQTT-3.3.2-8", "MQTT-3.3.2-10")
@pytest.mark.parametrize("maximum", [None, 0, 1, 3, 0xFFFF])
def test_the_servers_aliases_respect_the_clients_maximum(join: Join, topic: str, maximum: int | None) -> None:
    subscriber = join(props=[] if maximum is None else [(p.TOPIC_ALIAS_MAXIMUM, maximum)])
    subscriber.subscribe((topic + "/#", 1))
    publisher = join()
    known: dict[int, str] = {}
    for i in range(40):
        name = f"{topic}/{i % 5}"
        publisher.publish(name, b"x", qos=i % 2)
        message = subscriber.receive()
        number = message.value(p.TOPIC_ALIAS)
        if number is not None:
            assert isinstance(number, int)
            assert 0 < number <= (maximum or 0)
            if message.topic:
                known[number] = message.topic
            assert known[number] == name
        else:
            assert message.topic == name


@normative("MQTT-3.3.2-7", "MQTT-4.4.0-1")
def test_the_servers_aliases_do_not_outlive_the_connection(join: Join, cid: str, topic: str) -> None:
    props = [(p.SESSION_EXPIRY, 60), (p.TOPIC_ALIAS_MAXIMUM, 5)]
    first = join(5, cid, props=props)
    first.subscribe((topic, 1))
    publisher = join()
    for _ in range(5):
        publisher.publish(topic, b"x", qos=1)
        first.expect(Publish)
    first.drop()
    second = join(5, cid, clean=False, props=props)
    again = [second.receive() for _ in range(5)]
    assert again[0].topic == topic


@normative311("MQTT-3.3.2-1")
def test_older_versions_never_see_an_empty_topic(join: Join, topic: str) -> None:
    four, publisher = join(4), join()
    four.subscribe(topic)
    publisher.publish(topic, b"1", props=alias(1))
    publisher.publish("", b"2", props=alias(1))
    assert [four.receive().topic for _ in range(2)] == [topic] * 2
