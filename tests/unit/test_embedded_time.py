"""What the broker does as time goes by, without waiting for it: its clock is moved forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fastmq.packets import Properties
from fastmq.testing import BackgroundBroker
from tests.wireclient import Client, Publish, Will
from tests.wireclient import properties as p

KEEP_ALIVE_TIMEOUT = 0x8D
VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])

Dial = Callable[..., Client]


@pytest.fixture
def broker() -> Iterator[BackgroundBroker]:
    with BackgroundBroker(**{"systopics.interval_s": 0}) as broker:
        yield broker


@pytest.fixture
def dial(broker: BackgroundBroker) -> Iterator[Dial]:
    """Opens connections that end with the test."""
    clients: list[Client] = []

    def dial(version: int = 5) -> Client:
        clients.append(Client((broker.host, broker.port), version))
        return clients[-1]

    yield dial
    for client in clients:
        client.close()


def session(broker: BackgroundBroker, client_id: str) -> bool:
    return any(each.client_id == client_id for each in broker.clients())


# -- keep alive --------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("keep_alive", [1, 10, 60, 65535])
def test_silence_for_one_and_a_half_keep_alives_ends_the_connection(
    broker: BackgroundBroker, dial: Dial, version: int, keep_alive: int
) -> None:
    client = dial(version)
    client.connect("k", keep_alive=keep_alive)
    broker.advance(keep_alive * 1.5 - 0.5)
    assert broker.clients()[0].connected
    broker.advance(1)
    client.expect_disconnect(KEEP_ALIVE_TIMEOUT)


def test_every_packet_starts_the_keep_alive_again(broker: BackgroundBroker, dial: Dial) -> None:
    client = dial()
    client.connect("k", keep_alive=10)
    acts: list[Callable[[], object]] = [
        client.ping,
        lambda: client.subscribe("a"),
        lambda: client.publish("b", b"1", qos=1),
        lambda: client.unsubscribe("a"),
    ]
    for act in acts:
        broker.advance(14)
        act()
    broker.advance(14)
    client.ping()
    broker.advance(15.5)
    client.expect_disconnect(KEEP_ALIVE_TIMEOUT)


def test_what_the_broker_sends_is_no_sign_of_life(broker: BackgroundBroker, dial: Dial) -> None:
    client = dial()
    client.connect("k", keep_alive=10)
    client.subscribe("a")
    broker.advance(10)
    broker.publish("a", b"x")
    broker.advance(6)
    assert client.expect(Publish).payload == b"x"
    client.expect_disconnect(KEEP_ALIVE_TIMEOUT)


def test_keep_alive_0_is_for_ever(broker: BackgroundBroker, dial: Dial) -> None:
    client = dial()
    client.connect("k", keep_alive=0)
    broker.advance(10_000_000)
    client.ping()


def test_a_lost_client_leaves_its_will(broker: BackgroundBroker, dial: Dial) -> None:
    wills = broker.messages("will")
    client = dial()
    client.connect("k", keep_alive=10, will=Will("will", b"lost", qos=1))
    broker.advance(16)
    assert wills.wait()[0].payload == b"lost"
    client.expect_disconnect(KEEP_ALIVE_TIMEOUT)


def test_the_settings_of_keep_alive() -> None:
    settings = {"mqtt.keepalive_max_s": 30, "mqtt.keepalive_multiplier": 2.0}
    with BackgroundBroker(**settings) as broker:
        for asked in (0, 31):
            client = Client((broker.host, broker.port))
            assert client.connect("k", keep_alive=asked).value(p.SERVER_KEEP_ALIVE) == 30
            broker.advance(59)
            client.ping()
            broker.advance(61)
            client.expect_disconnect(KEEP_ALIVE_TIMEOUT)
            client.close()


def test_a_keep_alive_that_is_too_short_is_lengthened() -> None:
    with BackgroundBroker(**{"mqtt.keepalive_min_s": 20}) as broker:
        for version, asked, told, held in ((5, 1, 20, 20), (5, 25, None, 25), (4, 1, None, 20)):
            client = Client((broker.host, broker.port), version)
            assert client.connect("k", keep_alive=asked).value(p.SERVER_KEEP_ALIVE) == told
            broker.advance(held * 1.5 - 1)
            client.ping()
            broker.advance(held * 1.5 + 1)
            client.expect_closed() if version == 4 else client.expect_disconnect(KEEP_ALIVE_TIMEOUT)
            client.close()


def test_who_never_sends_connect_is_cut(broker: BackgroundBroker, dial: Dial) -> None:
    silent, slow = dial(), dial()
    slow.send(b"\x10\x20\x00\x04MQ")
    client = dial()
    client.connect("k", keep_alive=0)
    broker.advance(14)
    assert broker.stats()["connections"] == 3
    broker.advance(2)
    silent.expect_closed()
    slow.expect_closed()
    client.ping()


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_session_expires_so_long_after_its_connection(broker: BackgroundBroker, dial: Dial) -> None:
    for _ in range(3):
        client = dial()
        client.connect("s", clean=False, keep_alive=0, props=[(p.SESSION_EXPIRY, 100)])
        broker.advance(1000)
        client.drop()
        broker.advance(99)
        client = dial()
        assert client.connect("s", clean=False, keep_alive=0, props=[(p.SESSION_EXPIRY, 100)]).session_present
        client.drop()
        broker.advance(101)
        assert not session(broker, "s")
    client = dial()
    assert not client.connect("s", clean=False).session_present
    assert broker.stats()["sessions_expired"] == 3


def test_disconnect_may_change_when_a_session_expires(broker: BackgroundBroker, dial: Dial) -> None:
    client = dial()
    client.connect("s", keep_alive=0, props=[(p.SESSION_EXPIRY, 100)])
    client.disconnect(0, [(p.SESSION_EXPIRY, 1000)])
    broker.advance(999)
    assert session(broker, "s")
    broker.advance(2)
    assert not session(broker, "s")


def test_a_session_that_expires_takes_its_messages_and_subscriptions_along(
    broker: BackgroundBroker, dial: Dial
) -> None:
    empty = broker.stats()
    client = dial()
    client.connect("s", keep_alive=0, props=[(p.SESSION_EXPIRY, 100)])
    client.subscribe(("a", 1), ("$share/g/a", 1))
    client.drop()
    broker.publish("a", bytes(10_000), 1)
    assert broker.clients()[0].queued >= 1
    broker.advance(101)
    after = broker.stats()
    assert (after["sessions"], after["subscriptions"], after["shared_subscriptions"]) == (0, 0, 0)
    assert after["memory_bytes"] < empty["memory_bytes"] + 5_000
    assert broker.publish("a") == 0


@pytest.mark.parametrize("version", [3, 4])
def test_sessions_before_mqtt_5_last_as_long_as_the_broker_lets_them(
    broker: BackgroundBroker, dial: Dial, version: int
) -> None:
    client = dial(version)
    client.connect("s", clean=False, keep_alive=0)
    client.subscribe(("a", 1))
    client.drop()
    broker.advance(604_800 - 10)
    assert session(broker, "s")
    broker.advance(20)
    assert not session(broker, "s")


def test_the_longest_session_expiry_can_be_set() -> None:
    with BackgroundBroker(**{"mqtt.session_expiry_max_s": 50}) as broker:
        client = Client((broker.host, broker.port))
        connack = client.connect("s", keep_alive=0, props=[(p.SESSION_EXPIRY, 0xFFFF_FFFF)])
        assert connack.value(p.SESSION_EXPIRY) == 50
        client.drop()
        broker.advance(49)
        assert session(broker, "s")
        broker.advance(2)
        assert not session(broker, "s")


def test_sessions_expire_each_in_its_time(broker: BackgroundBroker, dial: Dial) -> None:
    for number in range(1, 41):
        client = dial()
        client.connect(f"s{number}", keep_alive=0, props=[(p.SESSION_EXPIRY, number * 10)])
        client.drop()
    broker.advance(5)
    for number in range(1, 41):
        broker.advance(10)
        left = sorted(int(each.client_id[1:]) for each in broker.clients())
        assert left == list(range(number + 1, 41))


# -- wills -------------------------------------------------------------------------------------------------------------


def with_will(dial: Dial, delay: int, expiry: int = 1000, **will: object) -> Client:
    client = dial()
    client.connect(
        "w",
        clean=False,
        keep_alive=0,
        will=Will("will", b"gone", props=[(p.WILL_DELAY, delay)], **will),
        props=[(p.SESSION_EXPIRY, expiry)],
    )
    return client


def test_a_will_is_delayed(broker: BackgroundBroker, dial: Dial) -> None:
    wills = broker.messages("will")
    with_will(dial, 30, qos=2, retain=True).drop()
    broker.advance(29)
    assert wills.all() == []
    broker.advance(2)
    message = wills.wait()[0]
    assert (message.payload, message.qos, message.retain) == (b"gone", 2, True)
    assert message.properties == Properties()
    broker.advance(100)
    assert len(wills) == 1


def test_who_comes_back_in_time_takes_the_will_back(broker: BackgroundBroker, dial: Dial) -> None:
    wills = broker.messages("will")
    with_will(dial, 30).drop()
    broker.advance(29)
    client = dial()
    client.connect("w", clean=False, keep_alive=0)
    broker.advance(1000)
    client.drop()
    broker.advance(1000)
    assert wills.all() == []


def test_the_end_of_the_session_ends_the_delay(broker: BackgroundBroker, dial: Dial) -> None:
    wills = broker.messages("will")
    with_will(dial, 500, expiry=30).drop()
    broker.advance(29)
    assert wills.all() == []
    broker.advance(2)
    assert wills.wait()[0].payload == b"gone"


def test_a_clean_start_ends_the_delay(broker: BackgroundBroker, dial: Dial) -> None:
    wills = broker.messages("will")
    with_will(dial, 500).drop()
    client = dial()
    client.connect("w", clean=True)
    assert wills.wait()[0].payload == b"gone"


def test_the_expiry_of_a_will_counts_from_its_publication(broker: BackgroundBroker, dial: Dial) -> None:
    client = dial()
    client.connect(
        "w",
        keep_alive=0,
        props=[(p.SESSION_EXPIRY, 1000)],
        will=Will("will", b"gone", retain=True, props=[(p.WILL_DELAY, 100), (p.MESSAGE_EXPIRY, 50)]),
    )
    broker.advance(200)
    client.drop()
    broker.advance(101)
    assert broker.messages("will").wait()[0].properties.message_expiry_interval in (49, 50)
    broker.advance(50)
    assert broker.messages("will").all() == []


# -- message expiry ----------------------------------------------------------------------------------------------------


def expiry_of(message: Publish) -> object:
    return message.value(p.MESSAGE_EXPIRY)


def test_the_expiry_of_a_retained_message_counts_down(broker: BackgroundBroker, dial: Dial) -> None:
    publisher = dial()
    publisher.connect(keep_alive=0)
    publisher.publish("kept", b"x", qos=1, retain=True, props=[(p.MESSAGE_EXPIRY, 100)])
    for passed in (0, 30, 60, 90):
        reader = dial()
        reader.connect(keep_alive=0)
        reader.subscribe("kept")
        assert expiry_of(reader.receive()) in (100 - passed, 99 - passed)
        broker.advance(30 if passed < 90 else 11)
    reader = dial()
    reader.connect(keep_alive=0)
    reader.subscribe("kept", "#")
    reader.expect_silence()
    old = dial(4)
    old.connect(keep_alive=0)
    old.subscribe("kept")
    old.expect_silence()


@pytest.mark.parametrize("qos", [1, 2])
def test_the_expiry_of_a_waiting_message_counts_down(broker: BackgroundBroker, dial: Dial, qos: int) -> None:
    reader = dial()
    reader.connect("r", keep_alive=0, props=[(p.SESSION_EXPIRY, 1000)])
    reader.subscribe(("a", qos))
    reader.drop()
    for expiry in (10, 100, 200):
        broker.publish("a", str(expiry), qos, properties=Properties(message_expiry_interval=expiry))
    broker.publish("a", "never", qos)
    broker.advance(60)
    reader = dial()
    assert reader.connect("r", clean=False, keep_alive=0).session_present
    got = [reader.receive() for _ in range(3)]
    assert [message.payload for message in got] == [b"100", b"200", b"never"]
    assert expiry_of(got[0]) in (39, 40)
    assert expiry_of(got[1]) in (139, 140)
    assert expiry_of(got[2]) is None
    reader.expect_silence()
    assert broker.stats()["dropped_expired"] == 1


def test_a_message_expires_behind_a_full_window(broker: BackgroundBroker, dial: Dial) -> None:
    reader = dial()
    reader.connect("r", keep_alive=0, props=[(p.RECEIVE_MAXIMUM, 1)])
    reader.subscribe(("a", 1))
    for payload in ("1", "2"):
        broker.publish("a", payload, 1, properties=Properties(message_expiry_interval=10))
    broker.publish("a", "3", 1, properties=Properties(message_expiry_interval=100))
    first = reader.expect(Publish)
    assert first.payload == b"1"
    broker.advance(50)
    reader.send(b"\x40\x02" + first.packet_id.to_bytes(2, "big"))
    third = reader.receive()
    assert third.payload == b"3"
    assert expiry_of(third) in (49, 50)


def test_a_message_expires_while_its_group_has_no_reader(broker: BackgroundBroker, dial: Dial) -> None:
    worker = dial()
    worker.connect("w", keep_alive=0, props=[(p.SESSION_EXPIRY, 1000)])
    worker.subscribe(("$share/g/jobs", 1))
    worker.drop()
    broker.publish("jobs", "old", 1, properties=Properties(message_expiry_interval=10))
    broker.publish("jobs", "new", 1, properties=Properties(message_expiry_interval=100))
    broker.advance(30)
    worker = dial()
    worker.connect("w", clean=False, keep_alive=0, props=[(p.SESSION_EXPIRY, 1000)])
    message = worker.receive()
    assert message.payload == b"new"
    assert expiry_of(message) in (69, 70)
    worker.expect_silence()


def test_an_expired_retained_message_gives_its_memory_back(broker: BackgroundBroker) -> None:
    empty = broker.stats()["memory_bytes"]
    for number in range(100):
        lasting = Properties(message_expiry_interval=10)
        broker.publish(f"kept/{number}", bytes(1000), retain=True, properties=lasting)
    assert broker.stats()["retained"] == 100
    broker.advance(11)
    assert broker.messages("kept/#").all() == []
    assert broker.stats()["retained"] == 0
    assert broker.stats()["memory_bytes"] < empty + 50_000
