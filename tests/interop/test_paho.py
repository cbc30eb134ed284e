"""paho-mqtt 2, in all three versions: what every program does with it."""

from __future__ import annotations

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from tests.brokerproc import BrokerProcess
from tests.interop.paho_clients import VERSIONS, PahoClient, properties

every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
every_qos = pytest.mark.parametrize("qos", [0, 1, 2])

V5 = MQTTProtocolVersion.MQTTv5


def persistent(broker: BrokerProcess, version: MQTTProtocolVersion, client_id: str) -> PahoClient:
    expiry = properties(PacketTypes.CONNECT, SessionExpiryInterval=300) if version == V5 else None
    return PahoClient(broker, version, client_id, clean=False, connect_properties=expiry)


@every_version
@every_qos
def test_a_message_arrives_once_with_its_qos(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion, qos: int
) -> None:
    with PahoClient(broker, version) as sub, PahoClient(broker, version) as pub:
        assert sub.subscribe(topic, qos) == [qos]
        pub.publish(topic, b"\x00\xffbinary", qos)
        pub.publish(topic, b"", qos)
        first, last = sub.received(2)
    assert (first.topic, first.payload, first.qos, first.retain) == (topic, b"\x00\xffbinary", qos, False)
    assert (last.payload, last.qos) == (b"", qos)


@every_version
def test_an_anonymous_client_may_leave_its_id_empty(broker: BrokerProcess, version: MQTTProtocolVersion) -> None:
    """paho makes an id itself in version 3.1, where the empty one is forbidden."""
    with PahoClient(broker, version) as client:
        assert not client.session_present
        assert client.connacks[-1][1].value == 0
        if version == V5:
            assert client.connack_properties["AssignedClientIdentifier"]


@every_version
@pytest.mark.parametrize("user", [("anyone", "secret"), ("anyone", None), ("", None)])
def test_a_user_name_does_not_hinder_where_anonymous_is_allowed(
    broker: BrokerProcess, version: MQTTProtocolVersion, user: tuple[str, str | None]
) -> None:
    with PahoClient(broker, version, user=user) as client:
        assert client.connacks[-1][1].value == 0


@every_version
def test_unsubscribing_ends_the_flow(broker: BrokerProcess, topic: str, version: MQTTProtocolVersion) -> None:
    with PahoClient(broker, version) as client:
        assert client.subscribe([(f"{topic}/a", 1), (f"{topic}/b", 2), (f"{topic}/c", 0)]) == [1, 2, 0]
        reasons = client.unsubscribe([f"{topic}/a", f"{topic}/never"])
        if version == V5:
            assert reasons == [0x00, 0x11]
        client.publish(f"{topic}/a", "unwanted", 1)
        client.publish(f"{topic}/b", "wanted", 1)
        assert client.payloads(1) == ["wanted"]


@every_version
def test_two_directions_of_1000_qos_2_messages_arrive_exactly_once_in_order(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion
) -> None:
    expected = [str(n) for n in range(1000)]
    with PahoClient(broker, version) as one, PahoClient(broker, version) as two:
        one.subscribe(f"{topic}/to/one", 2)
        two.subscribe(f"{topic}/to/two", 2)
        for number in expected:
            one.paho.publish(f"{topic}/to/two", number, 2)
            two.paho.publish(f"{topic}/to/one", number, 2)
        one.publish(f"{topic}/to/two", "end", 2)
        two.publish(f"{topic}/to/one", "end", 2)
        assert one.payloads(1001) == [*expected, "end"]
        assert two.payloads(1001) == [*expected, "end"]


@every_version
@every_qos
def test_the_will_of_a_vanished_client(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion, qos: int
) -> None:
    will = {"topic": topic, "payload": "gone", "qos": qos, "retain": True}
    with PahoClient(broker, version) as watcher:
        watcher.subscribe(topic, 2)
        PahoClient(broker, version, will=will).connect().vanish()
        (message,) = watcher.received(1)
        assert (message.payload, message.qos, message.retain) == (b"gone", qos, False)
        PahoClient(broker, version, will={**will, "payload": "never"}).connect().leave()
        watcher.publish(topic, "", 1, retain=True)
        assert watcher.payloads(2) == ["gone", ""]


@every_version
def test_a_retained_message_is_marked_only_for_new_subscribers(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion
) -> None:
    with PahoClient(broker, version) as early, PahoClient(broker, version) as late:
        early.subscribe(topic, 1)
        early.publish(topic, "state", 1, retain=True)
        late.subscribe(topic, 1)
        assert [(m.payload, m.retain) for m in early.received(1)] == [(b"state", False)]
        assert [(m.payload, m.retain) for m in late.received(1)] == [(b"state", True)]
        early.publish(topic, "", 1, retain=True)


@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_a_persistent_session_is_resumed(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion, qos: int
) -> None:
    client_id = topic.replace("/", "-")[-23:]
    away = [f"while away {n}" for n in range(200)]
    sleeper = persistent(broker, version, client_id).connect()
    assert not sleeper.session_present
    sleeper.subscribe(topic, qos)
    sleeper.vanish()
    with PahoClient(broker, version) as pub:
        for payload in away:
            pub.publish(topic, payload, qos)
        sleeper.connect()
        if version != MQTTProtocolVersion.MQTTv31:  # 3.1 has no such flag
            assert sleeper.session_present
        pub.publish(topic, "live", qos)
        assert sleeper.payloads(201) == [*away, "live"]
    sleeper.leave()
    with PahoClient(broker, version, client_id, clean=True) as fresh:
        assert not fresh.session_present


@every_version
def test_qos_2_stays_exactly_once_over_torn_connections(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion
) -> None:
    client_id = topic.replace("/", "-")[-20:]
    expiry = properties(PacketTypes.CONNECT, SessionExpiryInterval=300) if version == V5 else None
    pub, sub = (
        PahoClient(broker, version, client_id + role, clean=False, reconnect=True, connect_properties=expiry)
        for role in ("pub", "sub")
    )
    for client in (pub, sub):
        client.paho.reconnect_delay_set(0.05, 0.05)  # type: ignore[arg-type]  # paho only compares and waits
    with pub, sub:
        sub.subscribe(topic, 2)
        infos = [pub.paho.publish(topic, str(n), 2) for n in range(1000)]
        for torn, at in ((sub, 100), (pub, 300), (sub, 500), (pub, 700)):
            sub.await_(lambda at=at: len(sub.messages) >= at, f"{at} messages, have {len(sub.messages)}")  # type: ignore[misc]
            connected = len(torn.connacks)
            torn.tear()
            torn.await_(lambda torn=torn, n=connected: len(torn.connacks) > n, "reconnection")  # type: ignore[misc]
        for info in infos:
            info.wait_for_publish(10)
        pub.publish(topic, "end", 2)
        got = sub.payloads(1001)
    assert sorted(got[:-1], key=int) == [str(n) for n in range(1000)]
    assert got[-1] == "end"


@every_version
@pytest.mark.mosquitto_bug("2.0.11 sends no DISCONNECT to the client that is replaced")
def test_a_second_client_with_the_same_id_takes_over(
    broker: BrokerProcess, topic: str, version: MQTTProtocolVersion
) -> None:
    client_id = topic.replace("/", "-")[-23:]
    first = PahoClient(broker, version, client_id).connect()
    with PahoClient(broker, version, client_id) as second:
        first.await_(lambda: len(first.disconnects) == 1, "the end of the first connection")
        if version == V5:
            assert first.disconnects[0].value == 0x8E  # session taken over
        second.subscribe(topic, 1)
        second.publish(topic, "mine", 1)
        assert second.payloads(1) == ["mine"]
    first.leave()
