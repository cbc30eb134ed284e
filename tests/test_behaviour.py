"""The habits of docs/reference/behaviour.md that no test of the specification holds: each against a real broker."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.brokerproc import BrokerProcess, Setting, await_condition, running_broker
from tests.wireclient import Ack, Client, Connack, Disconnect, Publish, Will, encode
from tests.wireclient import properties as p
from tests.wireclient.properties import Properties

DAY_S = 86_400


class Clients:
    """Clients of one broker, to be closed together."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._address = (broker.host, broker.port)
        self._opened: list[Client] = []

    def dial(self, version: int = 5) -> Client:
        """A connection on which nothing was sent."""
        self._opened.append(Client(self._address, version))
        return self._opened[-1]

    def __call__(
        self,
        version: int = 5,
        client_id: str = "",
        *,
        clean: bool = True,
        props: Properties = (),
        will: Will | None = None,
        username: str | None = None,
        password: bytes | None = None,
    ) -> Client:
        client = self.dial(version)
        client_id = client_id or f"c{uuid.uuid4().hex[:12]}"
        connack = client.connect(client_id, clean=clean, props=props, will=will, username=username, password=password)
        assert connack.code == 0, connack
        return client

    def close(self) -> None:
        for client in self._opened:
            client.close()


@contextmanager
def joining(broker: BrokerProcess) -> Iterator[Clients]:
    clients = Clients(broker)
    try:
        yield clients
    finally:
        clients.close()


@contextmanager
def served(settings: dict[str, Setting] | None = None) -> Iterator[Clients]:
    with running_broker(settings) as broker, joining(broker) as join:
        yield join


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with running_broker() as running:
        yield running


@pytest.fixture
def join(broker: BrokerProcess) -> Iterator[Clients]:
    with joining(broker) as joined:
        yield joined


@pytest.fixture
def topic() -> str:
    return f"t/{uuid.uuid4().hex[:12]}"


def payloads(client: Client) -> list[bytes]:
    return [message.payload for message in client.arrived()]


# -- connecting --------------------------------------------------------------------------------------------------------


def test_any_user_name_and_password_are_accepted_while_anonymous_clients_are(join: Clients) -> None:
    join(username="who", password=b"ever")
    join(username="", password=b"")


def test_without_anonymous_clients_everyone_is_refused() -> None:
    with served({"auth.allow_anonymous": False}) as join:
        for version, code in ((5, 0x87), (4, 5)):
            assert join.dial(version).connect("c", username="who", password=b"ever").code == code


def test_a_session_of_a_year_is_granted_a_week(join: Clients) -> None:
    client = join(props=[(p.SESSION_EXPIRY, 365 * DAY_S)])
    assert client.connack is not None
    assert client.connack.value(p.SESSION_EXPIRY) == 7 * DAY_S


def test_connections_above_the_limit_are_closed_without_a_word() -> None:
    with served({"limits.connections_max": 1}) as join:
        join()
        join.dial().expect_closed()


def test_sessions_above_the_limit_are_refused_but_their_own_clients_are_not() -> None:
    with served({"limits.sessions_max": 1}) as join:
        join(client_id="known", props=[(p.SESSION_EXPIRY, 60)]).disconnect()
        assert join.dial().connect("stranger").code == 0x97
        join(client_id="known", clean=False)


def test_takeover_sends_the_will_before_the_newcomer_is_in(join: Clients, topic: str) -> None:
    old = join(client_id=topic, props=[(p.SESSION_EXPIRY, 60)], will=Will(topic, b"will", qos=1))
    old.subscribe((topic, 1))
    new = join(client_id=topic, clean=False, props=[(p.SESSION_EXPIRY, 60)])
    assert old.expect(Disconnect).code == 0x8E
    assert payloads(new) == [b"will"]  # queued in the session, so it came between the two


def test_wills_are_not_published_when_the_broker_stops(topic: str) -> None:
    with running_broker() as broker, joining(broker) as join:
        watcher = join()
        watcher.subscribe((topic, 0))
        join(will=Will(topic, b"will"))
        broker.stop()
        assert watcher.expect(Disconnect).code == 0x8B
        watcher.expect_closed()


# -- publishing --------------------------------------------------------------------------------------------------------


def test_a_payload_is_not_compared_with_its_format(join: Clients, topic: str) -> None:
    subscriber = join()
    subscriber.subscribe((topic, 1))
    assert join().publish(topic, b"\xff\xfe", qos=1, props=[(p.PAYLOAD_FORMAT, 1)]) == 0
    assert payloads(subscriber) == [b"\xff\xfe"]


def test_other_dollar_topics_are_ordinary(join: Clients, topic: str) -> None:
    subscriber = join()
    subscriber.subscribe((f"$mine/{topic}", 0))
    join().publish(f"$mine/{topic}", b"x")
    assert payloads(subscriber) == [b"x"]


def test_a_qos_1_message_sent_again_is_routed_again(join: Clients, topic: str) -> None:
    subscriber = join()
    subscriber.subscribe((topic, 1))
    publisher = join()
    publisher.publish(topic, b"x", qos=1)
    publisher.publish(topic, b"x", qos=1, dup=True)
    assert [(m.payload, m.dup) for m in subscriber.arrived()] == [(b"x", False)] * 2


def test_qos_0_overtakes_qos_1_that_waits(join: Clients, topic: str) -> None:
    subscriber = join(props=[(p.RECEIVE_MAXIMUM, 1)])
    subscriber.subscribe((topic, 1))
    publisher = join()
    publisher.publish(topic, b"1", qos=1)
    publisher.publish(topic, b"2", qos=1)
    publisher.publish(topic, b"0")
    messages = [subscriber.expect(Publish) for _ in range(2)]
    assert [m.payload for m in messages] == [b"1", b"0"]
    subscriber.send(encode.ack(5, encode.PUBACK, messages[0].packet_id))
    assert subscriber.receive().payload == b"2"


# -- in flight, queues -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "props", "window"), [(4, (), 32), (5, (), 32), (5, [(p.RECEIVE_MAXIMUM, 50)], 50)])
def test_the_window_to_a_client(join: Clients, topic: str, version: int, props: Properties, window: int) -> None:
    subscriber = join(version, props=props)
    subscriber.subscribe((topic, 1))
    publisher = join()
    for i in range(60):
        publisher.publish(topic, str(i).encode(), qos=1)
    subscriber.ping()
    assert subscriber.waiting() == window


@pytest.mark.parametrize(("drop", "kept"), [("newest", [0, 1, 2]), ("oldest", [7, 8, 9])])
def test_a_full_queue_drops(topic: str, drop: str, kept: list[int]) -> None:
    with served({"queue.messages_max": 3, "queue.drop": drop}) as join:
        join(client_id="away", props=[(p.SESSION_EXPIRY, 60)]).subscribe((topic, 1))
        join(client_id="away", clean=False, props=[(p.SESSION_EXPIRY, 60)]).disconnect()
        publisher = join()
        for i in range(10):
            assert publisher.publish(topic, str(i).encode(), qos=1) == 0  # the publisher is not told
        assert payloads(join(client_id="away", clean=False)) == [str(i).encode() for i in kept]


def test_an_empty_queue_takes_one_message_of_any_size(topic: str) -> None:
    with served({"queue.bytes_max": 1024}) as join:
        away = join(client_id="away", props=[(p.SESSION_EXPIRY, 60)])
        away.subscribe((topic, 1))
        away.disconnect()
        publisher = join()
        publisher.publish(topic, bytes(5000), qos=1)
        publisher.publish(topic, b"small", qos=1)
        assert payloads(join(client_id="away", clean=False)) == [bytes(5000)]


@pytest.mark.parametrize(("keeps", "kept"), [(False, [b"1"]), (True, [b"0", b"1"])])
def test_qos_0_for_a_client_that_is_away(topic: str, keeps: bool, kept: list[bytes]) -> None:
    with served({"queue.qos0_offline": keeps}) as join:
        away = join(client_id="away", props=[(p.SESSION_EXPIRY, 60)])
        away.subscribe((topic, 1))
        away.disconnect()
        publisher = join()
        publisher.publish(topic, b"0")
        publisher.publish(topic, b"1", qos=1)
        assert payloads(join(client_id="away", clean=False)) == kept


def test_aliases_go_to_the_first_topics_and_stay(join: Clients, topic: str) -> None:
    subscriber = join(props=[(p.TOPIC_ALIAS_MAXIMUM, 2)])
    subscriber.subscribe((f"{topic}/+", 0))
    publisher = join()
    for name in ("a", "b", "c", "c", "a"):
        publisher.publish(f"{topic}/{name}")
    seen = [(m.topic.rpartition("/")[2], m.values(p.TOPIC_ALIAS)) for m in subscriber.arrived()]
    assert seen == [("a", [1]), ("b", [2]), ("c", []), ("c", []), ("", [1])]


# -- shared subscriptions ----------------------------------------------------------------------------------------------


def test_queue_is_a_group_of_its_own_and_versions_mix(join: Clients, topic: str) -> None:
    members = [join(3), join(4), join(5)]
    for member in members:
        member.subscribe((f"$queue/{topic}", 1))
    named = join()
    named.subscribe((f"$share/queue/{topic}", 1))
    publisher = join()
    for i in range(9):
        publisher.publish(topic, str(i).encode(), qos=1)
    assert [len(payloads(each)) for each in (*members, named)] == [3, 3, 3, 9]


def test_unacknowledged_qos_1_goes_to_a_member_that_is_there(join: Clients, topic: str) -> None:
    leaving = join(client_id=topic, props=[(p.SESSION_EXPIRY, 60)])
    leaving.subscribe((f"$share/g/{topic}", 1))
    join().publish(topic, b"x", qos=1)
    leaving.expect(Publish)
    staying = join()
    staying.subscribe((f"$share/g/{topic}", 1))
    leaving.drop()
    assert [(m.payload, m.dup) for m in staying.arrived()] == [(b"x", False)]
    assert payloads(join(client_id=topic, clean=False)) == []


def test_with_nobody_else_there_it_waits_for_the_member(join: Clients, topic: str) -> None:
    leaving = join(client_id=topic, props=[(p.SESSION_EXPIRY, 60)])
    leaving.subscribe((f"$share/g/{topic}", 1))
    join().publish(topic, b"x", qos=1)
    leaving.expect(Publish)
    leaving.drop()
    back = join(client_id=topic, clean=False)
    assert [(m.payload, m.dup) for m in back.arrived()] == [(b"x", True)]


def test_the_group_keeps_what_comes_while_all_members_are_away(join: Clients, topic: str) -> None:
    member = join(client_id=topic, props=[(p.SESSION_EXPIRY, 60)])
    member.subscribe((f"$share/g/{topic}", 1))
    member.disconnect()
    publisher = join()
    publisher.publish(topic, b"qos 0")
    publisher.publish(topic, b"qos 1", qos=1)
    assert payloads(join(client_id=topic, clean=False)) == [b"qos 1"]


def test_the_last_member_takes_the_queue_along(join: Clients, topic: str) -> None:
    member = join(client_id=topic, props=[(p.SESSION_EXPIRY, 60)])
    member.subscribe((f"$share/g/{topic}", 1))
    member.disconnect()
    join().publish(topic, b"x", qos=1)
    newcomer = join(client_id=topic)
    newcomer.subscribe((f"$share/g/{topic}", 1))
    assert payloads(newcomer) == []


# -- retained messages -------------------------------------------------------------------------------------------------


def test_retained_messages_are_paced_and_none_is_cut() -> None:
    with served({"queue.messages_max": 10, "limits.output_max_bytes": 8192}) as join:
        publisher = join()
        for i in range(2000):
            publisher.send(encode.publish(5, f"r/{i}", bytes(100), qos=0, retain=True))
        publisher.ping()
        subscriber = join()
        subscriber.subscribe(("r/#", 1))
        publisher.publish("r/last", b"", qos=1)
        got = {subscriber.receive().topic for _ in range(2001)}
        assert len(got) == 2001


def test_a_retained_message_above_a_limit_leaves_none() -> None:
    with served({"retain.payload_max_bytes": 4, "systopics.interval_s": 0}) as join:
        publisher = join()
        publisher.publish("t", b"fits", retain=True)
        publisher.publish("t", b"does not", retain=True)
        subscriber = join()
        subscriber.subscribe(("t", 0))
        subscriber.expect_silence()


def test_a_retained_message_that_was_replaced_before_its_turn_is_skipped(join: Clients, topic: str) -> None:
    publisher = join()
    names = [f"{topic}/{name}" for name in "abc"]
    for name in names:
        publisher.publish(name, b"old", qos=1, retain=True)
    subscriber = join(props=[(p.RECEIVE_MAXIMUM, 1)])
    subscriber.subscribe((f"{topic}/+", 1))
    first = subscriber.expect(Publish)
    replaced, deleted = (name for name in names if name != first.topic)
    publisher.publish(replaced, b"new", qos=1, retain=True)
    publisher.publish(deleted, b"", qos=1, retain=True)
    subscriber.send(encode.ack(5, encode.PUBACK, first.packet_id))
    came = [subscriber.receive() for _ in range(2)]
    assert [(m.topic, m.payload, m.retain) for m in came] == [(replaced, b"new", False), (deleted, b"", False)]
    subscriber.expect_silence()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_full_memory_refuses_and_recovers() -> None:
    settings: dict[str, Setting] = {"limits.memory_max_bytes": 3_000_000, "queue.bytes_max": 2**40}
    with served({**settings, "queue.messages_max": 10**6}) as join:
        hoarder = join(props=[(p.RECEIVE_MAXIMUM, 1)])
        hoarder.subscribe(("t", 1))
        away = join.dial(4)
        away.connect("away", clean=False)
        away.drop()
        listener, publisher, old = join(), join(), join(4)
        listener.subscribe(("qos 0", 0))
        codes = [publisher.publish("t", bytes(10_000), qos=1) for _ in range(400)]
        assert codes[0] == 0
        assert codes[-1] == 0x97
        while publisher.publish("t", b"x", qos=1) != 0x97:  # what a refused packet itself took is free again
            pass
        publisher.publish("qos 0", b"x")
        assert payloads(listener) == []
        assert publisher.subscribe(("other", 1)).codes == [0x97]
        assert publisher.unsubscribe("other").codes == [0x11]
        assert join.dial(5).connect("new").code == 0x97
        assert join.dial(4).connect("new").code == 3
        old.send(encode.publish(4, "t", b"held", qos=1, packet_id=7))
        with pytest.raises(TimeoutError):
            old.recv(0.3)
        assert join.dial(4).connect("away", clean=False).code == 0  # who has a session may drain what waits for it
        hoarder.drop()  # its session ends, and its queue with it
        assert old.expect(Ack).packet_id == 7
        assert publisher.publish("t", b"x", qos=1) == 0x10


def test_a_reader_that_lags_loses_nothing(topic: str) -> None:
    with served({"limits.output_max_bytes": 65_536, "limits.slow_after_ms": 5000}) as join:
        reader, publisher = join(), join()
        reader.subscribe((topic, 0))
        numbers = [b"%05d" % i for i in range(1000)]
        packets = [encode.publish(5, topic, number + bytes(20_000)) for number in numbers]
        flood = threading.Thread(target=publisher.send, args=packets)
        flood.start()
        time.sleep(0.5)  # more than the kernel's buffers hold comes meanwhile; less than limits.slow_after_ms
        assert [reader.receive().payload[:5] for _ in numbers] == numbers
        flood.join()


def test_a_subscriber_that_does_not_read_costs_its_limits_and_holds_nobody_for_long(topic: str) -> None:
    settings: dict[str, Setting] = {
        "limits.output_max_bytes": 65_536,
        "limits.slow_after_ms": 200,
        "queue.messages_max": 20,
        "systopics.interval_s": 1,
    }
    with served(settings) as join:
        figures = join()
        slow = join()
        slow.subscribe((topic, 1))
        publisher = join()
        began = time.monotonic()
        for _ in range(300):
            publisher.publish(topic, bytes(60_000), qos=1)
        assert time.monotonic() - began < 10
        figures.subscribe(("$SYS/broker/publish/messages/dropped", 0))
        await_condition(lambda: int(figures.receive().payload) > 0, what="dropped messages are counted")


# -- $SYS --------------------------------------------------------------------------------------------------------------


def test_the_figures_are_retained_and_outside_of_plain_wildcards(join: Clients) -> None:
    watcher = join()
    watcher.subscribe(("#", 0))
    assert not [message.topic for message in watcher.arrived() if message.topic.startswith("$")]
    watcher.unsubscribe("#")
    watcher.subscribe(("$SYS/#", 0))
    figures = watcher.arrived()
    assert "$SYS/broker/clients/connected" in [message.topic for message in figures]
    assert all(message.retain for message in figures)


# -- the first bytes ---------------------------------------------------------------------------------------------------


def test_what_is_no_connect_is_closed_at_its_first_byte(join: Clients) -> None:
    client = join.dial()
    client.send(b"G")
    client.expect_closed()


@pytest.mark.parametrize("level", [0x83, 0x84])
def test_a_bridge_hears_nothing_of_its_own_and_sees_the_retain_flag(join: Clients, topic: str, level: int) -> None:
    bridge = join.dial(level & 0x7F)
    bridge.send(encode.connect(level & 0x7F, client_id=topic, level=level))
    assert bridge.expect(Connack).code == 0
    bridge.subscribe((topic, 1))
    bridge.publish(topic, b"own", qos=1)
    join().publish(topic, b"other", qos=1, retain=True)
    assert [(m.payload, m.retain) for m in bridge.arrived()] == [(b"other", True)]


def test_clients_write_below_sys_only_the_state_of_bridges(join: Clients, topic: str) -> None:
    watcher = join()
    watcher.subscribe((f"$SYS/{topic}", 0), (f"$SYS/broker/connection/{topic}", 0))
    publisher = join()
    assert publisher.publish(f"$SYS/{topic}", b"x", qos=1) == 0x87
    assert publisher.publish(f"$SYS/broker/connection/{topic}", b"1", qos=1) == 0
    assert payloads(watcher) == [b"1"]


@pytest.mark.parametrize(("version", "code"), [(5, 0x87), (4, 5)])
def test_a_will_below_sys_is_refused(join: Clients, topic: str, version: int, code: int) -> None:
    assert join.dial(version).connect(topic, will=Will(f"$SYS/{topic}")).code == code
    assert join.dial(version).connect(topic, will=Will(f"$SYS/broker/connection/{topic}")).code == 0
