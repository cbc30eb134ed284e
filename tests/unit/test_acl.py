"""Access control lists at work: what clients are denied, and how they and the log hear of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fastmq.errors import StartError
from fastmq.testing import BackgroundBroker
from tests.brokerproc import BrokerProcess, await_condition, running_broker
from tests.wireclient import Client, Publish, Will

VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])
NOT_AUTHORIZED = 0x87


class Guarded:
    """A broker with rules, and its clients."""

    def __init__(self, broker: BrokerProcess, clients: ExitStack) -> None:
        self._broker = broker
        self._clients = clients

    @property
    def log(self) -> str:
        return self._broker.log_text()

    def stranger(self, version: int = 5) -> Client:
        """Has sent no CONNECT."""
        made = Client((self._broker.host, self._broker.port), version)
        self._clients.callback(made.close)
        return made

    def client(self, name: str, version: int = 5, *, clean: bool = True, user: str | None = None) -> Client:
        made = self.stranger(version)
        props = ((0x11, 600),) if version == 5 and not clean else ()
        assert made.connect(name, clean=clean, username=user, props=props).code == 0
        return made


@contextmanager
def guarded(*rules: dict[str, object], **settings: str | bool) -> Iterator[Guarded]:
    more = {f"acl.{key}": value for key, value in settings.items()}
    if rules:
        more["acl.rules"] = json.dumps(rules)
    with running_broker(more) as broker, ExitStack() as clients:
        yield Guarded(broker, clients)


def allow(*topics: str, **more: object) -> dict[str, object]:
    return {"permission": "allow", "topics": topics, **more}


def deny(*topics: str, **more: object) -> dict[str, object]:
    return {"permission": "deny", "topics": topics, **more}


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_may_not_be_published_is_not_routed(version: int, qos: int) -> None:
    with guarded(allow("yes/#", "no/#", action="subscribe"), allow("yes/${clientid}", action="publish")) as broker:
        reader, writer = broker.client("reader"), broker.client("writer", version)
        reader.subscribe(("#", 2))
        assert writer.publish("no/writer", b"1", qos=qos) == (NOT_AUTHORIZED if version == 5 and qos else 0)
        writer.publish("yes/other", b"2", qos=qos)
        writer.publish("yes/writer", b"3", qos=qos)
        writer.publish("no/writer", b"4", qos=qos, retain=True)
        assert [message.payload for message in reader.arrived()] == [b"3"]
        await_condition(lambda: "denied client=writer action=publish topic=no/writer rule=acl.no_match" in broker.log)
        assert broker.client("late").subscribe("no/writer").codes == [0]


@VERSIONS
def test_what_may_not_be_read_cannot_be_subscribed_to(version: int) -> None:
    with guarded(deny("a/secret"), allow("a/+", action="subscribe", qos=[0, 1])) as broker:
        reader = broker.client("reader", version)
        denied = NOT_AUTHORIZED if version == 5 else 0x80
        codes = reader.subscribe(("a/b", 1), ("a/secret", 1), ("a/b/c", 0), ("a/c", 2)).codes
        assert codes == [1, denied, denied, denied]
        assert reader.subscribe(("#", 1)).codes == [1]  # it gets the part that it may read


def test_who_subscribes_to_more_than_it_may_gets_its_part() -> None:
    rules = deny("a/secret", usernames=["", "eve"]), allow("#")
    with guarded(*rules) as broker:
        writer, reader = broker.client("writer", user="root"), broker.client("reader")
        writer.publish("a/secret", b"old", retain=True)
        writer.publish("a/open", b"old", retain=True)
        reader.subscribe(("#", 2), ("a/+", 1))
        assert {(message.topic, message.payload) for message in reader.arrived()} == {("a/open", b"old")}
        for qos in (0, 1, 2):
            writer.publish("a/secret", b"new", qos=qos)
            writer.publish("a/open", b"new", qos=qos)
        assert {message.topic for message in reader.arrived()} == {"a/open"}


def test_without_checks_on_delivery_only_the_whole_can_be_subscribed_to() -> None:
    with guarded(deny("a/secret"), allow("a/#"), check_delivery=False) as broker:
        reader = broker.client("reader")
        assert reader.subscribe("a/#", "a/open", "#").codes == [NOT_AUTHORIZED, 0, NOT_AUTHORIZED]


def test_a_shared_subscription_must_be_allowed_as_a_whole() -> None:
    with guarded(deny("a/secret"), allow("a/#")) as broker:
        codes = broker.client("reader").subscribe("$share/g/a/#", "$share/g/a/b", "$share/g/a/secret").codes
        assert codes == [NOT_AUTHORIZED, 0, NOT_AUTHORIZED]


def test_another_user_does_not_get_what_a_session_has_waiting() -> None:
    """The same client identifier, and other rights: neither what was queued nor what was in flight leaves."""
    with guarded(allow("#", usernames=["ada"]), allow("open/#")) as broker:
        ada = broker.client("x", clean=False, user="ada")
        ada.subscribe(("#", 1), ("$share/g/secret/#", 1))
        writer = broker.client("writer", user="ada")
        writer.publish("secret/flight", b"1", qos=1)
        ada.expect(Publish)
        ada.expect(Publish)  # its share
        ada.drop()
        for topic in ("secret/queued", "open/queued"):
            writer.publish(topic, b"2", qos=1)
        eve = broker.client("x", clean=False, user="eve")
        writer.publish("secret/now", b"3", qos=1)
        assert [message.topic for message in eve.arrived()] == ["open/queued"]
        eve.drop()
        again = broker.client("x", clean=False, user="ada")
        # What waited for the group was not lost, only held back.
        assert sorted(message.topic for message in again.arrived()) == ["secret/flight", "secret/now", "secret/queued"]


@VERSIONS
def test_a_will_that_may_not_be_published_is_refused_at_once(version: int) -> None:
    with guarded(allow("status/${clientid}")) as broker:
        bad, good = broker.stranger(version), broker.stranger(version)
        refused = bad.connect("c1", will=Will("status/c2", b"gone"))
        assert refused.code == (NOT_AUTHORIZED if version == 5 else 5)
        assert good.connect("c1", will=Will("status/c1", b"gone")).code == 0
        await_condition(lambda: "its will: acl.no_match" in broker.log)


def test_denied_clients_can_be_disconnected() -> None:
    with guarded(allow("a"), deny_action="disconnect") as broker:
        writer, reader = broker.client("writer"), broker.client("reader")
        writer.publish("a")
        writer.send(b"\x30\x03\x00\x01b") if writer.version < 5 else writer.send(b"\x30\x04\x00\x01b\x00")
        writer.expect_disconnect(NOT_AUTHORIZED)
        assert reader.subscribe("b").codes == [NOT_AUTHORIZED]
        reader.expect_disconnect(NOT_AUTHORIZED)


def test_a_client_without_an_identifier_gets_its_own_place() -> None:
    with guarded(allow("d/${clientid}")) as broker:
        nameless = broker.stranger()
        connack = nameless.connect("")
        name = str(dict(connack.props)[0x12])
        assert nameless.publish(f"d/{name}", qos=1) == 0x10  # no subscribers
        assert nameless.publish("d/", qos=1) == NOT_AUTHORIZED


def test_a_changed_file_holds_for_connected_clients(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("topic a\n")
    with guarded(file=str(path)) as broker:
        writer = broker.client("writer")
        reader = broker.client("reader")
        assert reader.subscribe(("a", 0), ("$share/g/a", 0)).codes == [0, 0]
        assert writer.publish("b", qos=1) == NOT_AUTHORIZED
        path.write_text("topic b\ntopic readwrite c\n")
        await_condition(lambda: writer.publish("b", qos=1) != NOT_AUTHORIZED, 10)
        assert writer.publish("a", qos=1) == NOT_AUTHORIZED
        path.write_text("topic write a\n")
        await_condition(lambda: writer.publish("a", qos=1) != NOT_AUTHORIZED, 10)
        assert reader.arrived() == []
        path.write_text("topic nonsense a\n")
        await_condition(lambda: f"{path}:1: must be read, write, readwrite or deny" in broker.log, 10)
        assert writer.publish("a", qos=1) != NOT_AUTHORIZED
        path.write_text("topic a\n")
        await_condition(lambda: bool(writer.publish("a", b"x", qos=1) == 0 and reader.arrived()), 10)


def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("topik a\n")
    with pytest.raises(RuntimeError, match="acl:1: must begin with user, topic or pattern"), guarded(file=str(path)):
        pass


def test_a_program_gives_its_own_authorizer() -> None:
    with pytest.raises(StartError, match="acl is for `fastmq serve`"):
        BackgroundBroker(acl__file="x").start()
