"""Mount points: what a listener's clients name is below it, and all that they see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.brokerproc import HOST, BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.wireclient import Client, Will, encode
from tests.wireclient import properties as p

VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])


class Doors:
    """A broker with listeners, and clients that come through them."""

    def __init__(self, broker: BrokerProcess, ports: list[int], clients: ExitStack) -> None:
        self.broker, self.ports, self.clients = broker, ports, clients

    def client(self, door: int, name: str, version: int = 5, **more: Any) -> Client:
        made = Client((HOST, self.ports[door]), version)
        self.clients.callback(made.close)
        made.connect(name, **more)
        return made


@contextmanager
def doors(*mounts: str, **settings: Any) -> Iterator[Doors]:
    listeners = [{"url": f"tcp://{HOST}:0", **({"mount_point": mount} if mount else {})} for mount in mounts]
    given = {key.replace("__", "."): value for key, value in settings.items()}
    with ended_cleanly(start_fastmq(given, listen=json.dumps(listeners))) as broker, ExitStack() as clients:
        await_condition(lambda: broker.log_text().count("listening") == len(mounts))
        ports = [int(line.rpartition(":")[2]) for line in broker.log_text().splitlines() if "listening" in line]
        yield Doors(broker, ports, clients)


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_clients_see_what_is_below_it_as_if_it_were_all(version: int, qos: int) -> None:
    with doors("", "site/7/") as found:
        outside, inside = found.client(0, "out", version), found.client(1, "in", version)
        outside.subscribe(("#", 2))
        inside.subscribe(("#", 2), ("a/+", 2))
        inside.publish("a/b", b"up", qos=qos)
        assert outside.receive().topic == "site/7/a/b"
        assert inside.receive().topic == "a/b"
        for topic in ("other", "site/7", "site/7b", "site/71/x"):
            outside.publish(topic, b"not yours", qos=qos)
        outside.publish("site/7/", b"no topic is left", qos=qos)
        outside.publish("site/7/c", b"x" * 5000, qos=qos)
        got = inside.receive()
        assert (got.topic, got.payload) == ("c", b"x" * 5000)
        inside.unsubscribe("#", "a/+")
        outside.publish("site/7/a/b", b"gone", qos=qos)
        inside.expect_silence()


@VERSIONS
def test_retained_wills_and_shared_subscriptions(version: int) -> None:
    with doors("", "t1/", "t2/") as found:
        one = found.client(1, "one", version, will=Will("gone", b"will", 1, True))
        other = found.client(2, "other", version)
        one.publish("kept", b"mine", qos=1, retain=True)
        other.subscribe(("#", 1), ("$share/g/#", 1))
        same = found.client(1, "same", version)
        same.subscribe(("kept", 1))
        got = same.receive()
        assert (got.topic, got.payload, got.retain) == ("kept", b"mine", True)
        same.unsubscribe("kept")
        same.subscribe(("$share/g/jobs/+", 1))
        one.publish("jobs/1", b"job", qos=1)
        assert same.receive().topic == "jobs/1"
        same.unsubscribe("$share/g/jobs/+")
        same.subscribe(("gone", 1))
        one.drop()
        got = same.receive()
        assert (got.topic, got.payload) == ("gone", b"will")
        other.expect_silence()
        assert found.client(0, "out", version).subscribe(("t1/kept", 1)).codes == [1]


def test_topic_aliases_both_ways() -> None:
    with doors("t1/") as found:
        sender = found.client(0, "a")
        receiver = found.client(0, "b", props=((p.TOPIC_ALIAS_MAXIMUM, 5),))
        receiver.subscribe(("long/topic", 0))
        sender.publish("long/topic", b"1", props=((p.TOPIC_ALIAS, 1),))
        for _ in range(3):
            sender.publish("", b"2", props=((p.TOPIC_ALIAS, 1),))
        assert [receiver.receive().topic for _ in range(4)] == ["long/topic", "", "", ""]  # an alias of ours


@VERSIONS
def test_a_mount_point_of_each_user(version: int) -> None:
    with doors("tenants/${username}/", "") as found:
        ada, bob = found.client(0, "a", version, username="ada"), found.client(0, "b", version, username="bob")
        outside = found.client(1, "out", version)
        outside.subscribe(("tenants/#", 0))
        ada.subscribe(("#", 0))
        bob.publish("x", b"of bob")
        ada.publish("x", b"of ada")
        assert ada.receive().payload == b"of ada"
        assert {outside.receive().topic for _ in range(2)} == {"tenants/ada/x", "tenants/bob/x"}
        refused = 0x87 if version == 5 else 5
        for user in (None, "ada/x", "a+", "#"):
            client = Client((HOST, found.ports[0]), version)
            found.clients.callback(client.close)
            assert client.connect("c", username=user).code == refused


def test_a_session_that_comes_back_through_another_door_gets_nothing_from_outside() -> None:
    week = ((p.SESSION_EXPIRY, 604_800),)
    with doors("", "t1/") as found:
        client = found.client(0, "c", clean=False, props=week)
        client.subscribe(("#", 1), ("$share/g/#", 1))
        client.disconnect()
        outside = found.client(0, "out")
        outside.publish("secret", b"queued", qos=1)
        outside.publish("t1/mine", b"queued", qos=1)
        client = found.client(1, "c", clean=False, props=week)
        assert client.receive().topic == "mine"
        outside.publish("secret", b"now", qos=1)
        client.expect_silence()


def test_rules_name_whole_topics() -> None:
    rules = json.dumps([{"permission": "allow", "topics": ["t1/up/#"]}, {"permission": "deny", "topics": ["#"]}])
    with doors("t1/", acl__rules=rules) as found:
        client = found.client(0, "c")
        assert client.publish("up/x", qos=1) == 0x10
        assert client.publish("t1/up/x", qos=1) == 0x87
        assert client.subscribe(("up/#", 0), ("down/#", 0)).codes == [0, 0x87]
        refused = Client((HOST, found.ports[0]))
        found.clients.callback(refused.close)
        assert refused.connect("w", will=Will("down/x", b"", 0, False)).code == 0x87


def test_topics_that_are_too_long_with_it() -> None:
    mount = "m" * 1000 + "/"
    with doors(mount, mqtt__topic_levels_max=10) as found:
        client = found.client(0, "c")
        assert client.subscribe(("x" * 65_000, 0)).codes == [0x8F]
        assert client.unsubscribe("x" * 65_000).codes == [0x11]
        assert client.publish("x" * 64_500, qos=1) == 0x10
        client.send(encode.publish(5, "x" * 65_000, b"", qos=0))
        client.expect_disconnect(0x90)
        refused = Client((HOST, found.ports[0]))
        found.clients.callback(refused.close)
        assert refused.connect("w", will=Will("x" * 65_000, b"", 0, False)).code == 0x90


@pytest.mark.parametrize("mount", ["a/#", "a/+/b", "$share/g/", "${user}/", "m" * 2000])
def test_mount_points_that_cannot_be(mount: str) -> None:
    with pytest.raises(RuntimeError, match=r"listen\[0\].mount_point"), doors(mount):
        pass
