"""User names and passwords: what a chain of authenticators decides, and what happens while it decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from fastmq._hub import Hub
from fastmq.broker.deadlines import Deadlines
from fastmq.contracts import Authentication, Authenticator, Credentials
from fastmq.errors import StartError
from fastmq.reasons import Reason
from fastmq.testing import BackgroundBroker
from tests.brokerproc import await_condition
from tests.wireclient import Ack, Client, Connack, Suback, Will, encode
from tests.wireclient import properties as p

VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])
SUCCESS, UNAVAILABLE, BAD_PASSWORD, NOT_AUTHORIZED = 0x00, 0x88, 0x86, 0x87


class Table:
    """Knows some users and leaves the others to the next."""

    def __init__(self, **users: str) -> None:
        self._users = users
        self.asked: list[Credentials] = []

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        self.asked.append(credentials)
        known = self._users.get(credentials.username or "")
        if known is None:
            return None
        right = credentials.password == known.encode()
        return Authentication(reason=Reason.SUCCESS if right else Reason.BAD_USER_NAME_OR_PASSWORD)


class Always:
    """Answers everybody the same."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        return Authentication(reason=self.reason)


class Broken:
    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        raise ConnectionError("the directory does not answer")


class Gate:
    """Lets people wait until the test opens it, then decides by name."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.waiting = 0

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        self._loop = asyncio.get_running_loop()
        self.waiting += 1
        await self._opened.wait()
        good = credentials.username == "good"
        return Authentication(reason=Reason.SUCCESS if good else Reason.NOT_AUTHORIZED)

    def waits_for(self, number: int) -> bool:
        return self.waiting == number

    def open(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._opened.set)


Start = Callable[..., BackgroundBroker]
Dial = Callable[..., Client]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: ExitStack) -> Start:
    """Starts a broker with these authenticators."""
    return lambda *chain, **settings: stack.enter_context(BackgroundBroker(authenticators=chain, **settings))


@pytest.fixture
def dial(stack: ExitStack) -> Dial:
    def dial(broker: BackgroundBroker, version: int = 5) -> Client:
        client = Client((broker.host, broker.port), version)
        stack.callback(client.close)
        return client

    return dial


def code(version: int, reason: int) -> int:
    """What a CONNACK of that version says for an MQTT 5 reason."""
    if version == 5 or reason == SUCCESS:
        return reason
    return {BAD_PASSWORD: 4, NOT_AUTHORIZED: 5, UNAVAILABLE: 3}[reason]


# -- verdicts ----------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize(
    ("username", "password", "reason"),
    [
        ("alice", b"right", SUCCESS),
        ("alice", b"wrong", BAD_PASSWORD),
        ("alice", b"", BAD_PASSWORD),
        ("alice", None, BAD_PASSWORD),
        ("bob", b"right", BAD_PASSWORD),
        (None, None, SUCCESS),
    ],
)
def test_a_table_of_passwords(
    start: Start, dial: Dial, version: int, username: str | None, password: bytes | None, reason: int
) -> None:
    client = dial(start(Table(alice="right")), version)
    assert client.connect("c", username=username, password=password).code == code(version, reason)
    if reason == SUCCESS:
        client.ping()
    else:
        client.expect_closed()


@VERSIONS
def test_anonymous_clients_may_be_kept_out(start: Start, dial: Dial, version: int) -> None:
    broker = start(Table(alice="right"), **{"auth.allow_anonymous": False})
    client = dial(broker, version)
    assert client.connect("c").code == code(version, NOT_AUTHORIZED)
    client.expect_closed()
    assert dial(broker, version).connect("c", username="alice", password=b"right").code == SUCCESS


@VERSIONS
def test_no_authenticator_knows_no_anonymous(start: Start, dial: Dial, version: int) -> None:
    client = dial(start(**{"auth.allow_anonymous": False}), version)
    assert client.connect("c").code == code(version, NOT_AUTHORIZED)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([Table(alice="right"), Always(Reason.BANNED)], SUCCESS),
        ([Table(bob="x"), Table(alice="right")], SUCCESS),
        ([Table(bob="x"), Table(carol="y")], BAD_PASSWORD),
        ([Table(alice="other"), Always(Reason.SUCCESS)], BAD_PASSWORD),
        ([Table(), Always(Reason.SUCCESS)], SUCCESS),
        ([Always(Reason.NOT_AUTHORIZED), Table(alice="right")], NOT_AUTHORIZED),
        ([Table(alice="right"), Broken()], SUCCESS),
        ([Table(bob="x"), Broken(), Table(alice="right")], UNAVAILABLE),
        ([Broken()], UNAVAILABLE),
    ],
)
@VERSIONS
def test_the_first_that_answers_decides(
    start: Start, dial: Dial, chain: list[Authenticator], reason: int, version: int
) -> None:
    client = dial(start(*chain), version)
    assert client.connect("c", username="alice", password=b"right").code == code(version, reason)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.BAD_USER_NAME_OR_PASSWORD,
        Reason.NOT_AUTHORIZED,
        Reason.BANNED,
        Reason.QUOTA_EXCEEDED,
        Reason.SERVER_BUSY,
        Reason.CONNECTION_RATE_EXCEEDED,
    ],
)
def test_mqtt_5_is_told_the_very_reason(start: Start, dial: Dial, reason: Reason) -> None:
    client = dial(start(Always(reason)))
    assert client.connect("c").code == reason
    client.expect_closed()


def test_who_is_sent_elsewhere_is_told_where(start: Start, dial: Dial) -> None:
    client = dial(start(Always(Reason.USE_ANOTHER_SERVER), **{"mqtt.server_reference": "other.example:1883"}))
    connack = client.connect("c")
    assert (connack.code, connack.value(p.SERVER_REFERENCE)) == (0x9C, "other.example:1883")


@VERSIONS
def test_it_is_told_all_that_is_offered(start: Start, dial: Dial, version: int) -> None:
    table = Table()
    client = dial(start(table), version)
    client.connect("é-1", username="ü", password=b"\0\xff")
    asked = table.asked[0]
    assert (asked.client_id, asked.username, asked.password, asked.version) == ("é-1", "ü", b"\0\xff", version)
    assert asked.peer.rpartition(":")[0] == "127.0.0.1"
    assert "xff" not in repr(asked), "a password must not get into a log"


def test_a_password_without_a_user_name(start: Start, dial: Dial) -> None:
    table = Table()
    dial(start(table)).connect("c", password=b"token")
    assert (table.asked[0].username, table.asked[0].password) == (None, b"token")


def test_who_is_refused_changes_nothing(start: Start, dial: Dial) -> None:
    broker = start(Table(alice="right"))
    wills = broker.messages("will")
    alice = dial(broker)
    alice.connect("c", username="alice", password=b"right", props=[(p.SESSION_EXPIRY, 100)])
    alice.subscribe("a")
    for clean in (True, False):
        mallory = dial(broker)
        refused = mallory.connect("c", clean=clean, username="alice", password=b"guess", will=Will("will"))
        assert (refused.code, refused.session_present) == (BAD_PASSWORD, False)
        mallory.expect_closed()
    alice.publish("a", b"still here", qos=1)
    assert alice.receive().payload == b"still here"
    assert wills.all() == []
    assert broker.stats()["sessions"] == 1


# -- what a verdict may say besides ------------------------------------------------------------------------------------


class Lets:
    """Lets everybody in, with this answer."""

    def __init__(self, **answer: Any) -> None:
        self.answer = Authentication(**answer)

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        return self.answer


@VERSIONS
def test_a_client_may_be_given_another_identifier(start: Start, dial: Dial, version: int) -> None:
    broker = start(Lets(client_id="device-7"))
    assert dial(broker, version).connect("c").code == SUCCESS
    assert [client.client_id for client in broker.clients()] == ["device-7"]


def test_an_identifier_that_no_client_may_have_is_refused(start: Start, dial: Dial) -> None:
    broker = start(Lets(client_id="x" * 30), **{"mqtt.client_id_max_bytes": 23})
    assert dial(broker).connect("c").code == 0x85


@VERSIONS
def test_what_has_expired_lets_nobody_in(start: Start, dial: Dial, version: int) -> None:
    assert dial(start(Lets(expires_at=time.time() - 1)), version).connect("c").code == code(version, NOT_AUTHORIZED)


def test_who_shows_what_expires_is_let_go_in_time(start: Start, dial: Dial) -> None:
    begun = time.time()
    client = dial(start(Lets(expires_at=begun + 0.5)))
    assert client.connect("c").code == SUCCESS
    client.expect_disconnect(NOT_AUTHORIZED)
    assert time.time() >= begun + 0.5


def test_deadlines_are_kept_of_those_who_stay_only() -> None:
    """A heap that grew with each connect would be a leak."""

    class Open:
        def __init__(self) -> None:
            self.ids = {1}
            self.ended: list[int] = []

        def is_open(self, conn: int) -> bool:
            return conn in self.ids

        def close_connection(self, conn: int, reason: int) -> bool:
            self.ended.append(conn)
            return True

    async def story() -> None:
        hub, now = Open(), [100.0]
        deadlines = Deadlines(cast(Hub, hub), lambda: now[0])
        assert not deadlines.set(1, 100.0)
        assert deadlines.set(1, 200.0)
        for conn in range(2, 1000):
            assert deadlines.set(conn, 150.0)
        assert len(deadlines._heap) <= 65
        now[0] = 200.0
        deadlines.look()
        assert hub.ended[-1] == 1
        deadlines.close()

    asyncio.run(story())


# -- listeners ---------------------------------------------------------------------------------------------------------


def test_a_listener_may_have_its_own_word_on_anonymous_clients(start: Start, dial: Dial) -> None:
    tables: list[Any] = [{"url": "tcp://127.0.0.1:0", "name": "in", "allow_anonymous": "yes"}]
    assert dial(start(Table(), listen=tables, **{"auth.allow_anonymous": False})).connect("c").code == SUCCESS
    tables[0]["allow_anonymous"] = "no"
    assert dial(start(Table(), listen=tables)).connect("c").code == NOT_AUTHORIZED


def test_an_authenticator_is_told_the_listener(start: Start, dial: Dial) -> None:
    table = Table()
    dial(start(table, listen=[{"url": "tcp://127.0.0.1:0", "name": "devices"}])).connect("c")
    assert table.asked[0].listener == "devices"


def test_a_chain_in_the_settings_of_a_program_is_not_ignored(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"auth\.chain is for `fastmq serve`"),
        BackgroundBroker(auth__chain=[{"method": "file", "path": str(tmp_path / "users")}]),
    ):
        pass


# -- meanwhile ---------------------------------------------------------------------------------------------------------


@VERSIONS
def test_packets_sent_ahead_wait_for_the_verdict(start: Start, dial: Dial, version: int) -> None:
    gate = Gate()
    broker = start(gate)
    heard = broker.messages("a")
    client = dial(broker, version)
    client.send(
        encode.connect(version, client_id="c", username="good", password=b""),
        encode.subscribe(version, 1, [("a", 1)]),
        *(encode.publish(version, "a", str(n).encode() * 1000, qos=1, packet_id=n) for n in range(2, 100)),
        encode.PINGREQ,
    )
    await_condition(lambda: gate.waiting == 1)
    assert heard.all() == []
    gate.open()
    assert client.expect(Connack).code == SUCCESS
    assert client.wait_for(Suback).packet_id == 1
    client.ping()
    assert len(heard.wait(98)) == 98


@VERSIONS
def test_packets_of_who_is_refused_are_not_heard(start: Start, dial: Dial, version: int) -> None:
    gate = Gate()
    broker = start(gate)
    heard = broker.messages("a")
    client = dial(broker, version)
    client.send(
        encode.connect(version, client_id="c", username="bad", password=b""),
        encode.publish(version, "a", b"x", retain=True),
    )
    await_condition(lambda: gate.waiting == 1)
    gate.open()
    assert client.expect(Connack).code == code(version, NOT_AUTHORIZED)
    client.expect_closed()
    assert heard.all() == []
    assert broker.messages("a").all() == []


def test_who_sends_too_much_ahead_is_not_read(start: Start, dial: Dial) -> None:
    gate = Gate()
    broker = start(gate)
    client = dial(broker)
    client.send(encode.connect(client_id="c", username="good", password=b""), encode.subscribe(5, 1, [("done", 1)]))
    await_condition(lambda: gate.waiting == 1)
    before = broker.stats()["memory_bytes"]
    sent = [encode.publish(5, "a", bytes(100_000), qos=1, packet_id=n) for n in range(2, 12)]
    client.send(*sent)
    assert broker.stats()["memory_bytes"] < before + 3_000_000
    gate.open()
    assert client.expect(Connack).code == SUCCESS
    assert client.wait_for(Suback).packet_id == 1
    assert [client.wait_for(Ack).packet_id for _ in sent] == list(range(2, 12))


def test_a_slow_authenticator_keeps_only_its_own_client_waiting(start: Start, dial: Dial) -> None:
    class SlowForSome(Gate):
        async def authenticate(self, credentials: Credentials) -> Authentication | None:
            return None if credentials.username is None else await super().authenticate(credentials)

    gate = SlowForSome()
    broker = start(gate)
    slow = [dial(broker) for _ in range(20)]
    for number, client in enumerate(slow):
        client.send(encode.connect(client_id=f"s{number}", username="good", password=b""))
    quick = dial(broker)
    quick.connect("q")
    quick.subscribe("a")
    quick.publish("a", b"x")
    assert quick.receive().payload == b"x"
    await_condition(lambda: gate.waiting == 20)
    gate.open()
    assert [client.expect(Connack).code for client in slow] == [SUCCESS] * 20


def test_who_leaves_before_the_verdict_is_gone_after_it(start: Start, dial: Dial) -> None:
    gate = Gate()
    broker = start(gate)
    client = dial(broker)
    client.send(encode.connect(client_id="c", username="good", password=b""))
    await_condition(lambda: gate.waiting == 1)
    client.close()
    gate.open()
    assert dial(broker).connect("d", username="good", password=b"").code == SUCCESS
    await_condition(lambda: [each.client_id for each in broker.clients()] == ["d"])
    assert broker.stats()["connections"] == 1


def test_the_last_verdict_under_one_client_id_holds(start: Start, dial: Dial) -> None:
    gate = Gate()
    broker = start(gate)
    first, second = dial(broker), dial(broker)
    for number, client in enumerate((first, second), start=1):
        client.send(encode.connect(client_id="c", username="good", password=b""))
        await_condition(partial(gate.waits_for, number))
    gate.open()
    assert second.expect(Connack).code == SUCCESS
    second.ping()
    assert first.expect(Connack).code == SUCCESS
    first.expect_disconnect(Reason.SESSION_TAKEN_OVER)


def test_the_broker_stops_while_somebody_waits(start: Start, dial: Dial) -> None:
    gate = Gate()
    broker = start(gate)
    client = dial(broker)
    client.send(encode.connect(client_id="c", username="good", password=b""))
    await_condition(lambda: gate.waiting == 1)
    broker.stop()
    client.expect_closed()


def test_nobody_waits_for_ever(start: Start, dial: Dial) -> None:
    gate = Gate()
    broker = start(gate)
    client = dial(broker)
    client.send(encode.connect(client_id="c", username="good", password=b""))
    await_condition(lambda: gate.waiting == 1)
    broker.advance(16)
    client.expect_closed()
