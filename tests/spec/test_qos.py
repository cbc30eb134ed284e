"""QoS 1 and 2, both directions, packet by packet."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_version, from_311
from tests.wireclient import Ack, Publish, encode
from tests.wireclient import properties as p

NOT_FOUND = 0x92
PUBACK, PUBREC, PUBREL, PUBCOMP = encode.PUBACK, encode.PUBREC, encode.PUBREL, encode.PUBCOMP


# --- to the server ---------------------------------------------------------------------------------------------


@normative("MQTT-4.3.2-4", "MQTT-2.2.1-5", "MQTT-3.3.4-1", "MQTT-3.4.2-1")
@normative311("MQTT-4.3.2-2", "MQTT-2.3.1-6", "MQTT-3.3.4-1", "MQTT-3.3.5-2")
@every_version
@pytest.mark.parametrize("packet_id", [1, 2, 0x100, 0x7FFF, 0xFFFF])
def test_qos_1_is_answered_by_puback(join: Join, topic: str, version: int, packet_id: int) -> None:
    publisher = join(version)
    publisher.subscribe(topic)
    publisher.send(encode.publish(version, topic, b"x", qos=1, packet_id=packet_id))
    assert publisher.wait_for(Ack) == Ack([], "PUBACK", packet_id, 0)
    assert publisher.receive().payload == b"x"


@normative("MQTT-4.3.2-5")
@normative311("MQTT-4.3.2-2")
@every_version
def test_after_puback_the_same_id_is_a_new_message(join: Join, topic: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe(topic)
    for payload, dup in ((b"1", False), (b"2", True), (b"2", False)):
        publisher.send(encode.publish(version, topic, payload, qos=1, dup=dup, packet_id=9))
        publisher.expect_ack("PUBACK", 9)
    assert subscriber.receive_payloads(3) == [b"1", b"2", b"2"]


@normative("MQTT-4.3.3-8", "MQTT-4.3.3-11", "MQTT-4.3.3-12", "MQTT-2.2.1-5", "MQTT-3.5.2-1", "MQTT-3.7.2-1")
@normative311("MQTT-4.3.3-2", "MQTT-2.3.1-6")
@every_version
@pytest.mark.parametrize("packet_id", [1, 0xFFFF])
def test_qos_2_is_answered_by_pubrec_and_pubcomp(join: Join, topic: str, version: int, packet_id: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe(topic)
    for payload in (b"1", b"2"):
        publisher.send(encode.publish(version, topic, payload, qos=2, packet_id=packet_id))
        publisher.expect_ack("PUBREC", packet_id)
        publisher.send(encode.ack(version, PUBREL, packet_id))
        publisher.expect_ack("PUBCOMP", packet_id)
    assert subscriber.receive_payloads(2) == [b"1", b"2"]
    subscriber.expect_silence()


@normative("MQTT-4.3.3-10")
@normative311("MQTT-4.3.3-2")
@every_version
def test_a_qos_2_message_sent_again_is_delivered_once(join: Join, topic: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 2))
    for dup in (False, True, False, True):
        publisher.send(encode.publish(version, topic, b"once", qos=2, dup=dup, packet_id=5))
        publisher.expect_ack("PUBREC", 5)
    for _ in range(2):
        publisher.send(encode.ack(version, PUBREL, 5))
        answer = publisher.expect(Ack)
        assert (answer.kind, answer.packet_id) == ("PUBCOMP", 5)
    assert subscriber.receive().payload == b"once"
    subscriber.expect_silence()


@normative("MQTT-4.3.3-10", "MQTT-3.1.2-5", "MQTT-3.1.2-23")
@normative311("MQTT-4.3.3-2", "MQTT-3.1.2-4", "MQTT-2.3.1-3")
@every_version
def test_a_qos_2_message_sent_again_after_a_break_is_delivered_once(
    join: Join, cid: str, topic: str, version: int
) -> None:
    kept = [(p.SESSION_EXPIRY, 60)] if version == 5 else []
    subscriber = join(version)
    subscriber.subscribe((topic, 2))
    publisher = join(version, cid, clean=False, props=kept)
    publisher.send(encode.publish(version, topic, b"once", qos=2, packet_id=5))
    publisher.expect_ack("PUBREC", 5)
    publisher.drop()
    publisher = join(version, cid, clean=False, props=kept)
    publisher.send(encode.publish(version, topic, b"once", qos=2, dup=True, packet_id=5))
    publisher.expect_ack("PUBREC", 5)
    publisher.drop()
    publisher = join(version, cid, clean=False, props=kept)
    publisher.send(encode.ack(version, PUBREL, 5))
    publisher.expect_ack("PUBCOMP", 5)
    assert subscriber.receive().payload == b"once"
    subscriber.expect_silence()


@normative("MQTT-3.1.2-4", "MQTT-4.1.0-2")
@normative311("MQTT-3.1.2-6")
@every_version
def test_a_new_session_knows_no_unreleased_ids(join: Join, cid: str, topic: str, version: int) -> None:
    subscriber = join(version)
    subscriber.subscribe((topic, 2))
    for payload in (b"1", b"2"):
        publisher = join(version, cid, clean=True)
        publisher.send(encode.publish(version, topic, payload, qos=2, packet_id=5))
        publisher.expect_ack("PUBREC", 5)
        publisher.send(encode.ack(version, PUBREL, 5))
        publisher.expect_ack("PUBCOMP", 5)
        publisher.send(encode.publish(version, topic, payload + b"!", qos=2, packet_id=6))
        publisher.expect_ack("PUBREC", 6)
        publisher.drop()
    publisher = join(version, cid, clean=True)
    publisher.send(encode.publish(version, topic, b"3", qos=2, packet_id=6))
    publisher.expect_ack("PUBREC", 6)
    publisher.send(encode.ack(version, PUBREL, 6))
    publisher.expect_ack("PUBCOMP", 6)
    # Whether a message is passed on at its PUBLISH or at its PUBREL is the server's choice.
    assert [m.payload for m in subscriber.arrived() if not m.payload.endswith(b"!")] == [b"1", b"2", b"3"]


@normative("MQTT-4.3.3-10", "MQTT-2.2.1-5")
@normative311("MQTT-4.3.3-2")
@every_version
def test_ids_of_two_clients_have_nothing_to_do_with_each_other(join: Join, topic: str, version: int) -> None:
    subscriber, one, two = join(version), join(version), join(version)
    subscriber.subscribe((topic, 2))
    for publisher, payload in ((one, b"one"), (two, b"two")):
        publisher.send(encode.publish(version, topic, payload, qos=2, packet_id=5))
        publisher.expect_ack("PUBREC", 5)
    for publisher in (two, one):
        publisher.send(encode.ack(version, PUBREL, 5))
        publisher.expect_ack("PUBCOMP", 5)
    assert sorted(m.payload for m in subscriber.arrived()) == [b"one", b"two"]


@normative("MQTT-3.7.2-1", "MQTT-4.3.3-11")
@every_version
def test_pubrel_of_an_unknown_id_is_answered(join: Join, version: int) -> None:
    client = join(version)
    client.send(encode.ack(version, PUBREL, 4711))
    client.expect_ack("PUBCOMP", 4711, NOT_FOUND if version == 5 else 0)


@from_311
def test_acknowledgements_of_unknown_ids_do_no_harm(join: Join, version: int) -> None:
    client = join(version)
    client.send(encode.ack(version, PUBACK, 4711), encode.ack(version, PUBCOMP, 4712))
    client.expect_silence()


@normative("MQTT-3.6.2-1")
def test_pubrec_of_an_unknown_id_is_answered_by_not_found(join: Join) -> None:
    client = join()
    client.send(encode.ack(5, PUBREC, 4711))
    client.expect_ack("PUBREL", 4711, NOT_FOUND)


@normative("MQTT-4.3.2-4", "MQTT-4.3.3-8")
def test_long_forms_of_acknowledgements_are_understood(join: Join, topic: str) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe((topic, 2))
    extra: list[tuple[int, p.PropertyValue]] = [(p.REASON_STRING, "fine"), (p.USER_PROPERTY, ("k", "v"))]
    publisher.send(encode.publish(5, topic, b"1", qos=2, packet_id=1))
    publisher.expect_ack("PUBREC", 1)
    publisher.send(encode.ack(5, PUBREL, 1, 0, extra))
    publisher.expect_ack("PUBCOMP", 1)
    message = subscriber.expect(Publish)
    subscriber.send(encode.ack(5, PUBREC, message.packet_id, 0x10, extra))
    subscriber.expect_ack("PUBREL", message.packet_id)
    subscriber.send(encode.ack(5, PUBCOMP, message.packet_id, 0, extra))
    publisher.publish(topic, b"2", qos=1)
    message = subscriber.expect(Publish)
    # A code without a property length is allowed; a length of zero too.
    subscriber.send(encode.frame(PUBACK, encode.u16(message.packet_id) + b"\x00\x00"))
    subscriber.expect_silence()


@normative("MQTT-4.3.3-11")
def test_pubrel_with_not_found_ends_the_exchange(join: Join, topic: str) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe((topic, 2))
    publisher.send(encode.publish(5, topic, b"1", qos=2, packet_id=1))
    publisher.expect_ack("PUBREC", 1)
    publisher.send(encode.ack(5, PUBREL, 1, NOT_FOUND))
    answer = publisher.expect(Ack)
    assert (answer.kind, answer.packet_id) == ("PUBCOMP", 1)


@normative("MQTT-4.3.3-9", "MQTT-3.5.2-1")
def test_after_a_refusing_pubrec_the_same_id_is_a_new_message(join: Join, topic: str) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe((topic, 2))
    # Topics of the server itself are not for clients to write to.
    publisher.send(encode.publish(5, "$SYS/broker/version", b"forged", qos=2, packet_id=5))
    assert publisher.expect(Ack) == Ack([], "PUBREC", 5, 0x87)
    publisher.send(encode.publish(5, topic, b"fine", qos=2, packet_id=5))
    publisher.expect_ack("PUBREC", 5)
    publisher.send(encode.ack(5, PUBREL, 5))
    publisher.expect_ack("PUBCOMP", 5)
    assert subscriber.receive().payload == b"fine"


@normative("MQTT-3.4.2-1")
@normative311("MQTT-3.3.5-2")
@from_311
def test_messages_to_the_servers_own_topics_are_refused(join: Join, cid: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((f"$SYS/{cid}", 2))
    assert publisher.publish(f"$SYS/{cid}", b"x", qos=1) == (0x87 if version == 5 else 0)
    publisher.publish(f"$SYS/{cid}", b"x", retain=True)
    subscriber.expect_silence()


# --- from the server -------------------------------------------------------------------------------------------


@normative("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.2-2", "MQTT-4.3.3-1", "MQTT-4.3.3-2")
@normative311("MQTT-2.3.1-1", "MQTT-2.3.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_messages_in_flight_have_different_ids(join: Join, topic: str, version: int, qos: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 2))
    for i in range(15):
        publisher.publish(topic, str(i).encode(), qos=qos)
    messages = [subscriber.expect(Publish) for _ in range(15)]
    assert len({m.packet_id for m in messages}) == 15
    assert all(m.packet_id and not m.dup and m.qos == qos for m in messages)
    assert [m.payload for m in messages] == [str(i).encode() for i in range(15)]


@normative("MQTT-4.3.3-4", "MQTT-2.2.1-5", "MQTT-3.6.2-1", "MQTT-4.6.0-4")
@normative311("MQTT-4.3.3-1", "MQTT-2.3.1-6", "MQTT-4.6.0-4")
@every_version
def test_each_pubrec_is_answered_by_pubrel_in_order(join: Join, topic: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 2))
    for i in range(4):
        publisher.publish(topic, str(i).encode(), qos=2)
    ids = [subscriber.expect(Publish).packet_id for _ in range(4)]
    mixed = [ids[2], ids[0], ids[3], ids[1]]
    subscriber.send(*(encode.ack(version, PUBREC, i) for i in mixed))
    assert [subscriber.expect_ack("PUBREL").packet_id for _ in mixed] == mixed
    subscriber.send(*(encode.ack(version, PUBCOMP, i) for i in mixed))
    subscriber.expect_silence()


@normative("MQTT-4.3.2-3")
@normative311("MQTT-4.3.2-1", "MQTT-2.3.1-4")
@every_version
def test_an_id_is_used_again_only_after_its_puback(join: Join, topic: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 1))
    publisher.publish(topic, b"held", qos=1)
    held = subscriber.expect(Publish).packet_id
    for _ in range(300):
        publisher.publish(topic, b"x", qos=1)
        message = subscriber.expect(Publish)
        assert message.packet_id != held
        subscriber.send(encode.ack(version, PUBACK, message.packet_id))


@normative("MQTT-4.4.0-1")
@normative311("MQTT-4.4.0-1")
@every_version
def test_nothing_is_sent_again_on_a_living_connection(join: Join, topic: str, version: int) -> None:
    subscriber, publisher = join(version), join(version)
    subscriber.subscribe((topic, 2))
    publisher.publish(topic, b"1", qos=1)
    publisher.publish(topic, b"2", qos=2)
    subscriber.expect(Publish)
    subscriber.expect(Publish)
    for _ in range(3):
        subscriber.expect_silence()


@normative("MQTT-4.4.0-2", "MQTT-4.3.3-4")
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
def test_a_refusal_ends_the_exchange_for_ever(join: Join, cid: str, topic: str, qos: int, code: int) -> None:
    kept = [(p.SESSION_EXPIRY, 60)]
    subscriber = join(5, cid, props=kept)
    subscriber.subscribe((topic, 2))
    join().publish(topic, b"refused", qos=qos)
    message = subscriber.expect(Publish)
    subscriber.send(encode.ack(5, PUBACK if qos == 1 else PUBREC, message.packet_id, code))
    subscriber.expect_silence()
    subscriber.drop()
    join(5, cid, clean=False, props=kept).expect_silence()
