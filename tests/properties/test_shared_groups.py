"""Shared subscriptions, whatever the strategy: nothing is lost, nothing is doubled, nobody gets what it cannot take."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fastmq._hub import STRATEGIES
from tests.inprocess import Engine, Wire
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Publish

MEMBERS = st.sampled_from(("m0", "m1", "m2"))
FILTER = "$share/g/jobs/+"
LASTING_S = 1000


class GroupMachine(RuleBasedStateMachine):
    """Members come, go and die while work of QoS 1 arrives; what nobody has acknowledged must still be somewhere."""

    @initialize(strategy=st.sampled_from(STRATEGIES), send_max=st.sampled_from((1, 2, 5)))
    def begin(self, strategy: str, send_max: int) -> None:
        self.engine = Engine(strategy=strategy)
        self.publisher = self.engine.client("publisher")
        self.send_max = send_max
        self.wires: dict[str, Wire] = {}
        self.held: dict[str, dict[int, bytes]] = {}  # member -> packet id -> payload, not acknowledged yet
        self.members: set[str] = set()  # subscribed, connected or not
        self.accepted: list[bytes] = []
        self.done: Counter[bytes] = Counter()
        self.plain = 0

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            if self.members:
                self._work_off()
                assert self.done == Counter(self.accepted), "every message that was accepted is done exactly once"
        finally:
            self.engine.close()

    def _work_off(self) -> None:
        for member in sorted(self.members):
            if member not in self.wires:
                self._connect(member)
        while any(self.held.values()):
            for member in list(self.held):
                for packet_id in list(self.held[member]):
                    self._acknowledge(member, packet_id)
            self._look()

    def _connect(self, member: str) -> None:
        wire = self.engine.wire(5)
        self.wires[member] = wire
        props = [(p.SESSION_EXPIRY, LASTING_S), (p.RECEIVE_MAXIMUM, self.send_max)]
        self.held[member] = {}
        wire.connect(member, clean=False, props=props)
        self._look()

    def _look(self) -> None:
        self.engine.settle()
        for member, wire in self.wires.items():
            for packet in wire.read():
                if isinstance(packet, Publish):
                    assert member in self.members, "only members get the group's messages"
                    assert packet.packet_id not in self.held[member]
                    self.held[member][packet.packet_id] = packet.payload
            assert len(self.held[member]) <= self.send_max, "nobody gets more than its Receive Maximum"

    def _acknowledge(self, member: str, packet_id: int) -> None:
        self.done[self.held[member].pop(packet_id)] += 1
        self.wires[member].send(encode.ack(5, encode.PUBACK, packet_id))

    @rule(member=MEMBERS)
    def join(self, member: str) -> None:
        if member not in self.wires:
            self._connect(member)
        self.wires[member].send(encode.subscribe(5, 9, [(FILTER, 1)]))
        self.members.add(member)
        self._look()

    @rule(count=st.integers(1, 8))
    def publish(self, count: int) -> None:
        for _ in range(count):
            payload = b"%d" % (len(self.accepted) + self.plain)
            (answer,) = self.publisher.publish("jobs/x", payload, qos=1, packet_id=1)
            assert isinstance(answer, Ack)
            assert answer.code == (0 if self.members else 0x10)
            if self.members:
                self.accepted.append(payload)
            else:
                self.plain += 1
        self._look()

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def acknowledge(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            pending = sorted((member, packet_id) for member, held in self.held.items() for packet_id in held)
            if pending:
                self._acknowledge(*data.draw(st.sampled_from(pending)))
        self._look()

    @precondition(lambda self: self.wires)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Its session stays; what it did not acknowledge goes to others, or waits for it."""
        member = data.draw(st.sampled_from(sorted(self.wires)))
        wire = self.wires.pop(member)
        del self.held[member]
        wire.shut()
        self.engine.settle()
        wire.close()
        self._look()

    @precondition(lambda self: len(self.members) > 1 and any(member in self.wires for member in self.members))
    @rule(data=st.data())
    def end_session(self, data: st.DataObject) -> None:
        """While others remain, their group inherits what this one had not finished."""
        member = data.draw(st.sampled_from(sorted(self.members & set(self.wires))))
        wire = self.wires.pop(member)
        del self.held[member]
        self.members.discard(member)
        wire.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 0)]))
        self.engine.settle()
        wire.close()
        self._look()

    @rule()
    def idle_members_leave_no_queue(self) -> None:
        """A message waits in the group only while every member that is connected is at its Receive Maximum."""
        self._look()
        taken = sum(len(held) for held in self.held.values())
        offline = self.members - set(self.wires)
        if self.members and not offline and any(len(self.held[member]) < self.send_max for member in self.members):
            assert taken + sum(self.done.values()) == len(self.accepted)


TestGroups = GroupMachine.TestCase
TestGroups.settings = settings(max_examples=60, stateful_step_count=40)
