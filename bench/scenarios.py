"""What is measured: each scenario is one call of the load generator against a fresh broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PACED_LEAST_S: Final = 5.0
"""Paced load is light on purpose, so a short run would measure noise."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    meaning: str
    arguments: str
    quick: str = ""
    """Options that take the place of those in `arguments` for a quick run."""
    unit: str = "message"
    """What `cpu_us` is for one of."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further figures worth a column: (figure, title)."""
    durable: bool = False
    """It compares what brokers keep on a disk, and how (`rivals.DURABLE`)."""
    least_s: float = 0.0
    """The shortest time that shows what it is for."""

    def command(self, *, seconds: float, mqtt: int, quick: bool) -> list[str]:
        """The generator's arguments; a later option overrides an earlier one."""
        if not quick:
            seconds = max(seconds, self.least_s, PACED_LEAST_S if "--rate" in self.arguments else 0)
        words = [*self.arguments.split(), "--duration", f"{seconds:g}", "--mqtt", str(mqtt)]
        return [*words, *self.quick.split()] if quick else words


_MEMORY_FILTER = (("bytes_per_filter", "B/filter"), ("subscribe_cpu_us", "µs/subscribe"))
_MEMORY_CONNECTION = (("bytes_per_connection", "B/connection"), ("connects_per_s", "connects/s"))
_DURABLE = (("written_bytes", "B written/message"), ("max_us", "µs the slowest"))
_PINGS = (("ping_p99_us", "µs p99 of pings"), ("ping_max_us", "µs the slowest ping"))
_OFFLINE = (("stored_per_s", "stored/s"), ("bytes_per_message", "B/message"), ("written_bytes", "B written/message"))
_MEMORY_RETAINED = (("bytes_per_message", "B/message"), ("all_ms", "ms for all"), ("store_cpu_us", "µs/store"))

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario("pair1-q0", "1 publisher, 1 subscriber, QoS 0", "pairs --flight 1000"),
        Scenario("pair10-q0", "10 pairs, QoS 0", "pairs --pubs 10 --subs 10 --flight 1000"),
        Scenario("pair10-q1", "10 pairs, QoS 1, window 100", "pairs --pubs 10 --subs 10 --qos 1"),
        Scenario("pair10-q2", "10 pairs, QoS 2, window 100", "pairs --pubs 10 --subs 10 --qos 2"),
        Scenario("pair10-1k", "10 pairs, QoS 0, 1 KiB", "pairs --pubs 10 --subs 10 --flight 100 --size 1024"),
        Scenario("fan100", "1 publisher, 100 subscribers, QoS 0", "fanout --subs 100 --flight 100"),
        Scenario("fan1000", "1 publisher, 1,000 subscribers, QoS 0", "fanout --subs 1000 --flight 100"),
        Scenario("fanin50-q1", "50 publishers, 1 subscriber, QoS 1", "fanin --pubs 50 --qos 1"),
        Scenario(
            "crowd",
            "1,000 pairs, 20,000 messages/s: one message per read",
            "pairs --pubs 1000 --subs 1000 --rate 20000",
            quick="--pubs 100 --subs 100 --rate 5000",
        ),
        Scenario(
            "filters-100k",
            "routing through 100,000 mixed filters",
            "filters --filters 100000 --flight 10000",
            quick="--filters 20000",
            extra=_MEMORY_FILTER,
        ),
        Scenario(
            "filters-1m",
            "routing through 1,000,000 mixed filters",
            "filters --filters 1000000 --flight 10000",
            quick="--filters 50000",
            extra=_MEMORY_FILTER,
        ),
        Scenario("paced-1k-q0", "1,000 messages/s, QoS 0", "pairs --rate 1000"),
        Scenario("paced-1k-q1", "1,000 messages/s, QoS 1", "pairs --rate 1000 --qos 1"),
        Scenario("paced-20k-q0", "20,000 messages/s, QoS 0", "pairs --rate 20000"),
        Scenario(
            "connections-10k",
            "10,000 idle connections",
            "connections --clients 10000",
            quick="--clients 1000 --settle 0.2",
            unit="connect",
            extra=_MEMORY_CONNECTION,
        ),
        Scenario(
            "retained-100k",
            "100,000 retained messages, one subscriber fetches all",
            "retained --messages 100000",
            quick="--messages 10000 --settle 0.2",
            unit="fetch",
            extra=_MEMORY_RETAINED,
        ),
        Scenario(
            "durable-q1",
            "10 pairs, QoS 1, window 100, sessions that last",
            "pairs --pubs 10 --subs 10 --qos 1 --durable 1",
            extra=_DURABLE,
            durable=True,
        ),
        Scenario(
            "durable-q2",
            "10 pairs, QoS 2, window 100, sessions that last",
            "pairs --pubs 10 --subs 10 --qos 2 --durable 1",
            extra=_DURABLE,
            durable=True,
        ),
        Scenario(
            "durable-paced",
            "1,000 messages/s, QoS 1, sessions that last",
            "pairs --rate 1000 --qos 1 --durable 1",
            extra=_DURABLE,
            durable=True,
        ),
        Scenario(
            "durable-fan100",
            "1 publisher, 100 subscribers, QoS 1, sessions that last",
            "fanout --subs 100 --qos 1 --durable 1",
            extra=_DURABLE,
            durable=True,
        ),
        Scenario(
            "durable-offline",
            "1,000,000 messages wait for a session that is away and comes back, QoS 1",
            "offline --messages 1000000 --pubs 10 --qos 1 --settle 5 --pings 1000",
            quick="--messages 20000 --settle 0.2",
            extra=(*_OFFLINE, *_PINGS),
            durable=True,
        ),
        Scenario(
            "durable-pauses",
            "10 pairs, QoS 1, 50,000 messages/s, sessions that last, and a client that pings",
            "pairs --pubs 10 --subs 10 --rate 50000 --qos 1 --durable 1 --pings 1000",
            extra=(*_DURABLE, *_PINGS),
            durable=True,
            least_s=30.0,
        ),
    )
}
