"""The in-flight window and the set of QoS 2 packet ids against a list and a set."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmq._inflight import InflightProbe

LIMITS = st.sampled_from((1, 2, 3, 4, 5, 32, 300))
PACKET_IDS = st.one_of(st.integers(1, 8), st.sampled_from((4095, 4096, 4097, 65_535)))


class InflightMachine(RuleBasedStateMachine):
    """Takes ids, finishes them in any order under limits that change, as a resumed session's may."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = InflightProbe()
        self.flight: list[int] = []  # oldest first
        self.received: set[int] = set()

    @rule(limit=LIMITS, times=st.integers(1, 40))
    def take(self, limit: int, times: int) -> None:
        for _ in range(times):
            packet_id = self.probe.take(limit)
            if len(self.flight) >= limit:
                assert packet_id == 0
                return
            assert 1 <= packet_id <= 65_535
            assert packet_id not in self.flight
            self.flight.append(packet_id)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.flight:
            packet_id = data.draw(st.sampled_from(self.flight))
            assert self.probe.finish(packet_id)
            self.flight.remove(packet_id)

    @rule(packet_id=PACKET_IDS)
    def finish_any(self, packet_id: int) -> None:
        assert self.probe.finish(packet_id) == (packet_id in self.flight)
        if packet_id in self.flight:
            self.flight.remove(packet_id)

    @rule()
    def finish_all(self) -> None:
        """An empty window gives its memory back when it was large."""
        for packet_id in self.flight:
            assert self.probe.finish(packet_id)
        self.flight.clear()
        assert self.probe.bytes <= 256 * 64

    @rule(packet_id=PACKET_IDS)
    def receive(self, packet_id: int) -> None:
        assert self.probe.receive(packet_id) == (packet_id not in self.received)
        self.received.add(packet_id)

    @rule(packet_id=PACKET_IDS)
    def release(self, packet_id: int) -> None:
        assert self.probe.release(packet_id) == (packet_id in self.received)
        self.received.discard(packet_id)

    @invariant()
    def order_is_of_sending(self) -> None:
        assert self.probe.ordered() == self.flight


TestInflightMachine = InflightMachine.TestCase
TestInflightMachine.settings = settings(max_examples=80, stateful_step_count=40)


def test_packet_ids_wrap_past_those_in_flight() -> None:
    """200,000 deliveries with one that is never acknowledged: its id is never given away, nor is 0."""
    probe = InflightProbe()
    stuck = probe.take(10)
    for _ in range(200_000):
        packet_id = probe.take(10)
        assert packet_id not in (0, stuck)
        assert probe.finish(packet_id)
    assert probe.ordered() == [stuck]


def test_a_window_of_all_65535_packet_ids_fills_to_the_last() -> None:
    probe = InflightProbe()
    taken = {probe.take(65_535) for _ in range(65_535)}
    assert taken == set(range(1, 65_536))
    assert probe.take(65_535) == 0
    assert probe.finish(4711)
    assert probe.take(65_535) == 4711
