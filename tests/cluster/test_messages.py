"""What clients of different workers send each other: as if they were at the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

import pytest

from tests.brokerproc import BrokerProcess, await_condition
from tests.cluster.brokers import at, named, processes, resident_bytes, worker_of, workers
from tests.cluster.flows import gather, meanwhile, pump
from tests.wireclient import Client, Will, encode
from tests.wireclient import properties as p

QOS = pytest.mark.parametrize("qos", [0, 1, 2])
FROM = pytest.mark.parametrize("here", [0, 1])
NO_LOCAL, AS_PUBLISHED = 4, 8
NO_SUBSCRIBERS = 0x10
MANY = 2000
MIB = 1 << 20
_numbers = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[BrokerProcess]:
    """One broker for all tests here; each has topics and clients of its own."""
    with workers(2, {"mqtt.packet_max_bytes": 2 * MIB}) as broker:
        yield broker


class Scene:
    """The clients of one test, and where it publishes."""

    def __init__(self, broker: BrokerProcess, stack: ExitStack) -> None:
        self.broker = broker
        self._stack = stack
        self.topic = f"t{next(_numbers)}"

    def client(self, index: int, name: str, version: int = 5, **options: Any) -> Client:
        return at(self.broker, self._stack, index, f"{self.topic}-{name}", version, **options)


@pytest.fixture
def scene(shared: BrokerProcess) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(shared, stack)


def test_clients_are_where_their_names_say(scene: Scene) -> None:
    for index in (0, 1):
        scene.client(index, "x")
        assert worker_of(scene.broker, named(index, f"{scene.topic}-x")) == index


@QOS
@FROM
@pytest.mark.parametrize("version", [4, 5])
def test_messages_reach_clients_of_every_worker(scene: Scene, qos: int, here: int, version: int) -> None:
    topic = scene.topic
    filters = [f"{topic}/a/b", f"{topic}/+/b", f"{topic}/#", f"+/a/b/{'#'}"]
    subscribers = []
    for index in (0, 1):
        for number, each in enumerate(filters):
            client = scene.client(index, f"s{number}", 9 - version)  # the other version
            client.subscribe((each, 2))
            subscribers.append(client)
    stranger = scene.client(1 - here, "stranger")
    stranger.subscribe((f"{topic}/a", 2), (f"{topic}/+", 2), (f"{topic}/a/b/c", 2))
    publisher = scene.client(here, "p", version)
    for number in range(20):
        assert publisher.publish(f"{topic}/a/b", b"%d" % number, qos=qos) == 0
    for messages in gather(subscribers, 20 * len(subscribers)):
        assert [(m.topic, m.payload, m.qos) for m in messages] == [
            (f"{topic}/a/b", b"%d" % number, qos) for number in range(20)
        ]
    stranger.expect_silence()


@FROM
def test_who_publishes_hears_whether_anybody_wants_it(scene: Scene, here: int) -> None:
    publisher, subscriber = scene.client(here, "p"), scene.client(1 - here, "s")
    assert publisher.publish(scene.topic, qos=1) == NO_SUBSCRIBERS
    subscriber.subscribe((scene.topic, 1))
    assert publisher.publish(scene.topic, qos=1) == 0
    assert publisher.publish(scene.topic, qos=2) == 0
    subscriber.unsubscribe(scene.topic)
    publisher.ping()
    # Nobody waits for the others to know that something is no longer wanted.
    await_condition(lambda: publisher.publish(scene.topic, qos=1) == NO_SUBSCRIBERS)


def test_properties_cross(scene: Scene) -> None:
    publisher, subscriber = scene.client(0, "p"), scene.client(1, "s")
    subscriber.subscribe((scene.topic, 2))
    props: list[tuple[int, Any]] = [
        (p.PAYLOAD_FORMAT, 1), (p.CONTENT_TYPE, "text/x"), (p.RESPONSE_TOPIC, "r/1"), (p.CORRELATION_DATA, b"\0\1"),
        (p.USER_PROPERTY, ("a", "1")), (p.USER_PROPERTY, ("b", "2")), (p.USER_PROPERTY, ("a", "3")),
    ]  # fmt: skip
    for qos in (0, 1, 2):
        publisher.publish(scene.topic, "ü".encode(), qos=qos, props=[*props, (p.TOPIC_ALIAS, 3)])
        publisher.publish("", b"again", qos=qos, props=[(p.TOPIC_ALIAS, 3)])
        first, second = subscriber.receive(), subscriber.receive()
        assert list(first.props) == props
        assert (second.topic, second.payload, list(second.props)) == (scene.topic, b"again", [])


# -- retained messages, wills ------------------------------------------------------------------------------------------


def found(scene: Scene, index: int) -> dict[str, bytes]:
    """What is retained, as a client of this worker finds it."""
    with ExitStack() as stack:
        late = at(scene.broker, stack, index, f"{scene.topic}-late{next(_numbers)}")
        late.subscribe((f"{scene.topic}/#", 1))
        return {m.topic: m.payload for m in late.arrived() if m.retain}


@pytest.mark.parametrize("qos", [1, 2])
def test_what_is_acknowledged_as_retained_is_so_everywhere(scene: Scene, qos: int) -> None:
    publishers = [scene.client(index, "p") for index in (0, 1)]
    topics = [f"{scene.topic}/{number}" for number in range(8)]
    for turn in range(4):
        for number, topic in enumerate(topics):
            publishers[(turn + number) % 2].publish(topic, b"%d" % turn, qos=qos, retain=True)
            assert found(scene, number % 2)[topic] == b"%d" % turn
        assert found(scene, 0) == found(scene, 1) == dict.fromkeys(topics, b"%d" % turn)
    for number, topic in enumerate(topics):
        publishers[number % 2].publish(topic, b"", qos=qos, retain=True)
    assert found(scene, 0) == found(scene, 1) == {}


def test_workers_agree_what_is_retained_last(scene: Scene) -> None:
    publishers = [scene.client(index, "p") for index in (0, 1)]
    for turn in range(10):
        topic = f"{scene.topic}/{turn}"
        with meanwhile(
            *(
                lambda each=each, topic=topic: [
                    each.publish(topic, b"%d" % number, qos=1, retain=True) for number in range(20)
                ]
                for each in publishers
            )
        ):
            pass
        assert found(scene, 0)[topic] == found(scene, 1)[topic] == b"19"


def test_who_is_there_gets_what_is_retained_as_asked(scene: Scene) -> None:
    plain, as_published = scene.client(1, "plain"), scene.client(1, "as-published")
    plain.subscribe((scene.topic, 1))
    as_published.subscribe((scene.topic, 1 | AS_PUBLISHED))
    scene.client(0, "p").publish(scene.topic, b"x", qos=1, retain=True)
    assert [m.retain for m in (plain.receive(), as_published.receive())] == [False, True]
    time.sleep(0.1)
    plain.expect_silence()
    as_published.expect_silence()


@FROM
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_wills_are_heard_at_other_workers(scene: Scene, here: int, qos: int) -> None:
    listeners = [scene.client(index, "s") for index in (0, 1)]
    for each in listeners:
        each.subscribe((f"{scene.topic}/#", 2))
    will = Will(f"{scene.topic}/will", b"gone", qos=qos, retain=True, props=[(p.USER_PROPERTY, ("why", "cut"))])
    dying, leaving = scene.client(here, "dying", will=will), scene.client(here, "leaving", will=will)
    leaving.disconnect()
    dying.close()
    for messages in gather(listeners, 2):
        assert [(m.topic, m.payload, m.qos) for m in messages] == [(f"{scene.topic}/will", b"gone", qos)]
        assert messages[0].values(p.USER_PROPERTY) == [("why", "cut")]
    await_condition(lambda: all(found(scene, index) == {f"{scene.topic}/will": b"gone"} for index in (0, 1)))


# -- options -----------------------------------------------------------------------------------------------------------


def test_no_local_is_about_the_client(scene: Scene) -> None:
    first, second = scene.client(0, "a"), scene.client(1, "b")
    for each in (first, second):
        each.subscribe((scene.topic, 1 | NO_LOCAL))
    for qos in (0, 1):
        first.publish(scene.topic, b"of first", qos=qos)
        second.publish(scene.topic, b"of second", qos=qos)
        assert (first.receive().payload, second.receive().payload) == (b"of second", b"of first")
    time.sleep(0.1)
    first.expect_silence()
    second.expect_silence()


def test_subscription_identifiers_are_those_of_the_receiver(scene: Scene) -> None:
    clients = [scene.client(index, f"s{number}") for index in (0, 1) for number in (0, 1)]
    for number, each in enumerate(clients):
        each.subscribe((f"{scene.topic}/a", 1), props=[(p.SUBSCRIPTION_ID, 100 + number)])
        each.subscribe((f"{scene.topic}/+", 2), props=[(p.SUBSCRIPTION_ID, 200 + number)])
    publisher = scene.client(0, "p")
    for qos in (0, 1, 2):
        publisher.publish(f"{scene.topic}/a", b"x", qos=qos)
        for number, each in enumerate(clients):
            message = each.receive()
            assert message.qos == qos
            assert sorted(message.values(p.SUBSCRIPTION_ID)) == [100 + number, 200 + number]
    for each in clients:
        each.expect_silence()


def test_messages_expire_elsewhere_too(scene: Scene) -> None:
    lasts = [(p.SESSION_EXPIRY, 300)]
    subscriber = scene.client(1, "s", clean=False, props=lasts)
    subscriber.subscribe((scene.topic, 2))
    subscriber.drop()
    publisher = scene.client(0, "p")
    for qos in (1, 2):
        publisher.publish(scene.topic, b"short", qos=qos, props=[(p.MESSAGE_EXPIRY, 1)])
        publisher.publish(scene.topic, b"long", qos=qos, props=[(p.MESSAGE_EXPIRY, 100)])
        publisher.publish(scene.topic, b"ever", qos=qos)
    time.sleep(2.1)
    again = scene.client(1, "s", clean=False, props=lasts)
    assert again.connack is not None
    assert again.connack.session_present
    for _ in (1, 2):
        first, second = again.receive(), again.receive()
        assert (first.payload, second.payload) == (b"long", b"ever")
        left = first.value(p.MESSAGE_EXPIRY)
        assert isinstance(left, int)
        assert 60 <= left <= 99
        assert second.value(p.MESSAGE_EXPIRY) is None
    again.expect_silence()


# -- many, and large ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("qos", [1, 2])
def test_the_order_of_a_publisher_is_kept(scene: Scene, qos: int) -> None:
    publishers = [scene.client(index, "p") for index in (0, 1)]
    subscribers = [scene.client(index, "s") for index in (0, 1)]
    for each in subscribers:
        each.subscribe((f"{scene.topic}/+", qos))
    works = [
        partial(pump, each, f"{scene.topic}/{index}", [b"%d" % number for number in range(MANY)], qos)
        for index, each in enumerate(publishers)
    ]
    with meanwhile(*works):
        got = gather(subscribers, 4 * MANY, 40)
    for messages in got:
        for index in (0, 1):
            mine = [int(m.payload) for m in messages if m.topic == f"{scene.topic}/{index}"]
            assert mine == list(range(MANY))


@QOS
@FROM
def test_large_messages_cross_intact(scene: Scene, qos: int, here: int) -> None:
    subscribers = [scene.client(index, "s") for index in (0, 1)]
    for each in subscribers:
        each.subscribe((scene.topic, 2))
    publisher = scene.client(here, "p")
    payloads = [bytes([number]) * MIB + b"%d" % number for number in range(6)]
    if qos == 0:  # one after the other: each is as large as the output that may wait for a connection
        for payload in payloads:
            publisher.publish(scene.topic, payload)
            assert [[m.payload for m in each] for each in gather(subscribers, 2)] == [[payload], [payload]]
        return
    with meanwhile(lambda: pump(publisher, scene.topic, payloads, qos, window=3)):
        for messages in gather(subscribers, 12):
            assert [m.payload for m in messages] == payloads


def test_memory_is_bound_when_a_client_elsewhere_does_not_read(scene: Scene) -> None:
    sleeper, publisher = scene.client(1, "sleeper"), scene.client(0, "p")
    awake = scene.client(1, "awake")
    sleeper.subscribe((f"{scene.topic}/#", 0))
    awake.subscribe((f"{scene.topic}/end", 1))
    before = {index: resident_bytes(pid) for index, pid in processes(scene.broker).items()}
    packet = encode.publish(5, f"{scene.topic}/x", bytes(MIB))
    most = 0
    for _ in range(150):
        publisher.send(packet)
        most = max(most, *(resident_bytes(pid) - before[index] for index, pid in processes(scene.broker).items()))
    publisher.publish(f"{scene.topic}/end", b"", qos=1)
    assert awake.receive().topic == f"{scene.topic}/end"
    assert most < 64 * MIB


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_all_workers() -> None:
    with workers(2, {"systopics.interval_s": 1}) as broker, ExitStack() as stack:
        watchers = [at(broker, stack, index, "watcher") for index in (0, 1)]
        others = [at(broker, stack, index, f"c{number}") for index in (0, 1) for number in range(3)]
        for each in others:
            each.subscribe("a", "b/#")
        for each in others:
            each.publish("a", b"hello", qos=1)
        wanted = {"clients/connected": 8, "clients/total": 8, "subscriptions/count": 14}
        wanted |= {"publish/messages/received": 6}
        for each in watchers:
            each.subscribe("$SYS/broker/#")
        for each in watchers:
            said: dict[str, bytes] = {}

            def is_so(each: Client = each, said: dict[str, bytes] = said) -> bool:
                said |= {m.topic.removeprefix("$SYS/broker/"): m.payload for m in each.arrived()}
                return all(said.get(name) == b"%d" % value for name, value in wanted.items())

            try:
                await_condition(is_so, 8)
            except AssertionError:
                raise AssertionError({name: said.get(name) for name in wanted}) from None
        others[5].close()
        for each in watchers:
            said = {}

            def is_one_less(each: Client = each, said: dict[str, bytes] = said) -> bool:
                said |= {m.topic: m.payload for m in each.arrived()}
                return said.get("$SYS/broker/clients/connected") == b"7"

            await_condition(is_one_less, 8)
