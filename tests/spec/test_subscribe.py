"""SUBSCRIBE and UNSUBSCRIBE."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version
from tests.wireclient import Publish, Suback, Unsuback, encode
from tests.wireclient import properties as p


@normative("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-2.2.1-6", "MQTT-3.8.4-7", "MQTT-3.9.3-2")
@normative311("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-2.3.1-7", "MQTT-3.8.4-5", "MQTT-3.9.3-2")
@every_version
@pytest.mark.parametrize("packet_id", [1, 0x100, 0xFFFF])
def test_suback_has_the_id_of_its_subscribe(join: Join, topic: str, version: int, packet_id: int) -> None:
    client = join(version)
    client.send(encode.subscribe(version, packet_id, [(topic, 1)]))
    suback = client.expect(Suback)
    assert (suback.packet_id, suback.codes) == (packet_id, [1])


@normative("MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.9.3-1")
@normative311("MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1")
@every_version
def test_several_filters_get_their_codes_in_order(join: Join, topic: str, version: int) -> None:
    client = join(version)
    granted = [i % 3 for i in range(40)]
    assert client.subscribe(*((f"{topic}/{i}", qos) for i, qos in enumerate(granted))).codes == granted
    publisher = join(version)
    for i, qos in enumerate(granted):
        publisher.publish(f"{topic}/{i}", b"x", qos=2)
        message = client.receive()
        assert (message.topic, message.qos) == (f"{topic}/{i}", qos)


@normative("MQTT-3.8.4-5")
@normative311("MQTT-3.8.4-4")
@every_version
def test_the_same_filter_twice_in_one_subscribe(join: Join, topic: str, version: int) -> None:
    client = join(version)
    assert client.subscribe((topic, 0), (topic, 2)).codes == [0, 2]
    join(version).publish(topic, b"x", qos=2)
    assert client.receive().qos == 2
    client.expect_silence()


@normative("MQTT-3.8.4-3", "MQTT-3.8.4-4")
@normative311("MQTT-3.8.4-3")
@every_version
def test_the_same_filter_replaces_the_subscription(join: Join, topic: str, version: int) -> None:
    client, publisher = join(version), join(version)
    for granted in (2, 0, 1):
        client.subscribe((topic, granted))
        publisher.publish(topic, b"x", qos=2)
        assert client.receive().qos == granted
        client.expect_silence()


@normative("MQTT-3.8.4-4")
@normative311("MQTT-3.8.4-3")
@every_version
def test_replacing_a_subscription_loses_nothing(join: Join, topic: str, version: int) -> None:
    client, publisher = join(version), join(version)
    client.subscribe((topic, 1))
    received: list[bytes] = []
    for i in range(30):
        publisher.publish(topic, str(i).encode(), qos=1)
        client.subscribe((topic, 1))
        received.append(client.receive().payload)
    client.expect_silence()
    assert received == [str(i).encode() for i in range(30)]


@normative("MQTT-3.8.4-3")
def test_replacing_replaces_the_options_and_the_identifier(join: Join, topic: str) -> None:
    client = join()
    client.subscribe((topic, 0x0C), props=[(p.SUBSCRIPTION_ID, 1)])
    client.subscribe((topic, 0x00), props=[(p.SUBSCRIPTION_ID, 2)])
    client.publish(topic, b"x", retain=True)
    message = client.receive()
    assert (message.retain, message.values(p.SUBSCRIPTION_ID)) == (False, [2])
    client.subscribe((topic, 0x20))
    client.publish(topic, b"", retain=True)
    assert client.receive().values(p.SUBSCRIPTION_ID) == []


@normative("MQTT-3.3.4-2")
@normative311("MQTT-3.3.5-1")
@every_version
def test_overlapping_subscriptions_deliver_with_the_highest_qos(join: Join, topic: str, version: int) -> None:
    client, publisher = join(version), join(version)
    client.subscribe((topic + "/#", 0), (topic + "/+", 2), (topic + "/a", 1))
    publisher.publish(topic + "/a", b"x", qos=2)
    assert client.receive().qos == 2
    client.expect_silence()


@normative("MQTT-3.3.4-3", "MQTT-3.3.4-4")
def test_overlapping_subscriptions_send_all_their_identifiers(join: Join, topic: str) -> None:
    client, publisher = join(), join()
    client.subscribe((topic + "/#", 0), props=[(p.SUBSCRIPTION_ID, 1)])
    client.subscribe((topic + "/+", 1), props=[(p.SUBSCRIPTION_ID, 268_435_455)])
    client.subscribe((topic + "/a", 2))
    client.subscribe((topic + "/b", 2), props=[(p.SUBSCRIPTION_ID, 128)])
    publisher.publish(topic + "/a", b"x", qos=2)
    message = client.receive()
    assert sorted(message.values(p.SUBSCRIPTION_ID), key=str) == [1, 268_435_455]
    assert message.qos == 2
    publisher.publish(topic + "/b", b"x", qos=2)
    assert {*client.receive().values(p.SUBSCRIPTION_ID)} == {1, 128, 268_435_455}
    client.expect_silence()


@normative("MQTT-3.3.4-3")
@pytest.mark.parametrize("identifier", [1, 127, 128, 16383, 16384, 2097151, 2097152, 268_435_455])
def test_subscription_identifiers_of_all_sizes(join: Join, topic: str, identifier: int) -> None:
    client = join()
    client.subscribe((topic, 1), (topic + "/other", 1), props=[(p.SUBSCRIPTION_ID, identifier)])
    publisher = join()
    for name in (topic, topic + "/other"):
        publisher.publish(name, b"x", qos=1)
        assert client.receive().values(p.SUBSCRIPTION_ID) == [identifier]


@normative("MQTT-3.3.4-3", "MQTT-3.1.2-23")
def test_identifiers_are_part_of_the_session(join: Join, cid: str, topic: str) -> None:
    kept = [(p.SESSION_EXPIRY, 60)]
    first = join(5, cid, props=kept)
    first.subscribe((topic, 1), props=[(p.SUBSCRIPTION_ID, 5)])
    first.drop()
    publisher = join()
    publisher.publish(topic, b"while away", qos=1)
    second = join(5, cid, clean=False, props=kept)
    publisher.publish(topic, b"live", qos=1)
    assert [second.receive().values(p.SUBSCRIPTION_ID) for _ in range(2)] == [[5], [5]]


@normative("MQTT-3.3.4-2", "MQTT-3.8.3-3")
def test_no_local_counts_per_subscription(join: Join, topic: str) -> None:
    client = join()
    client.subscribe((topic + "/#", 0x04 | 2), (topic + "/+", 1))
    client.publish(topic + "/a", b"own", qos=2)
    message = client.receive()
    assert (message.payload, message.qos) == (b"own", 1)
    client.expect_silence()


def test_subscribe_properties_are_accepted(join: Join, topic: str) -> None:
    users: list[tuple[int, p.PropertyValue]] = [(p.USER_PROPERTY, ("k", "v")), (p.USER_PROPERTY, ("k", "v"))]
    client = join()
    assert client.subscribe(topic, props=[*users, (p.SUBSCRIPTION_ID, 1)]).codes == [0]
    assert client.unsubscribe(topic, props=users).codes == [0]


@normative("MQTT-3.8.4-6", "MQTT-3.11.3-1")
@normative311("MQTT-3.8.4-5")
@every_version
def test_a_thousand_filters_at_once(join: Join, topic: str, version: int) -> None:
    client = join(version)
    filters = [(f"{topic}/{i}/+", i % 3) for i in range(1000)]
    assert client.subscribe(*filters).codes == [i % 3 for i in range(1000)]
    assert client.unsubscribe(*(f for f, _ in filters)).codes == ([0] * 1000 if version == 5 else [])


# --- UNSUBSCRIBE -----------------------------------------------------------------------------------------------


@normative("MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-2.2.1-6", "MQTT-3.11.3-2")
@normative311("MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-2.3.1-7")
@every_version
def test_unsuback_comes_even_if_nothing_was_deleted(join: Join, topic: str, version: int) -> None:
    client = join(version)
    client.send(encode.unsubscribe(version, 0xABCD, [topic]))
    unsuback = client.expect(Unsuback)
    assert unsuback.packet_id == 0xABCD
    assert unsuback.codes == ([0x11] if version == 5 else [])


@normative("MQTT-3.10.4-1", "MQTT-3.10.4-2")
@normative311("MQTT-3.10.4-1", "MQTT-3.10.4-2")
@every_version
@pytest.mark.parametrize("suffix", ["", "/a", "/+", "/#", "/+/x/#"])
def test_unsubscribe_ends_the_delivery(join: Join, topic: str, version: int, suffix: str) -> None:
    client, publisher = join(version), join(version)
    client.subscribe(topic + suffix)
    name = topic + suffix.replace("+", "a").replace("#", "b")
    publisher.publish(name, b"before")
    assert client.receive().payload == b"before"
    assert client.unsubscribe(topic + suffix).codes == ([0] if version == 5 else [])
    publisher.publish(name, b"after")
    client.expect_silence()


@normative("MQTT-3.10.4-1")
@normative311("MQTT-3.10.4-1")
@every_version
def test_unsubscribe_compares_characters_and_matches_nothing(join: Join, topic: str, version: int) -> None:
    client = join(version)
    client.subscribe(topic + "/a", topic + "/+")
    wrong = [topic + "/#", topic + "/b", topic + "/A", topic + "/a/", "#", "+/+/+", topic]
    assert client.unsubscribe(*wrong).codes == ([0x11] * len(wrong) if version == 5 else [])
    join(version).publish(topic + "/a", b"still")
    assert client.receive().payload == b"still"


@normative("MQTT-3.10.4-6", "MQTT-3.11.3-1")
@normative311("MQTT-3.10.4-6")
@every_version
def test_several_filters_in_one_unsubscribe(join: Join, topic: str, version: int) -> None:
    client, publisher = join(version), join(version)
    client.subscribe(*(f"{topic}/{i}" for i in range(6)))
    codes = client.unsubscribe(f"{topic}/0", "no/such", f"{topic}/3", f"{topic}/3", f"{topic}/5").codes
    assert codes == ([0, 0x11, 0, 0x11, 0] if version == 5 else [])
    for i in range(6):
        publisher.publish(f"{topic}/{i}", b"x")
    assert [client.receive().topic for _ in range(3)] == [f"{topic}/{i}" for i in (1, 2, 4)]
    client.expect_silence()


@normative("MQTT-3.10.4-3")
@normative311("MQTT-3.10.4-3")
@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_what_had_begun_is_completed_after_unsubscribe(
    join: Join, cid: str, topic: str, version: int, qos: int
) -> None:
    kept = [(p.SESSION_EXPIRY, 60)] if version == 5 else []
    client = join(version, cid, clean=False, props=kept)
    client.subscribe((topic, 2))
    join(version).publish(topic, b"begun", qos=qos)
    begun = client.expect(Publish)
    client.unsubscribe(topic)
    client.drop()
    back = join(version, cid, clean=False, props=kept)
    again = back.receive()
    assert (again.packet_id, again.payload, again.dup) == (begun.packet_id, b"begun", True)
    back.expect_silence()


@normative("MQTT-3.8.4-3")
@every_version
def test_subscribing_again_after_unsubscribe(join: Join, topic: str, version: int) -> None:
    client, publisher = join(version), join(version)
    for _ in range(3):
        client.subscribe((topic, 1))
        publisher.publish(topic, b"in", qos=1)
        assert client.receive().payload == b"in"
        client.unsubscribe(topic)
        publisher.publish(topic, b"out", qos=1)
        client.expect_silence()
