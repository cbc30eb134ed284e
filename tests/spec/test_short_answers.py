"""Answers byte for byte: suites that compare whole packets expect the shortest form the specification has."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Dial, Join
from tests.spec.versions import every_version, from_311
from tests.wireclient import Ack, Client, Connack, Disconnect, Pingresp, Publish, Suback, encode
from tests.wireclient import properties as p


def size_of_next(client: Client) -> int:
    client.recv()
    return client.last_size


@from_311
def test_acknowledgements_of_success_have_no_reason(join: Join, topic: str, version: int) -> None:
    client = join(version)
    client.subscribe((topic, 2))
    client.send(encode.publish(version, topic, qos=2, packet_id=1))
    sizes = {}
    for _ in range(2):  # PUBREC, and the message itself
        packet = client.recv()
        sizes[type(packet)] = client.last_size
    assert sizes[Ack] == 4
    client.send(encode.ack(version, encode.PUBREC, 1), encode.ack(version, encode.PUBREL, 1))
    assert size_of_next(client) == 4  # PUBREL
    assert size_of_next(client) == 4  # PUBCOMP
    client.send(encode.ack(version, encode.PUBCOMP, 1))
    client.expect_silence()


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [1, 2])
def test_nobody_listening_is_a_reason_without_properties(join: Join, topic: str, qos: int, retain: bool) -> None:
    client = join()
    client.send(encode.publish(5, topic, b"x", qos=qos, packet_id=9, retain=retain))
    answer = client.expect(Ack)
    assert (answer.code, client.last_size) == (0x10, 5)
    client.publish(topic, retain=True)


def test_subscribe_and_unsubscribe_are_answered_without_properties(join: Join, topic: str) -> None:
    client = join()
    client.send(encode.subscribe(5, 1, [(topic, 0), (topic + "/#", 1)]))
    assert size_of_next(client) == 7
    client.send(encode.unsubscribe(5, 2, [topic, "nothing"]))
    assert size_of_next(client) == 7


def test_disconnect_has_its_reason_and_no_more(join: Join) -> None:
    client = join()
    client.send(encode.publish(5, "a/#"))
    reason = client.expect(Disconnect)
    assert (reason.code, client.last_size) == (0x90, 3)


@every_version
def test_a_burst_that_ends_in_disconnect_is_answered_in_full(dial: Dial, cid: str, topic: str, version: int) -> None:
    client = dial(version)
    client.send(
        encode.connect(version, client_id=cid),
        encode.subscribe(version, 1, [(topic, 2)]),
        encode.publish(version, topic, b"1", qos=1, packet_id=2),
        encode.publish(version, topic, b"2", qos=2, packet_id=3),
        encode.PINGREQ,
        encode.disconnect(version),
    )
    client.expect(Connack)
    client.expect(Suback)
    packets = [client.recv() for _ in range(4)]
    assert [(m.payload, m.qos) for m in packets if isinstance(m, Publish)] == [(b"1", 1), (b"2", 2)]
    assert [(a.kind, a.packet_id) for a in packets if isinstance(a, Ack)] == [("PUBACK", 2), ("PUBREC", 3)]
    client.expect(Pingresp)
    client.expect_closed()


def test_properties_are_forwarded_in_the_order_they_came(join: Join, topic: str) -> None:
    watcher, publisher = join(), join()
    watcher.subscribe(topic)
    props: list[tuple[int, p.PropertyValue]] = [
        (p.USER_PROPERTY, ("k1", "v1")),
        (p.RESPONSE_TOPIC, "answers"),
        (p.CORRELATION_DATA, b""),
        (p.PAYLOAD_FORMAT, 0),
        (p.CONTENT_TYPE, ""),
        (p.USER_PROPERTY, ("", "")),
    ]
    publisher.publish(topic, b"x", props=[*props[:2], (p.TOPIC_ALIAS, 1), *props[2:]])
    assert list(watcher.receive().props) == props
