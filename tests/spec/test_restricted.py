"""A server without the optional features says so and refuses them."""

from __future__ import annotations

import pytest

from tests.spec.brokers import Address
from tests.spec.conftest import Dial, Join
from tests.spec.normative import normative, normative311
from tests.wireclient import Will, encode
from tests.wireclient import properties as p

RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x9A, 0x9B
SHARED_NOT_SUPPORTED, IDENTIFIERS_NOT_SUPPORTED, WILDCARDS_NOT_SUPPORTED = 0x9E, 0xA1, 0xA2


@normative("MQTT-3.2.2-9")
def test_connack_tells_what_is_missing(join: Join, restricted: Address) -> None:
    client = join(at=restricted)
    assert client.connack is not None
    assert client.connack.value(p.MAXIMUM_QOS) == 1
    missing = (p.RETAIN_AVAILABLE, p.WILDCARD_AVAILABLE, p.SUBSCRIPTION_ID_AVAILABLE, p.SHARED_AVAILABLE)
    assert [client.connack.value(i) for i in missing] == [0, 0, 0, 0]


def test_connack_of_a_full_server_hides_nothing(join: Join) -> None:
    client = join()
    assert client.connack is not None
    assert client.connack.value(p.MAXIMUM_QOS) is None
    present = (p.RETAIN_AVAILABLE, p.WILDCARD_AVAILABLE, p.SUBSCRIPTION_ID_AVAILABLE, p.SHARED_AVAILABLE)
    assert all(client.connack.value(i) in (None, 1) for i in present)


@normative("MQTT-3.2.2-10")
def test_a_subscribe_with_qos_2_is_still_accepted(join: Join, restricted: Address, topic: str) -> None:
    client = join(at=restricted)
    assert client.subscribe((topic, 2), (topic + "/1", 1), (topic + "/0", 0)).codes == [1, 1, 0]
    client.publish(topic, b"x", qos=1)
    assert client.receive().qos == 1


@normative("MQTT-3.2.2-11")
def test_a_publish_above_the_maximum_qos_is_refused(join: Join, restricted: Address, topic: str) -> None:
    client = join(at=restricted)
    client.send(encode.publish(5, topic, b"x", qos=2, packet_id=1))
    client.expect_disconnect(QOS_NOT_SUPPORTED)


@normative("MQTT-3.2.2-12", "MQTT-3.2.2-7")
def test_a_will_above_the_maximum_qos_is_refused(dial: Dial, restricted: Address, cid: str, topic: str) -> None:
    client = dial(at=restricted)
    assert client.connect(cid, will=Will(topic, b"x", qos=2)).code == QOS_NOT_SUPPORTED
    client.expect_closed()


@normative("MQTT-3.2.2-13", "MQTT-3.2.2-7")
def test_a_retained_will_is_refused(dial: Dial, restricted: Address, cid: str, topic: str) -> None:
    client = dial(at=restricted)
    assert client.connect(cid, will=Will(topic, b"x", retain=True)).code == RETAIN_NOT_SUPPORTED
    client.expect_closed()


@normative("MQTT-3.2.2-14")
def test_a_retained_message_is_refused(join: Join, restricted: Address, topic: str) -> None:
    client = join(at=restricted)
    client.send(encode.publish(5, topic, b"x", retain=True))
    client.expect_disconnect(RETAIN_NOT_SUPPORTED)


@normative("MQTT-3.8.4-7")
@normative311("MQTT-3.8.3-2")
@pytest.mark.parametrize("version", [4, 5])
def test_wildcards_are_refused(join: Join, restricted: Address, topic: str, version: int) -> None:
    client = join(version, at=restricted)
    refused = WILDCARDS_NOT_SUPPORTED if version == 5 else 0x80
    assert client.subscribe(topic, topic + "/+", "#").codes == [0, refused, refused]


def test_shared_subscriptions_are_refused(join: Join, restricted: Address, topic: str) -> None:
    assert join(at=restricted).subscribe(f"$share/g/{topic}").codes == [SHARED_NOT_SUPPORTED]


def test_subscription_identifiers_are_refused(join: Join, restricted: Address, topic: str) -> None:
    client = join(at=restricted)
    client.send(encode.subscribe(5, 1, [(topic, 0)], props=[(p.SUBSCRIPTION_ID, 1)]))
    answer = client.recv()
    assert getattr(answer, "code", None) == IDENTIFIERS_NOT_SUPPORTED or getattr(answer, "codes", None) == [
        IDENTIFIERS_NOT_SUPPORTED
    ]


@normative("MQTT-3.2.2-18", "MQTT-3.3.2-9")
def test_an_alias_is_refused_when_there_are_none(join: Join, restricted: Address, topic: str) -> None:
    client = join(at=restricted)
    assert client.connack is not None
    assert client.connack.value(p.TOPIC_ALIAS_MAXIMUM) in (None, 0)
    client.send(encode.publish(5, topic, b"x", props=[(p.TOPIC_ALIAS, 1)]))
    client.expect_disconnect(0x94)


@normative("MQTT-3.1.2-2", "MQTT-3.2.2-7")
@normative311("MQTT-3.1.2-2", "MQTT-3.2.2-5")
@pytest.mark.parametrize(("version", "code"), [(3, 1), (5, 0x84)])
def test_a_version_that_is_switched_off_is_refused(dial: Dial, only_311: Address, version: int, code: int) -> None:
    client = dial(version, at=only_311)
    assert client.connect("x").code == code
    client.expect_closed()


def test_a_version_that_is_left_on_is_accepted(join: Join, only_311: Address) -> None:
    join(4, at=only_311).ping()


@normative("MQTT-3.8.4-7", "MQTT-3.9.3-2")
@normative311("MQTT-3.8.4-5", "MQTT-3.9.3-2")
@pytest.mark.parametrize("version", [4, 5])
def test_subscriptions_above_the_limit_are_refused(join: Join, limited: Address, topic: str, version: int) -> None:
    client = join(version, at=limited, keep_alive=2)
    refused = 0x97 if version == 5 else 0x80
    wanted = [(f"{topic}/{i}", 1) for i in range(6)]
    assert client.subscribe(*wanted).codes == [1, 1, 1, 1, refused, refused]
    # What exists may be replaced, and a place that was given up is free.
    assert client.subscribe((f"{topic}/0", 0)).codes == [0]
    client.unsubscribe(f"{topic}/1")
    assert client.subscribe((f"{topic}/5", 0)).codes == [0]
    client.publish(f"{topic}/5", b"x")
    assert client.receive().payload == b"x"
