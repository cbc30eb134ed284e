"""mosquitto_pub and mosquitto_sub of Debian against the broker: every option their users have in their fingers."""

from __future__ import annotations

import time

import pytest

from tests.brokerproc import BrokerProcess, await_condition
from tests.interop.mosquitto_clients import VERSIONS, MosquittoSub, publish, subscribe_once

every_version = pytest.mark.parametrize("version", VERSIONS)
every_qos = pytest.mark.parametrize("qos", [0, 1, 2])

QUOTA_BUG = "2.0.11 sends more QoS 2 messages than the client's Receive Maximum allows"


@every_version
@every_qos
def test_a_message_arrives_once_with_its_qos(broker: BrokerProcess, topic: str, version: str, qos: int) -> None:
    with MosquittoSub(broker, "-V", version, "-t", topic, "-q", qos) as sub:
        publish(broker, "-V", version, "-t", topic, "-q", qos, "-m", "grüß Gott")
        publish(broker, "-V", version, "-t", topic, "-q", qos, "-m", "end")
        first, last = sub.messages(2)
    assert (first["topic"], first["payload"], first["qos"], first["retain"]) == (topic, "grüß Gott", qos, 0)
    assert last["payload"] == "end"


@every_version
@every_qos
@pytest.mark.mosquitto_bug(QUOTA_BUG)
def test_lines_of_stdin_arrive_in_order(broker: BrokerProcess, topic: str, version: str, qos: int) -> None:
    lines = [f"line {n}" for n in range(500)]
    with MosquittoSub(broker, "-V", version, "-t", topic, "-q", qos) as sub:
        publish(broker, "-V", version, "-t", topic, "-q", qos, "-l", stdin="\n".join(lines).encode() + b"\n")
        assert sub.payloads(500) == lines


@pytest.mark.parametrize("receiver", VERSIONS)
@pytest.mark.parametrize("sender", VERSIONS)
def test_versions_talk_to_each_other(broker: BrokerProcess, topic: str, sender: str, receiver: str) -> None:
    with MosquittoSub(broker, "-V", receiver, "-t", topic, "-q", 2) as sub:
        publish(broker, "-V", sender, "-t", topic, "-q", 1, "-m", "across")
        (message,) = sub.messages(1)
    assert (message["payload"], message["qos"]) == ("across", 1)


@pytest.mark.parametrize(("published", "subscribed"), [(2, 0), (2, 1), (1, 0), (0, 2)])
def test_qos_is_the_lower_of_both(broker: BrokerProcess, topic: str, published: int, subscribed: int) -> None:
    with MosquittoSub(broker, "-t", topic, "-q", subscribed) as sub:
        publish(broker, "-t", topic, "-q", published, "-m", "x")
        assert sub.messages(1)[0]["qos"] == min(published, subscribed)


@every_version
def test_a_retained_message_greets_later_subscribers_until_it_is_cleared(
    broker: BrokerProcess, topic: str, version: str
) -> None:
    publish(broker, "-V", version, "-t", topic, "-q", 1, "-r", "-m", "old")
    publish(broker, "-V", version, "-t", topic, "-q", 1, "-r", "-m", "new")
    with MosquittoSub(broker, "-V", version, "-t", topic, "-q", 1) as sub:
        (message,) = sub.messages(1)
        assert (message["payload"], message["retain"], message["qos"]) == ("new", 1, 1)
        publish(broker, "-V", version, "-t", topic, "-r", "-n")
        cleared = sub.messages(2)[1]
        assert (cleared["payloadlen"], cleared["retain"]) == (0, 0)
    with MosquittoSub(broker, "-V", version, "-t", topic) as sub:
        publish(broker, "-V", version, "-t", topic, "-m", "live")
        assert [(m["payload"], m["retain"]) for m in sub.messages(1)] == [("live", 0)]


@every_version
def test_remove_retained_clears_what_it_sees(broker: BrokerProcess, topic: str, version: str) -> None:
    for n in range(5):
        publish(broker, "-V", version, "-t", f"{topic}/{n}", "-r", "-m", "stale")
    with MosquittoSub(broker, "-V", version, "-t", f"{topic}/#", "--remove-retained") as remover:
        for n in range(5):
            remover.await_debug(rf"received PUBACK \(Mid: {n + 2}")
    with MosquittoSub(broker, "-V", version, "-t", f"{topic}/#") as late:
        publish(broker, "-V", version, "-t", topic, "-m", "live")
        assert late.payloads(1) == ["live"]


@every_version
@every_qos
def test_the_will_of_a_killed_client_is_published(broker: BrokerProcess, topic: str, version: str, qos: int) -> None:
    will = ("--will-topic", f"{topic}/will", "--will-payload", "gone", "--will-qos", qos, "--will-retain")
    with MosquittoSub(broker, "-V", version, "-t", f"{topic}/will", "-q", 2) as watcher:
        MosquittoSub(broker, "-V", version, "-t", f"{topic}/none", *will).kill()
        (message,) = watcher.messages(1)
        assert (message["payload"], message["qos"], message["retain"]) == ("gone", qos, 0)
    with MosquittoSub(broker, "-V", version, "-t", f"{topic}/will", "-q", 2) as late:
        assert late.messages(1)[0]["retain"] == 1
    publish(broker, "-t", f"{topic}/will", "-r", "-n")


@every_version
def test_the_will_of_a_client_that_says_goodbye(broker: BrokerProcess, topic: str, version: str) -> None:
    with MosquittoSub(broker, "-V", version, "-t", f"{topic}/#") as watcher:
        will = ("--will-topic", f"{topic}/will", "--will-payload", "gone")
        MosquittoSub(broker, "-V", version, "-t", f"{topic}/none", *will).leave()
        publish(broker, "-t", f"{topic}/end", "-m", "end")
        # In version 5 mosquitto_sub says goodbye with DISCONNECT 0x04: publish my will. [MQTT-3.14.2-1]
        expected = ["gone", "end"] if version == "mqttv5" else ["end"]
        assert watcher.payloads(len(expected)) == expected


@every_version
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.mosquitto_bug(QUOTA_BUG)
def test_a_persistent_session_queues_while_its_client_is_away(
    broker: BrokerProcess, topic: str, version: str, qos: int
) -> None:
    session = ("-V", version, "-t", topic, "-q", qos, "-c", "-i", topic.replace("/", "-")[-23:])
    MosquittoSub(broker, *session).leave()
    away = [f"while away {n}" for n in range(100)]
    publish(broker, "-V", version, "-t", topic, "-q", qos, "-l", stdin="\n".join(away).encode() + b"\n")
    with MosquittoSub(broker, *session) as back:
        publish(broker, "-V", version, "-t", topic, "-q", qos, "-m", "live")
        assert back.payloads(101) == [*away, "live"]
    # A clean start forgets the session and what waits in it.
    publish(broker, "-V", version, "-t", topic, "-q", qos, "-m", "forgotten")
    with MosquittoSub(broker, *(arg for arg in session if arg != "-c")) as fresh:
        publish(broker, "-V", version, "-t", topic, "-q", qos, "-m", "fresh")
        assert fresh.payloads(1) == ["fresh"]


def test_a_session_of_version_5_expires_when_its_client_wished(broker: BrokerProcess, topic: str) -> None:
    session = ("-V", "mqttv5", "-t", topic, "-q", 1, "-c", "-x", 1, "-i", topic.replace("/", "-"))
    MosquittoSub(broker, *session).leave()
    publish(broker, "-t", topic, "-q", 1, "-m", "too old")
    expired_at = time.monotonic() + 2.6
    while time.monotonic() < expired_at:  # nothing announces an expiry: wait for its time
        publish(broker, "-t", f"{topic}/other", "-m", "tick")
    with MosquittoSub(broker, *session) as back:
        publish(broker, "-t", topic, "-q", 1, "-m", "live")
        assert back.payloads(1) == ["live"]


@every_version
def test_a_shared_subscription_divides_the_messages(broker: BrokerProcess, topic: str, version: str) -> None:
    share = ("-V", version, "-t", f"$share/crew/{topic}/#", "-q", 1)
    everything = [str(n) for n in range(100)]
    with (
        MosquittoSub(broker, *share) as one,
        MosquittoSub(broker, *share) as two,
        MosquittoSub(broker, "-V", version, "-t", f"{topic}/#", "-q", 1) as witness,
    ):
        publish(
            broker, "-V", version, "-t", f"{topic}/job", "-q", 1, "-l", stdin="\n".join(everything).encode() + b"\n"
        )
        assert witness.payloads(100) == everything
        await_condition(lambda: len(one.messages(0)) + len(two.messages(0)) >= 100, what="all 100 messages")
        first, second = one.payloads(0), two.payloads(0)
    # Each once, and each member's share in order; a member whose window is full is passed over, so about half each.
    assert sorted(first + second, key=int) == everything
    assert [sorted(share, key=int) for share in (first, second)] == [first, second]
    assert min(len(first), len(second)) >= 20


@every_version
@pytest.mark.parametrize(
    ("filter", "matching", "others"),
    [
        ("{t}/+/b", ["{t}/a/b", "{t}//b"], ["{t}/a/b/c", "{t}/b"]),
        ("{t}/#", ["{t}", "{t}/a", "{t}/a/b/c"], ["{t}x"]),
        ("+/+/x/#", ["{t}/x", "{t}/x/y"], ["{t}/y"]),
        ("{t}/a+", [], []),
    ],
)
def test_wildcards(
    broker: BrokerProcess, topic: str, version: str, filter: str, matching: list[str], others: list[str]
) -> None:
    filter = filter.format(t=topic)
    if "a+" in filter:  # mosquitto_sub refuses it itself; the broker has to live on
        assert subscribe_once(broker, "-V", version, "-t", filter, "-W", 1).returncode != 0
        return
    with MosquittoSub(broker, "-V", version, "-t", filter, "-t", f"{topic}/the/end") as sub:
        for name in [*others, *matching]:
            publish(broker, "-V", version, "-t", name.format(t=topic), "-m", "x")
        publish(broker, "-V", version, "-t", f"{topic}/the/end", "-m", "end")
        topics = [message["topic"] for message in sub.messages(len(matching) + 1)]
    # Overlapping subscriptions may deliver the last message once for each.
    assert topics[: len(matching)] == [name.format(t=topic) for name in matching]
    assert set(topics[len(matching) :]) == {f"{topic}/the/end"}


@every_version
def test_waiting_in_vain_ends_with_the_timeout(broker: BrokerProcess, topic: str, version: str) -> None:
    started = time.monotonic()
    done = subscribe_once(broker, "-V", version, "-t", topic, "-W", 1)
    assert (done.returncode, done.stdout) == (27, b"")
    assert 0.5 < time.monotonic() - started < 5


@every_version
@every_qos
def test_a_large_payload_is_unharmed(broker: BrokerProcess, topic: str, version: str, qos: int) -> None:
    payload = bytes(range(256)) * 3516  # 900,096 bytes
    with MosquittoSub(broker, "-V", version, "-t", topic, "-q", qos, output='{"hex":"%x"}') as sub:
        publish(broker, "-V", version, "-t", topic, "-q", qos, "-s", stdin=payload)
        (message,) = sub.messages(1)
    assert bytes.fromhex(message["hex"]) == payload


@every_version
def test_an_empty_payload_arrives(broker: BrokerProcess, topic: str, version: str) -> None:
    with MosquittoSub(broker, "-V", version, "-t", topic) as sub:
        publish(broker, "-V", version, "-t", topic, "-n")
        assert [m["payloadlen"] for m in sub.messages(1)] == [0]


@every_version
def test_the_broker_tells_its_version(broker: BrokerProcess, version: str) -> None:
    done = subscribe_once(broker, "-V", version, "-t", "$SYS/broker/version", "-C", 1, "-W", 5)
    assert done.returncode == 0
    assert done.stdout.decode().startswith(broker.name)


def test_a_lone_hash_does_not_show_the_system_topics(broker: BrokerProcess, topic: str) -> None:
    with MosquittoSub(broker, "-t", "#", "-R") as sub:
        publish(broker, "-t", topic, "-m", "mine")
        assert all(not message["topic"].startswith("$") for message in sub.messages(1))


def test_properties_of_version_5_are_forwarded(broker: BrokerProcess, topic: str) -> None:
    sent = {
        "content-type": "application/json",
        "correlation-data": "order 7",
        "message-expiry-interval": "60",
        "payload-format-indicator": "1",
        "response-topic": f"{topic}/reply",
    }
    args = [part for name, value in sent.items() for part in ("-D", "publish", name, value)]
    args += ["-D", "publish", "user-property", "from", "a", "-D", "publish", "user-property", "über", "größe"]
    with MosquittoSub(broker, "-V", "mqttv5", "-t", topic, "-q", 1) as sub:
        publish(broker, "-V", "mqttv5", "-t", topic, "-q", 1, "-m", "{}", *args)
        (message,) = sub.messages(1)
    properties = message["properties"]
    assert properties.pop("user-properties") == {"from": "a", "über": "größe"}
    assert 58 <= int(properties.pop("message-expiry-interval")) <= 60
    assert {name: str(value) for name, value in properties.items()} == {
        name: value for name, value in sent.items() if name != "message-expiry-interval"
    }


def test_a_repeated_user_property_keeps_its_order(broker: BrokerProcess, topic: str) -> None:
    pairs = [("k", "1"), ("k", "2"), ("a", "3"), ("k", "1")]
    args = [part for pair in pairs for part in ("-D", "publish", "user-property", *pair)]
    with MosquittoSub(broker, "-V", "mqttv5", "-t", topic, output='{"pairs":"%P"}') as sub:
        publish(broker, "-V", "mqttv5", "-t", topic, "-m", "x", *args)
        (message,) = sub.messages(1)
    assert message["pairs"].split() == [f"{key}:{value}" for key, value in pairs]


def test_an_expired_retained_message_is_not_sent(broker: BrokerProcess, topic: str) -> None:
    publish(broker, "-V", "mqttv5", "-t", topic, "-r", "-m", "brief", "-D", "publish", "message-expiry-interval", 1)
    expired_at = time.monotonic() + 2.1
    while time.monotonic() < expired_at:  # nothing announces an expiry: wait for its time
        publish(broker, "-t", f"{topic}/other", "-m", "tick")
    with MosquittoSub(broker, "-V", "mqttv5", "-t", topic) as sub:
        publish(broker, "-t", topic, "-m", "live")
        assert sub.payloads(1) == ["live"]


def test_a_will_delay_holds_the_will_back(broker: BrokerProcess, topic: str) -> None:
    will = ("--will-topic", f"{topic}/will", "--will-payload", "gone", "-D", "will", "will-delay-interval", 1)
    with MosquittoSub(broker, "-V", "mqttv5", "-t", f"{topic}/#") as watcher:
        dying = MosquittoSub(broker, "-V", "mqttv5", "-t", "none", "-c", "-x", 60, "-i", topic, *will)
        dying.kill()
        died_at = time.monotonic()
        assert watcher.payloads(1) == ["gone"]
        assert 0.8 < time.monotonic() - died_at < 4


def test_subscription_identifiers_come_back(broker: BrokerProcess, topic: str) -> None:
    with MosquittoSub(
        broker, "-V", "mqttv5", "-t", topic, "-D", "subscribe", "subscription-identifier", 77, output='{"id":"%S"}'
    ) as sub:
        publish(broker, "-t", topic, "-m", "x")
        assert sub.messages(1) == [{"id": "77"}]
