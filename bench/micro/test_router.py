"""A publish's whole way through the engine: from bytes on one socket to bytes on others, in one process, no loop."""

from collections.abc import Iterator

import pytest

from bench.micro.test_codec import Benchmark
from tests.inprocess import Engine
from tests.wireclient import encode

BATCH = 200


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(output_max=1 << 24) as made:
        yield made


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [16, 4096])
def test_one_to_one(benchmark: Benchmark, engine: Engine, qos: int, size: int) -> None:
    """200 messages from a publisher to a subscriber of MQTT 3.1.1, acknowledged both ways with QoS 1."""
    subscriber, publisher = engine.client("s", version=4), engine.client("p", version=4)
    subscriber.subscribe("a/b", qos)
    batch = b"".join(
        encode.publish(4, "a/b", bytes(size), qos=qos, packet_id=i if qos else None) for i in range(1, BATCH + 1)
    )

    def run() -> None:
        publisher.send(batch)
        if qos:
            subscriber.drain()
        else:
            assert subscriber.discard() > BATCH * size
        publisher.discard()

    benchmark(run)
    assert engine.hub.stats()["publish_dropped"] == 0


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("size", [16, 4096])
def test_fan_out_to_500(benchmark: Benchmark, engine: Engine, version: int, size: int) -> None:
    crowd = [engine.client(f"s{i}", version=version) for i in range(500)]
    for wire in crowd:
        wire.subscribe("news/#")
    publisher = engine.client("p", version=version)
    packet = encode.publish(version, "news/today", bytes(size))

    def run() -> None:
        publisher.send(packet)
        engine.settle()
        for wire in crowd:
            wire.discard()

    benchmark(run)
    assert engine.hub.stats()["publish_dropped"] == 0


def test_to_nobody(benchmark: Benchmark, engine: Engine) -> None:
    publisher = engine.client("p", version=4)
    batch = encode.publish(4, "a/b/c", bytes(16)) * BATCH

    def run() -> None:
        publisher.send(batch)
        engine.settle()

    benchmark(run)


def test_connect_and_disconnect(benchmark: Benchmark, engine: Engine) -> None:
    packets = encode.connect(4, client_id="visitor") + encode.disconnect(4)

    def run() -> None:
        for _ in range(50):
            wire = engine.wire(4)
            wire.send(packets)
            engine.turn()
            engine.turn()
            wire.close()
        engine.forget_wires()

    benchmark(run)
