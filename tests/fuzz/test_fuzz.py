"""A few seconds of each fuzzer; `python -m tests.fuzz --seconds 3600` goes on for longer."""

import pytest

from tests.brokerproc import running_broker
from tests.fuzz import broker as over_tcp
from tests.fuzz import engine as in_process

SEED_BASE = 20_000
RUNS = 210


@pytest.mark.parametrize("hub", range(len(in_process.HUBS)))
def test_engine_survives_and_forgets_whatever_it_is_sent(hub: int) -> None:
    step = len(in_process.HUBS)
    for seed in range(SEED_BASE + hub, SEED_BASE + hub + RUNS, step):
        in_process.run(seed - SEED_BASE % step, steps=800)


def test_broker_serves_its_neighbours_whatever_others_send() -> None:
    with running_broker({"systopics.interval_s": 1}) as broker:
        assert over_tcp.fuzz(broker, seed=1, seconds=4) > 100_000


def test_broker_with_little_memory_survives_too() -> None:
    settings = {"limits.output_max_bytes": 20_000, "queue.messages_max": 10, "mqtt.packet_max_bytes": 20_000}
    with running_broker(settings) as broker:
        assert over_tcp.fuzz(broker, seed=2, seconds=3) > 50_000
