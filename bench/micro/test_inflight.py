"""The life of a packet id: taken, in flight with others, finished."""

import pytest

from bench.micro.test_codec import Benchmark
from fastmq._inflight import InflightProbe


@pytest.mark.parametrize("flight", [1, 32, 1000])
def test_take_and_finish(benchmark: Benchmark, flight: int) -> None:
    probe = InflightProbe()
    for _ in range(flight - 1):
        probe.take(flight)

    def thousand() -> None:
        for _ in range(1000):
            probe.finish(probe.take(flight))

    benchmark(thousand)


def test_order_of_redelivery(benchmark: Benchmark) -> None:
    """A client with a thousand messages in flight comes back."""
    probe = InflightProbe()
    for _ in range(1000):
        probe.take(1000)
    assert len(benchmark(probe.ordered)) == 1000


def test_exactly_once_bookkeeping(benchmark: Benchmark) -> None:
    probe = InflightProbe()

    def thousand() -> None:
        for packet_id in range(1, 1001):
            probe.receive(packet_id)
        for packet_id in range(1, 1001):
            probe.release(packet_id)

    benchmark(thousand)
