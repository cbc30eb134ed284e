"""paho-mqtt with MQTT 5: properties, aliases, expiry, subscription options, reason codes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.brokerproc import BrokerProcess
from tests.interop.conftest import StartBroker
from tests.interop.paho_clients import PahoClient, properties

V5 = MQTTProtocolVersion.MQTTv5


def client(broker: BrokerProcess, client_id: str = "", *, clean: bool = True, **connect: Any) -> PahoClient:
    """A version 5 client; `connect` are properties of its CONNECT."""
    given = properties(PacketTypes.CONNECT, **connect) if connect else None
    return PahoClient(broker, V5, client_id, clean=clean, connect_properties=given)


def publish_properties(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = message.properties.json()
    return found


def test_properties_of_a_message_are_forwarded_exactly(broker: BrokerProcess, topic: str) -> None:
    sent = properties(
        PacketTypes.PUBLISH,
        PayloadFormatIndicator=1,
        MessageExpiryInterval=100,
        ContentType="text/plain; charset=utf-8",
        ResponseTopic=f"{topic}/réponse",
        CorrelationData=b"\x00\x01\xfe\xff",
        UserProperty=[("a", "1"), ("b", "ü"), ("a", "2"), ("", ""), ("a", "1")],
    )
    with client(broker) as sub, client(broker) as pub:
        sub.subscribe(topic, 1)
        pub.publish(topic, "x", 1, properties=sent)
        (message,) = sub.received(1)
    got: Any = message.properties
    assert got.UserProperty == sent.UserProperty
    assert got.CorrelationData == sent.CorrelationData
    assert (got.ResponseTopic, got.ContentType) == (sent.ResponseTopic, sent.ContentType)
    assert got.PayloadFormatIndicator == 1
    assert 98 <= got.MessageExpiryInterval <= 100
    assert set(publish_properties(message)) == set(sent.json())


def test_properties_of_a_will_become_those_of_its_message(broker: BrokerProcess, topic: str) -> None:
    sent = properties(
        PacketTypes.WILLMESSAGE,
        ContentType="text/plain",
        CorrelationData=b"dead",
        ResponseTopic="tell/whom",
        UserProperty=[("cause", "unknown")],
        WillDelayInterval=0,
    )
    will = {"topic": topic, "payload": "gone", "qos": 1, "properties": sent}
    with client(broker) as watcher:
        watcher.subscribe(topic, 1)
        PahoClient(broker, V5, will=will).connect().vanish()
        (message,) = watcher.received(1)
    got: Any = message.properties
    assert got.UserProperty == [("cause", "unknown")]
    assert set(publish_properties(message)) == {"ContentType", "CorrelationData", "ResponseTopic", "UserProperty"}


def test_a_topic_alias_of_the_client_stands_for_its_topic(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as sub, client(broker) as pub:
        assert pub.connack_properties["TopicAliasMaximum"] >= 8  # OwnTracks uses 1 to 8
        sub.subscribe(f"{topic}/#", 1)
        for alias in range(1, 9):
            pub.publish(f"{topic}/{alias}", "set", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=alias))
        for alias in range(1, 9):
            pub.publish("", "used", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=alias))
        pub.publish(f"{topic}/new", "moved", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=8))
        pub.publish("", "used", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=8))
        messages = sub.received(18)
    numbered = [f"{topic}/{alias}" for alias in range(1, 9)]
    assert [m.topic for m in messages] == [*numbered, *numbered, f"{topic}/new", f"{topic}/new"]
    assert not any("TopicAlias" in publish_properties(m) for m in messages)


@pytest.mark.mosquitto_bug("2.0 has no aliases towards clients")
def test_the_server_uses_aliases_towards_a_client_that_allows_them(broker: BrokerProcess, topic: str) -> None:
    with client(broker, TopicAliasMaximum=2) as sub, client(broker) as pub:
        sub.subscribe(f"{topic}/#", 1)
        for _ in range(3):
            for name in "abc":
                pub.publish(f"{topic}/{name}", name, 1)
        messages = sub.received(9)
    # paho leaves aliases to the program: keep the table here.
    table: dict[int, str] = {}
    for message in messages:
        alias = publish_properties(message).get("TopicAlias")
        if alias is not None and message.topic:
            table[alias] = message.topic
        resolved = message.topic or table[alias or 0]
        assert resolved == f"{topic}/{message.payload.decode()}"
    assert set(table) <= {1, 2}
    assert any(not message.topic for message in messages)


def test_without_a_topic_alias_maximum_topics_are_whole(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as sub, client(broker) as pub:
        sub.subscribe(topic, 0)
        for _ in range(5):
            pub.publish(topic, "x", 1)
        assert all(m.topic == topic and "TopicAlias" not in publish_properties(m) for m in sub.received(5))


def test_a_session_lives_as_long_as_it_asked(broker: BrokerProcess, topic: str) -> None:
    short = client(broker, f"{topic}/short", clean=False, SessionExpiryInterval=1).connect()
    long = client(broker, f"{topic}/long", clean=False, SessionExpiryInterval=300).connect()
    none = client(broker, f"{topic}/none", clean=False).connect()
    for sleeper in (short, long, none):
        sleeper.subscribe(topic, 1)
        sleeper.vanish()
    expired_at = time.monotonic() + 2.6
    with client(broker) as pub:
        while time.monotonic() < expired_at:  # nothing announces an expiry: wait for its time
            pub.publish(f"{topic}/other", "tick", 1)
    presence = [sleeper.connect().session_present for sleeper in (short, long, none)]
    for sleeper in (short, long, none):
        sleeper.leave(disconnect_properties=properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0))
    assert presence == [False, True, False]


def test_a_disconnect_may_shorten_the_session(broker: BrokerProcess, topic: str) -> None:
    sleeper = client(broker, topic, clean=False, SessionExpiryInterval=300).connect()
    sleeper.leave(disconnect_properties=properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0))
    assert not sleeper.connect().session_present
    sleeper.leave()


def test_a_disconnect_with_will_publishes_it(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as watcher:
        watcher.subscribe(topic, 1)
        leaving = PahoClient(broker, V5, will={"topic": topic, "payload": "gone", "qos": 1}).connect()
        leaving.leave(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        assert watcher.payloads(1) == ["gone"]


def test_no_local_spares_the_sender(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as one, client(broker) as two:
        one.subscribe([(topic, SubscribeOptions(qos=1, noLocal=True))])
        two.subscribe([(topic, SubscribeOptions(qos=1, noLocal=False))])
        one.publish(topic, "from one", 1)
        two.publish(topic, "from two", 1)
        assert one.payloads(1) == ["from two"]
        assert two.payloads(2) == ["from one", "from two"]


def test_retain_as_published_keeps_the_flag(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as keeps, client(broker) as loses:
        keeps.subscribe([(topic, SubscribeOptions(qos=1, retainAsPublished=True))])
        loses.subscribe([(topic, SubscribeOptions(qos=1, retainAsPublished=False))])
        keeps.publish(topic, "state", 1, retain=True)
        keeps.publish(topic, "", 1, retain=True)
        assert [m.retain for m in keeps.received(2)] == [True, True]
        assert [m.retain for m in loses.received(2)] == [False, False]


def test_retain_handling_chooses_when_retained_messages_come(broker: BrokerProcess, topic: str) -> None:
    def options(handling: int) -> list[tuple[str, SubscribeOptions]]:
        return [(topic, SubscribeOptions(qos=1, retainHandling=handling))]

    with client(broker) as pub:
        pub.publish(topic, "state", 1, retain=True)
        with client(broker) as always, client(broker) as if_new, client(broker) as never:
            for _ in range(2):
                always.subscribe(options(SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE))
                if_new.subscribe(options(SubscribeOptions.RETAIN_SEND_IF_NEW_SUB))
                never.subscribe(options(SubscribeOptions.RETAIN_DO_NOT_SEND))
            pub.publish(topic, "", 1, retain=True)
            assert always.payloads(3) == ["state", "state", ""]
            assert if_new.payloads(2) == ["state", ""]
            assert never.payloads(1) == [""]


def test_all_matching_subscription_identifiers_come_along(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as sub, client(broker) as pub:
        for number, name in ((7, f"{topic}/a"), (300, f"{topic}/+"), (268_435_455, f"{topic}/other")):
            identifier = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number)
            sub.subscribe(name, 1, identifier)
        pub.publish(f"{topic}/a", "x", 1)
        pub.publish(f"{topic}/other", "end", 1)
        identifiers: dict[str, list[int]] = {}
        sub.await_(lambda: any(m.payload == b"end" for m in sub.messages), "the last message")
        while sum(len(found) for found in identifiers.values()) < 4:
            identifiers = {}
            for message in sub.received(2):
                found = publish_properties(message)["SubscriptionIdentifier"]
                identifiers.setdefault(message.topic, []).extend(found)
    # One message for all of its subscriptions, or one for each: both are allowed.
    assert sorted(identifiers[f"{topic}/a"]) == [7, 300]
    assert sorted(identifiers[f"{topic}/other"]) == [300, 268_435_455]


def test_an_expired_message_does_not_reach_a_sleeper(broker: BrokerProcess, topic: str) -> None:
    sleeper = client(broker, topic, clean=False, SessionExpiryInterval=300).connect()
    sleeper.subscribe(topic, 1)
    sleeper.leave()
    with client(broker) as pub:
        pub.publish(topic, "brief", 1, properties=properties(PacketTypes.PUBLISH, MessageExpiryInterval=1))
        pub.publish(topic, "long", 1, properties=properties(PacketTypes.PUBLISH, MessageExpiryInterval=100))
        expired_at = time.monotonic() + 2.1
        while time.monotonic() < expired_at:  # nothing announces an expiry: wait for its time
            pub.publish(f"{topic}/other", "tick", 1)
    (message,) = sleeper.connect().received(1)
    sleeper.leave(disconnect_properties=properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0))
    assert message.payload == b"long"
    assert 90 <= publish_properties(message)["MessageExpiryInterval"] <= 98


def test_a_responder_answers_a_request(broker: BrokerProcess, topic: str) -> None:
    with client(broker) as requester, client(broker) as responder:
        responder.subscribe(f"{topic}/ask", 1)
        requester.subscribe(f"{topic}/answer/#", 1)
        for number in range(3):
            ask = properties(
                PacketTypes.PUBLISH, ResponseTopic=f"{topic}/answer/{number}", CorrelationData=bytes([number])
            )
            requester.publish(f"{topic}/ask", f"question {number}", 1, properties=ask)
        for request in responder.received(3):
            asked: Any = request.properties
            reply = properties(PacketTypes.PUBLISH, CorrelationData=asked.CorrelationData)
            responder.publish(asked.ResponseTopic, b"re: " + request.payload, 1, properties=reply)
        answers = requester.received(3)
    assert [(m.topic, m.payload) for m in answers] == [
        (f"{topic}/answer/{n}", f"re: question {n}".encode()) for n in range(3)
    ]
    assert [publish_properties(m)["CorrelationData"] for m in answers] == [f"{n:02x}" for n in range(3)]


def test_a_packet_larger_than_the_client_takes_is_left_out(broker: BrokerProcess, topic: str) -> None:
    with client(broker, MaximumPacketSize=200) as small, client(broker) as pub:
        small.subscribe(topic, 1)
        pub.publish(topic, "x" * 500, 1)
        pub.publish(topic, "fits", 1)
        assert small.payloads(1) == ["fits"]


def test_a_small_receive_maximum_is_respected(broker: BrokerProcess, topic: str) -> None:
    """paho counts nothing itself; that all arrive in order through a window of one shows the broker's patience."""
    with client(broker, ReceiveMaximum=1) as narrow, client(broker) as pub:
        narrow.subscribe(topic, 2)
        for number in range(100):
            pub.paho.publish(topic, str(number), 2)
        assert narrow.payloads(100) == [str(number) for number in range(100)]


@pytest.mark.mosquitto_bug("2.0.11 says nothing when it ends")
def test_a_broker_that_stops_says_so(start_broker: StartBroker, topic: str) -> None:
    broker = start_broker({})
    clients = [client(broker, f"{topic}/{n}").connect() for n in range(20)]
    broker.stop()
    for connected in clients:
        connected.await_(lambda one=connected: len(one.disconnects) == 1, "DISCONNECT")  # type: ignore[misc]
        assert connected.disconnects[0].value == 0x8B  # server shutting down
        connected.leave()
