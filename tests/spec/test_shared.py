"""Shared subscriptions."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative
from tests.spec.versions import every_version
from tests.wireclient import Client, Publish, encode
from tests.wireclient import properties as p


def arrived(*clients: Client) -> list[list[bytes]]:
    """The payloads that each client has got so far."""
    return [[message.payload for message in client.arrived()] for client in clients]


@normative("MQTT-4.8.2-1", "MQTT-4.8.2-2")
@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member(join: Join, cid: str, topic: str, version: int, qos: int) -> None:
    members = [join(version) for _ in range(3)]
    for member in members:
        member.subscribe((f"$share/{cid}/{topic}", 2))
    publisher = join(version)
    sent = [str(i).encode() for i in range(30)]
    for payload in sent:
        publisher.publish(topic, payload, qos=qos)
    got: Counter[bytes] = Counter()
    deadline = time.monotonic() + 10
    while got.total() < len(sent) and time.monotonic() < deadline:  # QoS 0 from another worker comes when it comes
        got.update(payload for one in arrived(*members) for payload in one)
    got.update(payload for one in arrived(*members) for payload in one)
    assert got == Counter(sent)


@normative("MQTT-4.8.2-1")
def test_groups_and_plain_subscribers_each_get_every_message(join: Join, cid: str, topic: str) -> None:
    plain, one, two = join(), join(), join()
    plain.subscribe((topic, 1))
    one.subscribe((f"$share/{cid}1/{topic}", 1))
    two.subscribe((f"$share/{cid}2/+/{topic.partition('/')[2]}", 1))
    publisher = join()
    for i in range(5):
        publisher.publish(topic, str(i).encode(), qos=1)
    expected = [str(i).encode() for i in range(5)]
    assert arrived(plain, one, two) == [expected] * 3


@normative("MQTT-4.8.2-1")
def test_a_client_in_two_ways_gets_both(join: Join, cid: str, topic: str) -> None:
    client = join()
    client.subscribe((f"$share/{cid}/{topic}", 1), props=[(p.SUBSCRIPTION_ID, 1)])
    client.subscribe((topic, 1), props=[(p.SUBSCRIPTION_ID, 2)])
    join().publish(topic, b"x", qos=1)
    identifiers = [i for message in client.arrived() for i in message.values(p.SUBSCRIPTION_ID)]
    assert sorted(identifiers, key=str) == [1, 2]


@normative("MQTT-4.8.2-3")
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_the_granted_qos_holds(join: Join, cid: str, topic: str, granted: int) -> None:
    member = join()
    member.subscribe((f"$share/{cid}/{topic}", granted))
    join().publish(topic, b"x", qos=2)
    assert member.receive().qos == granted


@normative("MQTT-3.8.3-4")
def test_no_local_on_a_shared_subscription_is_a_protocol_error(join: Join, cid: str, topic: str) -> None:
    client = join()
    client.send(encode.subscribe(5, 1, [(f"$share/{cid}/{topic}", 0x04)]))
    client.expect_disconnect(0x82)


@normative("MQTT-3.10.4-1")
def test_a_member_that_unsubscribes_gets_no_more(join: Join, cid: str, topic: str) -> None:
    leaving, staying, publisher = join(), join(), join()
    for member in (leaving, staying):
        member.subscribe((f"$share/{cid}/{topic}", 1))
    assert leaving.unsubscribe(topic).codes == [0x11]
    assert leaving.unsubscribe(f"$share/{cid}/{topic}").codes == [0]
    for i in range(6):
        publisher.publish(topic, str(i).encode(), qos=1)
    assert arrived(leaving, staying) == [[], [str(i).encode() for i in range(6)]]


@normative("MQTT-4.8.2-4")
def test_a_begun_qos_2_delivery_is_completed_with_its_member(join: Join, cid: str, topic: str) -> None:
    kept = [(p.SESSION_EXPIRY, 60)]
    chosen = join(5, cid, props=kept)
    chosen.subscribe((f"$share/{cid}/{topic}", 2))
    join().publish(topic, b"x", qos=2)
    message = chosen.expect(Publish)
    chosen.send(encode.ack(5, encode.PUBREC, message.packet_id))
    chosen.expect_ack("PUBREL", message.packet_id)
    other = join()
    other.subscribe((f"$share/{cid}/{topic}", 2))
    chosen.drop()
    other.expect_silence()
    back = join(5, cid, clean=False, props=kept)
    back.expect_ack("PUBREL", message.packet_id)
    back.send(encode.ack(5, encode.PUBCOMP, message.packet_id))
    back.expect_silence()
    other.expect_silence()


@normative("MQTT-4.8.2-5")
def test_a_begun_qos_2_delivery_goes_to_no_other_member(join: Join, cid: str, topic: str) -> None:
    chosen = join()
    chosen.subscribe((f"$share/{cid}/{topic}", 2))
    join().publish(topic, b"x", qos=2)
    message = chosen.expect(Publish)
    chosen.send(encode.ack(5, encode.PUBREC, message.packet_id))
    chosen.expect_ack("PUBREL", message.packet_id)
    other = join()
    other.subscribe((f"$share/{cid}/{topic}", 2))
    chosen.drop()
    other.expect_silence()


@normative("MQTT-4.8.2-6")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_refused_message_goes_to_no_other_member(join: Join, cid: str, topic: str, qos: int) -> None:
    members = [join(), join()]
    for member in members:
        member.subscribe((f"$share/{cid}/{topic}", 2))
    join().publish(topic, b"refused", qos=qos)
    for member in members:
        member.ping()
    chosen = next(m for m in members if m.waiting())
    message = chosen.expect(Publish)
    chosen.send(encode.ack(5, encode.PUBACK if qos == 1 else encode.PUBREC, message.packet_id, 0x83))
    for member in members:
        member.expect_silence()


@normative("MQTT-4.8.2-1")
def test_the_share_name_is_case_sensitive_and_groups_stay_apart(join: Join, cid: str, topic: str) -> None:
    lower, upper = join(), join()
    lower.subscribe((f"$share/g{cid}/{topic}", 1))
    upper.subscribe((f"$share/G{cid}/{topic}", 1))
    join().publish(topic, b"x", qos=1)
    assert arrived(lower, upper) == [[b"x"], [b"x"]]


def test_a_shared_filter_may_hold_wildcards_and_dollar_topics(join: Join, cid: str) -> None:
    member = join()
    member.subscribe((f"$share/{cid}/$tests/{cid}/#", 1), (f"$share/{cid}/+/{cid}", 1))
    publisher = join()
    publisher.publish(f"$tests/{cid}/a", b"explicit", qos=1)
    publisher.publish(f"$tests/{cid}", b"explicit too, but not by the plus", qos=1)
    assert arrived(member) == [[b"explicit", b"explicit too, but not by the plus"]]
