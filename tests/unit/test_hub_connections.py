"""How connections end: each of these once freed something that was still in use."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys

import pytest

from fastmq._hub import Hub
from tests.inprocess import Engine
from tests.wireclient import encode
from tests.wireclient.decode import Pingresp, Publish
from tests.wireclient.encode import Will

BAD_CONNECT = encode.frame(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01")
MALFORMED = b"\x00\xff\xff\xff\xff"
CONNECT_TIMEOUT_S = 15


def test_a_refused_client_that_is_gone_already() -> None:
    """There are last words, nobody to hear them, and no session."""
    with Engine() as engine:
        for _ in range(50):
            wire = engine.wire()
            wire.send(BAD_CONNECT)
            wire.reset()
            engine.settle()
        assert engine.hub.stats()["connections"] == 0


def test_a_takeover_from_a_connection_that_is_dead() -> None:
    with Engine() as engine:
        for _ in range(20):
            old = engine.client("same")
            new = engine.wire()
            new.send(encode.connect(5, client_id="same"))
            old.close()
            engine.settle()
            assert new.exchange(encode.PINGREQ)[-1] == Pingresp()
            new.close()
            engine.settle()
        assert engine.hub.stats()["connections"] == 0


def test_a_refusal_that_comes_as_the_time_to_connect_is_over() -> None:
    with Engine() as engine:
        waiting: list[int] = []
        engine.hub.on_connect = lambda connection, body: waiting.append(connection)
        for _ in range(20):
            wire = engine.wire()
            wire.send(encode.connect(5, client_id="slow authenticator"))
            engine.settle()
            engine.hub.advance((CONNECT_TIMEOUT_S - 1) * 1000)
            engine.hub.reject(waiting[-1], b"\x20\x03\x00\x87\x00")
            engine.hub.advance(2000)
            engine.settle()
            wire.close()
        engine.advance(2)
        assert engine.hub.stats()["connections"] == 0


def test_a_will_that_congests_a_subscriber_who_leaves() -> None:
    """What a will congests holds nobody back: there is no publisher any more."""
    with Engine(output_max=8192) as engine:
        subscriber = engine.client("s")
        subscriber.subscribe("w")
        other = engine.client("other")
        for i in range(5):
            engine.client(f"dying{i}", will=Will("w", bytes(60_000))).send(MALFORMED)
        engine.settle()
        subscriber.close()
        engine.settle()
        for _ in range(3):
            assert other.exchange(encode.PINGREQ) == [Pingresp()]


def test_packets_that_come_with_connect_are_worked_off_after_it() -> None:
    with Engine() as engine:
        wire = engine.wire()
        subscribe = encode.subscribe(5, 1, [("t", 0)])
        wire.send(encode.connect(5, client_id="eager") + subscribe + encode.publish(5, "t", b"early") + encode.PINGREQ)
        engine.settle()
        packets = wire.read()
        assert [type(packet).__name__ for packet in packets] == ["Connack", "Suback", "Publish", "Pingresp"]


def test_closing_the_hub_with_clients_and_messages_in_every_state() -> None:
    engine = Engine(output_max=8192)
    for i in range(5):
        client = engine.client(f"c{i}", clean=False, will=Will("will", b"x"), props=[(0x11, 100)])
        client.subscribe("t/#", 2)
        client.subscribe("$share/g/t/#", 1)
    publisher = engine.client("p")
    for i in range(1, 50):
        publisher.send(encode.publish(5, f"t/{i}", bytes(3000), qos=i % 3, packet_id=i if i % 3 else None, retain=True))
    publisher.send(encode.publish(5, "t", bytes(5000))[:1000])
    engine.turn()
    engine.wire().send(encode.connect(5)[:7])
    engine.turn()
    engine.close()
    engine.hub.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.hub.stats()


NO_DESCRIPTORS = """
import os, resource
from fastmq._hub import Hub
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError:
    pass
try:
    Hub(packet_max=1000, output_max=1000)
except OSError:
    print("refused")
"""


def test_a_hub_without_descriptors_is_refused_and_freed() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 64
    ran = subprocess.run([sys.executable, "-c", NO_DESCRIPTORS], capture_output=True, text=True, check=True)
    assert ran.stdout == "refused\n"


def test_a_hub_that_is_dropped_frees_its_descriptors() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(10):
        Hub(packet_max=1000, output_max=1000).stats()
    assert descriptors() == before


@pytest.mark.parametrize("how", ["dropped", "closed", "closed after the hub", "dropped after the hub"])
def test_a_tap_ends_in_any_order(how: str) -> None:
    engine = Engine()
    tap = engine.hub.tap()
    tap.subscribe(b"t/#")
    client = engine.client("c")
    client.publish("t/1", b"x", qos=1, packet_id=1, retain=True)
    assert len(tap) == 1
    if how == "closed":
        tap.close()
        assert tap.take() == []
    elif how == "dropped":
        del tap
    if "hub" not in how:
        client.publish("t/2", b"y", qos=1, packet_id=2)
        assert engine.hub.stats()["subscriptions"] == 0
    engine.close()
    if how == "closed after the hub":
        tap.close()
        assert tap.take() == []
        assert len(tap) == 0


class Holder:
    """Something of a program that holds what calls it."""

    def __init__(self, held: list[object]) -> None:
        self.held = held

    def notify(self) -> None:
        self.held.reverse()


def test_a_tap_in_a_cycle_with_its_hub_is_collected() -> None:
    for _ in range(5):
        hub = Hub(packet_max=1000, output_max=1000)
        tap = hub.tap()
        tap.subscribe(b"t")
        tap.on_ready = Holder([hub, tap]).notify
        hub.publish(encode.publish(5, "t", b"x"))
    del hub, tap
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Holder)]


def test_a_tap_may_close_itself_and_others_when_it_is_called() -> None:
    with Engine() as engine:
        taps = [engine.hub.tap() for _ in range(4)]

        def close_all() -> None:
            for tap in taps:
                tap.close()

        for tap in taps:
            tap.subscribe(b"t")
            tap.on_ready = close_all
        engine.client("c").publish("t", b"x")
        assert engine.hub.stats()["subscriptions"] == 0


def test_unsubscribing_ends_the_retained_messages_that_are_still_to_come() -> None:
    """[MQTT-3.10.4-3]: only what is already on its way may still arrive."""
    with Engine() as engine:
        publisher = engine.client("p")
        for i in range(100):
            publisher.send(encode.publish(5, f"r/{i}", b"x", qos=1, packet_id=1, retain=True))
        engine.settle()
        slow = engine.client("slow", props=[(0x21, 3)])
        first = [packet for packet in slow.subscribe("r/#", 1) if isinstance(packet, Publish)]
        assert len(first) == 3
        slow.exchange(encode.unsubscribe(5, 2, ["r/#"]))
        slow.send(b"".join(encode.ack(5, encode.PUBACK, packet.packet_id) for packet in first))
        assert slow.drain() == []


def test_mqtt_3_has_no_receive_maximum() -> None:
    """A client that pipelines more QoS 2 than our Receive Maximum before it reads is in its right."""
    with Engine(receive_max=10) as engine:
        client = engine.client("c", version=4)
        client.send(b"".join(encode.publish(4, "t", b"x", qos=2, packet_id=i) for i in range(1, 101)))
        assert len(client.read_on()) == 100
        assert not client.ended


@pytest.mark.parametrize("version", [4, 5])
def test_a_will_cannot_write_to_the_brokers_own_topics(version: int) -> None:
    with Engine() as engine:
        watcher = engine.client("w")
        watcher.subscribe("$SYS/#")
        wire = engine.wire(version)
        wire.send(encode.connect(version, client_id="liar", will=Will("$SYS/broker/version", b"lie", retain=True)))
        engine.settle()
        wire.close()
        engine.settle()
        assert watcher.read() == []
        assert engine.hub.stats()["retained"] == 0
