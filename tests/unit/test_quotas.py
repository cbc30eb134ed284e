"""What all sessions of one user may have together: subscriptions, and retained messages."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, await_condition, ended_cleanly, running_broker, start_fastmq
from tests.wireclient import Client, encode
from tests.wireclient import properties as p
from tests.wireclient.encode import Will

WEEK = ((p.SESSION_EXPIRY, 604_800),)


@contextmanager
def held_to(**limits: int) -> Iterator[tuple[BrokerProcess, ExitStack]]:
    settings = {f"limits.{name}": value for name, value in limits.items()}
    with running_broker({**settings, "log.connections": False}) as broker, ExitStack() as clients:
        yield broker, clients


def join(
    broker: BrokerProcess, clients: ExitStack, name: str, user: str | None, version: int = 5, **how: object
) -> Client:
    client = Client((broker.host, broker.port), version)
    clients.callback(client.close)
    assert client.connect(name, username=user, **how).code == 0  # type: ignore[arg-type]
    return client


def retained(broker: BrokerProcess, clients: ExitStack) -> dict[str, bytes]:
    """What a newcomer finds."""
    late = join(broker, clients, "", None)
    late.subscribe("r/#")
    late.ping()
    return {each.topic: each.payload for each in late.arrived()}


@pytest.mark.parametrize("version", [4, 5])
def test_subscriptions_of_all_sessions_of_a_user_count_together(version: int) -> None:
    with held_to(user_subscriptions_max=3) as (broker, clients):
        one, two = (join(broker, clients, name, "ada", version) for name in ("one", "two"))
        bob, nobody = join(broker, clients, "bob", "bob", version), join(broker, clients, "nobody", None, version)
        refused = 0x97 if version == 5 else 0x80
        assert one.subscribe("a", "b").codes == [0, 0]
        assert two.subscribe("$share/g/a", "c").codes == [0, refused]
        assert one.subscribe(("a", 1)).codes == [1]
        assert bob.subscribe("a", "b", "c", "d").codes == [0, 0, 0, refused]
        assert nobody.subscribe("a", "b", "c", "d").codes == [0, 0, 0, 0]
        one.unsubscribe("b")
        assert two.subscribe("c").codes == [0]
        assert two.subscribe("d").codes == [refused]
        one.disconnect()
        await_condition(lambda: two.subscribe("d").codes == [0])


def test_subscriptions_go_with_a_session_to_another_user() -> None:
    with held_to(user_subscriptions_max=2) as (broker, clients):
        join(broker, clients, "s", "ada", clean=False, props=WEEK).subscribe("a", "b")
        other = join(broker, clients, "o", "ada")
        assert other.subscribe("c").codes == [0x97]
        join(broker, clients, "s", "bob", clean=False, props=WEEK)
        assert other.subscribe("c").codes == [0]
        assert join(broker, clients, "b", "bob").subscribe("c").codes == [0x97]


def test_retained_messages_of_a_user_are_so_many() -> None:
    with held_to(user_retained_max=2) as (broker, clients):
        ada, bob = join(broker, clients, "a", "ada"), join(broker, clients, "b", "bob")
        for topic in ("r/1", "r/2", "r/3"):
            ada.publish(topic, b"ada", qos=1, retain=True)
        assert retained(broker, clients) == {"r/1": b"ada", "r/2": b"ada"}
        ada.publish("r/2", b"new", qos=1, retain=True)  # one's own may be replaced
        bob.publish("r/1", b"bob", qos=1, retain=True)  # and is then another's
        ada.publish("r/4", b"ada", qos=1, retain=True)
        assert retained(broker, clients) == {"r/1": b"bob", "r/2": b"new", "r/4": b"ada"}
        ada.publish("r/2", b"", qos=1, retain=True)
        ada.publish("r/5", b"ada", qos=1, retain=True)
        ada.publish("r/6", b"ada", qos=1, retain=True)
        assert retained(broker, clients) == {"r/1": b"bob", "r/4": b"ada", "r/5": b"ada"}
        ada.disconnect()
        again = join(broker, clients, "a2", "ada", will=Will("r/7", b"will", retain=True))
        again.publish("r/8", b"ada", qos=1, retain=True)  # what a user has set stays its own without a session
        again.drop()
        assert set(retained(broker, clients)) == {"r/1", "r/4", "r/5"}


def test_an_expired_message_counts_no_more() -> None:
    with held_to(user_retained_max=1) as (broker, clients):
        ada = join(broker, clients, "a", "ada")
        ada.publish("r/1", b"x", qos=1, retain=True, props=[(p.MESSAGE_EXPIRY, 1)])

        def is_taken() -> bool:
            ada.publish("r/2", b"x", qos=1, retain=True)
            return "r/2" in retained(broker, clients)

        assert not is_taken()
        await_condition(is_taken, 10)


def test_other_quotas_hold_after_sighup(tmp_path: Path) -> None:
    file = tmp_path / "fastmq.toml"
    file.write_text("limits.user_subscriptions_max = 1\nlimits.user_retained_max = 1\n")
    with ended_cleanly(start_fastmq({}, options=["--config", str(file)])) as broker, ExitStack() as clients:
        ada = join(broker, clients, "a", "ada")
        assert ada.subscribe("a", "b").codes == [0, 0x97]
        file.write_text("limits.user_subscriptions_max = 2\nlimits.user_retained_max = 2\n")
        os.kill(broker.pid, signal.SIGHUP)
        broker.await_log("read the settings again")
        assert ada.subscribe("b", "c").codes == [0, 0x97]
        for number in range(3):
            ada.publish(f"r/{number}", b"x", qos=1, retain=True)
        assert len(retained(broker, clients)) == 2


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_a_model(seed: int) -> None:
    r = random.Random(seed)
    users, filters, topics = ("ada", "bob"), [f"f/{n}" for n in range(6)], [f"r/{n}" for n in range(8)]
    most = 4
    with held_to(user_subscriptions_max=most, user_retained_max=most) as (broker, clients):
        here: dict[str, tuple[Client, str]] = {}
        subscribed: dict[str, set[str]] = {}
        setters: dict[str, str] = {}
        for _ in range(400):
            name = r.choice("wxyz")
            action = r.choice(("open", "subscribe", "subscribe", "unsubscribe", "retain", "retain", "clear", "end"))
            if action == "open" or name not in here:
                user = r.choice(users)
                here[name] = join(broker, clients, name, user, clean=False, props=WEEK), user
                subscribed.setdefault(name, set())
                continue
            client, user = here[name]
            if action == "subscribe":
                wanted = r.choice(filters)
                mine = subscribed[name]
                together = sum(len(subscribed[each]) for each in here if here[each][1] == user)
                fits = wanted in mine or together < most
                assert client.subscribe(wanted).codes == [0 if fits else 0x97]
                if fits:
                    mine.add(wanted)
            elif action == "unsubscribe":
                given = r.choice(filters)
                client.unsubscribe(given)
                subscribed[name].discard(given)
            elif action == "retain":
                topic = r.choice(topics)
                client.publish(topic, b"x", qos=1, retain=True)
                setters = {each: setter for each, setter in setters.items() if each != topic} | (
                    {topic: user} if setters.get(topic) == user or Counter(setters.values())[user] < most else {}
                )
            elif action == "clear":
                topic = r.choice(topics)
                client.publish(topic, b"", qos=1, retain=True)
                setters.pop(topic, None)
            else:
                client.send(encode.disconnect(5, props=[(p.SESSION_EXPIRY, 0)]))
                client.expect_closed()
                del here[name], subscribed[name]
        assert set(retained(broker, clients)) == set(setters)
