"""The habits of docs/reference/behaviour.md about what survives the broker: each against real brokers on one file."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, Setting, await_condition, running_broker, start_fastmq
from tests.test_behaviour import Clients, joining, payloads
from tests.wireclient import Ack, Client, Publish, Will, encode
from tests.wireclient import properties as p

HOUR = ((p.SESSION_EXPIRY, 3600),)
STOP, KILL = signal.SIGTERM, signal.SIGKILL


@contextmanager
def broker_on(path: Path, end: signal.Signals = STOP, **settings: Setting) -> Iterator[Clients]:
    """A broker that keeps what happens in this file, and ends so."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    broker: BrokerProcess = start_fastmq({**dotted, "store.path": str(path)})
    try:
        with joining(broker) as join:
            yield join
            if end == STOP:
                broker.stop()
            else:
                broker.assert_healthy()
    finally:
        broker.kill()


def lasting(join: Clients, client_id: str, *filters: tuple[str, int], will: Will | None = None) -> Client:
    client = join(client_id=client_id, clean=False, props=HOUR, will=will)
    if filters:
        client.subscribe(*filters)
    return client


def waiting(client: Client, count: int) -> list[bytes]:
    """What waited for the client: so many, and no more. They may have to be read from the file first."""
    return client.receive_payloads(count) + payloads(client)


def is_present(client: Client) -> bool:
    assert client.connack is not None
    return client.connack.session_present


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fastmq.db"


@pytest.mark.parametrize("end", [STOP, KILL])
def test_what_lasts_is_there_after_a_restart_and_nothing_else(path: Path, end: signal.Signals) -> None:
    with broker_on(path, end) as join:
        lasting(join, "reader", ("t/#", 2)).disconnect()
        passing = join(client_id="passing", clean=False)  # no expiry: it ends with its connection
        passing.subscribe("t/#")
        publisher = join()
        assert publisher.publish("t/0", b"not kept") == 0
        for qos in (1, 2):
            assert publisher.publish(f"t/{qos}", b"%d" % qos, qos=qos) == 0
        publisher.publish("t/kept", b"last", qos=1, retain=True)
    with broker_on(path) as join:
        reader = lasting(join, "reader")
        assert is_present(reader)
        assert waiting(reader, 3) == [b"1", b"2", b"last"]
        assert not is_present(join(client_id="passing", clean=False))
        new = join()
        new.subscribe("t/#")
        assert payloads(new) == [b"last"]
        join().publish("t/new", b"new", qos=1)
        assert reader.receive().payload == b"new"


@pytest.mark.parametrize("end", [STOP, KILL])
def test_what_was_unacknowledged_comes_again_with_its_packet_identifier(path: Path, end: signal.Signals) -> None:
    with broker_on(path, end) as join:
        reader = lasting(join, "reader", ("t", 2))
        publisher = join()
        publisher.publish("t", b"one", qos=1)
        publisher.publish("t", b"two", qos=2)
        first = [reader.expect(Publish), reader.expect(Publish)]
        reader.send(encode.ack(5, encode.PUBREC, first[1].packet_id))
        assert reader.expect(Ack).kind == "PUBREL"
    with broker_on(path) as join:
        reader = lasting(join, "reader")
        again = reader.expect(Publish)
        assert (again.payload, again.dup, again.packet_id) == (b"one", True, first[0].packet_id)
        released = reader.expect(Ack)
        assert (released.kind, released.packet_id) == ("PUBREL", first[1].packet_id)


def test_a_qos_2_message_that_is_sent_again_after_a_crash_is_not_routed_twice(path: Path) -> None:
    with broker_on(path, KILL) as join:
        lasting(join, "reader", ("t", 2)).disconnect()
        publisher = lasting(join, "publisher")
        publisher.send(encode.publish(5, "t", b"once", qos=2, packet_id=7))
        assert publisher.expect(Ack).kind == "PUBREC"
    with broker_on(path) as join:
        publisher = lasting(join, "publisher")
        publisher.send(encode.publish(5, "t", b"once", qos=2, packet_id=7, dup=True))
        assert publisher.expect(Ack).kind == "PUBREC"
        publisher.send(encode.ack(5, encode.PUBREL, 7))
        assert publisher.expect(Ack).kind == "PUBCOMP"
        assert waiting(lasting(join, "reader"), 1) == [b"once"]


def test_the_will_of_a_client_that_was_connected_at_a_crash_goes_out_after_it(path: Path) -> None:
    with broker_on(path, KILL) as join:
        lasting(join, "watcher", ("wills", 1)).disconnect()
        lasting(join, "left", will=Will("wills", b"not sent", qos=1)).disconnect()
        lasting(join, "lost", will=Will("wills", b"gone", qos=1))
    with broker_on(path) as join:
        watcher = lasting(join, "watcher")
        assert watcher.receive().payload == b"gone"
        assert payloads(watcher) == []


def test_a_broker_that_is_stopped_sends_no_wills_afterwards_either(path: Path) -> None:
    with broker_on(path, STOP) as join:
        lasting(join, "watcher", ("wills", 1)).disconnect()
        lasting(join, "connected", will=Will("wills", b"not sent", qos=1))
    with broker_on(path) as join:
        watcher = lasting(join, "watcher")
        time.sleep(0.6)  # two ticks: nothing would announce a will that does not come
        assert payloads(watcher) == []


def test_topics_without_durability_are_forgotten(path: Path) -> None:
    with broker_on(path, store__topics="debug/# = none") as join:
        lasting(join, "reader", ("#", 1)).disconnect()
        publisher = join()
        publisher.publish("debug/1", b"not kept", qos=1, retain=True)
        publisher.publish("t", b"kept", qos=1, retain=True)
    with broker_on(path) as join:
        assert waiting(lasting(join, "reader"), 1) == [b"kept"]
        new = join()
        new.subscribe("#")
        assert payloads(new) == [b"kept"]


def test_a_store_that_has_reached_its_size_refuses_messages_and_nothing_else(path: Path) -> None:
    settings: dict[str, Setting] = {"store.size_max_bytes": 2_000_000, "queue.bytes_max": 100_000_000}
    with running_broker({**settings, "store.path": str(path)}) as broker, joining(broker) as join:
        lasting(join, "reader", ("t", 1)).disconnect()
        first, body = join(), bytes(100_000)
        taken = 0
        while (code := first.publish("t", body, qos=1)) == 0:
            taken += 1
        assert code == 0x97
        assert 10 < taken < 60
        broker.await_log("no room for more messages; they are refused until some are taken")
        other = join()
        assert other.publish("t", body, qos=1) == 0x97
        assert other.publish("nobody", body, qos=1) == 0x10
        watcher = join()
        watcher.subscribe(("u", 1))
        assert other.publish("u", b"goes on", qos=1) == 0
        assert watcher.receive().payload == b"goes on"
        reader = lasting(join, "reader")
        for _ in range(taken):
            assert reader.receive().payload == body
        await_condition(lambda: first.publish("t", b"again", qos=1) == 0, 10)
        assert reader.receive().payload == b"again"
