"""The fuzzer of the engine in this process: many connections, every version, any split, any order, time included.

Deterministic: a seed names a run. Between the noise a canary exchanges QoS 1 messages, which must never be hurt, and
everything that the engine says is decoded by the strict decoder of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fastmq._tap import Tap
from fastmq.errors import ProtocolError
from fastmq.packets import Auth
from fastmq.reasons import Reason
from tests.fuzz.grammar import VERSIONS, Grammar
from tests.inprocess import Engine, Wire
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Publish

WIRES = 24
CANARY_TOPIC = "canary/\N{BIRD}"
AUTH_CONTINUE = encode.auth(0x18)
SEND_TURNS = 20

PATIENCE = 10
"""Times that the canary waits until a congested subscriber does not hold it back any more."""

HUBS: tuple[dict[str, int | bool | str], ...] = (
    {},
    {"output_max": 4096, "queue_max": 4, "queue_bytes_max": 4000, "drop_oldest": True, "slow_after_ms": 0},
    {"qos0_offline": True, "strategy": "sticky", "receive_max": 4, "alias_max": 2, "group_queue_max": 3},
    {"packet_max": 3000, "levels_max": 3, "subscriptions_max": 3, "retained_max": 3, "strategy": "random"},
    {"memory_max": 3 << 20, "strategy": "least_inflight", "output_max": 20_000},
    {"connections_max": 16, "retained_bytes_max": 2000, "strategy": "hash_topic", "qos_max": 1},
    {"strategy": "hash_clientid", "retain_available": False, "wildcard_available": False, "shared_available": False},
)


class Fuzz:
    """One run: an engine with one of several configurations, and what is done to it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.grammar = Grammar(self.random)
        self.engine = Engine(**HUBS[seed % len(HUBS)])  # type: ignore[arg-type]
        self.accept: Callable[[int, bytes], None] | None = None
        self.deferred: list[tuple[int, bytes]] = []
        self.tap: Tap | None = None
        self.canary = self.engine.client("canary", props=[(p.RECEIVE_MAXIMUM, 100)])
        self.canary.subscribe(CANARY_TOPIC, 1)
        self.beats = 0
        self.wires: list[Wire] = []
        if seed % 3 == 0:
            self.accept = self.engine.hub.on_connect
            self.engine.hub.on_connect = self._maybe_later
            self.engine.hub.on_auth = self._on_auth
        self.unknown: set[Wire] = set()  #: their CONNECT was mutated: which version they speak is anyone's guess

    def _maybe_later(self, connection: int, body: bytes) -> None:
        """As with an authenticator that asks a server: the answer may come when the client is gone."""
        self.deferred.append((connection, body))
        if self.random.random() < 0.5:
            self._answer_one()

    def _on_auth(self, connection: int, packet: Auth) -> None:
        kind = self.random.random()
        if kind < 0.3:
            self.engine.hub.send(connection, AUTH_CONTINUE)
        elif kind < 0.4:
            raise ProtocolError("not this time")
        elif kind < 0.5:
            self.engine.hub.close_connection(connection, Reason.NOT_AUTHORIZED)

    def _answer_one(self) -> None:
        if self.deferred and self.accept is not None:
            connection, body = self.deferred.pop(self.random.randrange(len(self.deferred)))
            kind = self.random.random()
            if kind < 0.2 and body[6:7] == b"\x05":
                self.engine.hub.send(connection, AUTH_CONTINUE)
                self.deferred.append((connection, body))
            elif kind < 0.8:
                self.accept(connection, body)
            else:
                self.engine.hub.close_connection(connection)

    def run(self, steps: int) -> None:
        for step in range(steps):
            self._step()
            if step % 50 == 49:
                self._beat()
        self._end()

    def _step(self) -> None:
        kind = self.random.random()
        if len(self.wires) < WIRES and kind < 0.15:
            self._open()
        elif self.wires and kind < 0.75:
            self._send(self.random.choice(self.wires))
        elif self.wires and kind < 0.88:
            self._read(self.random.choice(self.wires))
        elif self.wires and kind < 0.93:
            wire = self.wires.pop(self.random.randrange(len(self.wires)))
            if self.random.random() < 0.5:
                wire.close()
            else:
                wire.shut()
        elif kind < 0.95:
            self.engine.advance(self.random.choice((0.3, 1, 2, 20, 100)))
        elif kind < 0.98:
            self._from_inside()
        else:
            self.engine.turn()

    def _from_inside(self) -> None:
        """What the program around the engine does, between turns."""
        hub = self.engine.hub
        kind = self.random.random()
        if kind < 0.3:
            hub.disconnect(f"c{self.random.randrange(8)}".encode(), self.random.choice((0, 0x98)))
        elif kind < 0.5:
            self._answer_one()
        elif kind < 0.6:
            hub.publish(
                encode.publish(5, self.grammar.topic(), self.grammar.payload(), retain=self.random.random() < 0.5)
            )
        elif kind < 0.7 and self.tap is None:
            self.tap = hub.tap(messages_max=3)
            self.tap.subscribe(b"#", self.random.randint(0, 2))
        elif kind < 0.8 and self.tap is not None:
            self.tap.take()
        elif kind < 0.85 and self.tap is not None:
            self.tap.close()
            self.tap = None
        elif kind < 0.9:
            self.tap = None
        else:
            hub.clients()

    def _open(self) -> None:
        wire = self.engine.wire(self.random.choice(VERSIONS))
        self.wires.append(wire)
        if self.random.random() < 0.9:
            packet = self.grammar.connect(wire.version)
            if self.random.random() < self.grammar.evil:
                packet = self.grammar.mutated(packet)
                self.unknown.add(wire)
            wire.send(packet)

    def _send(self, wire: Wire) -> None:
        data = b"".join(self.grammar.anything(wire.version) for _ in range(self.random.randint(1, 6)))
        if self.random.random() < 0.5:
            wire.send(data, SEND_TURNS)
            return
        at = 0
        while at < len(data):
            size = self.random.choice((1, 2, 7, 100, 5000))
            wire.send(data[at : at + size], SEND_TURNS)
            at += size
            if self.random.random() < 0.3:
                self.engine.turn()

    def _read(self, wire: Wire) -> None:
        """Takes what came; acknowledges some of it."""
        for packet in wire.read() if wire not in self.unknown else wire.skip():
            if isinstance(packet, Publish) and packet.qos and self.random.random() < 0.7:
                kind = encode.PUBACK if packet.qos == 1 else encode.PUBREC
                wire.send(encode.ack(wire.version, kind, packet.packet_id or 0))
            elif isinstance(packet, Ack) and packet.kind == "PUBREL" and self.random.random() < 0.7:
                wire.send(encode.ack(wire.version, encode.PUBCOMP, packet.packet_id))
        if wire.ended:
            wire.close()
            self.wires.remove(wire)

    def _beat(self) -> None:
        """The well-behaved neighbour publishes and receives, whatever the others do."""
        self.beats += 1
        payload = b"%d" % self.beats
        self.canary.send(
            encode.publish(5, CANARY_TOPIC, payload, qos=1, packet_id=self.beats % 60_000 + 1)
            + encode.publish(5, CANARY_TOPIC, payload, qos=1, packet_id=self.beats % 60_000 + 1)
        )
        self.engine.settle()
        packets = self.canary.read()
        for _ in range(PATIENCE):
            if sum(isinstance(packet, Ack) for packet in packets) == 2:
                break
            self.engine.advance(0.3)  # a congested subscriber may hold a publisher back for limits.slow_after_ms
            packets += self.canary.read()
        codes = [packet.code for packet in packets if isinstance(packet, Ack)]
        if 0x97 in codes:
            assert self._memory_is_full(), f"seed {self.seed}: refused without need"
        else:
            received = [packet for packet in packets if isinstance(packet, Publish)]
            expected = [payload] * (1 if 0x97 in codes else 2)
            assert [message.payload for message in received] == expected, (
                f"seed {self.seed}: the canary sent {payload!r} and got {packets}"
            )
        for packet in packets:
            if isinstance(packet, Publish):
                self.canary.send(encode.ack(5, encode.PUBACK, packet.packet_id or 0))

    def _memory_is_full(self) -> bool:
        return "memory_max" in HUBS[self.seed % len(HUBS)]

    def _end(self) -> None:
        """Everybody leaves and every session expires: nothing may be left."""
        self.tap = None
        self.deferred.clear()
        for wire in self.wires:
            wire.close()
        self.canary.close()
        self.engine.settle()
        self.engine.advance(10)
        self.engine.advance(2 * 604_800)
        stats = self.engine.hub.stats()
        left = {key: stats[key] for key in ("connections", "sessions", "subscriptions", "shared_subscriptions")}
        assert not any(left.values()), f"seed {self.seed}: left behind: {left}"
        self.engine.close()


def run(seed: int, steps: int = 1500) -> None:
    """One deterministic run; raises when the engine did wrong (a crash takes the process)."""
    fuzz = Fuzz(seed)
    try:
        fuzz.run(steps)
    finally:
        fuzz.engine.close()
