"""A session that moves between engines, as often as it likes, against a twin that stays: their client sees the same."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmq.store.memory import Contents
from tests.inprocess import Engine, Wire
from tests.unit.durable import lasting, nothing_left, told
from tests.unit.moved import exported
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Packet, Publish

FILTERS = st.sampled_from(("t", "t/#", "t/+", "#", "$share/g/t/a", "$share/h/#"))
OPTIONS = st.sampled_from((0, 1, 2, 2, 2, 0x04 | 2, 0x08 | 1))
PACKET_IDS = st.integers(1, 3)

OPS = st.one_of(
    st.tuples(st.just("subscribe"), FILTERS, OPTIONS, st.sampled_from((0, 1, 300))),
    st.tuples(st.just("unsubscribe"), FILTERS),
    st.tuples(st.just("tell"), st.sampled_from(("t", "t/a")), st.integers(0, 2), st.sampled_from((None, None, 10))),
    st.tuples(st.just("tell"), st.just("t/a"), st.sampled_from((1, 2)), st.none()),
    st.tuples(st.just("acknowledge"), st.integers(0, 9)),
    st.tuples(st.just("publish"), PACKET_IDS, st.booleans()),
    st.tuples(st.just("release"), PACKET_IDS),
    st.tuples(st.just("leave")),
    st.tuples(st.just("connect"), st.sampled_from((1, 2, 10))),
    st.tuples(st.just("pass_time")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("move"), st.integers(0, 2)),
    st.tuples(st.just("move"), st.just(0)),
)


class World:
    """Engines, one of which has the session, and its client."""

    def __init__(self, kept: bool, engines: int) -> None:
        self.kept = kept
        self.first = [Engine(store=Contents() if kept else None, qos0_offline=True) for _ in range(engines)]
        self.engines = list(self.first)
        self.at = 0
        self.wire: Wire | None = None
        self.told = 0
        self.held: list[tuple[str, int]] = []
        self.seen: list[object] = []
        self.ids: dict[bytes, set[int]] = {}  #: the packet ids under which a payload has been sent
        self.connect(10)
        self.subscribe("t/#", 2, 0)

    @property
    def engine(self) -> Engine:
        return self.engines[self.at]

    def look(self) -> list[object]:
        """What the client has seen since the last time."""
        if self.wire is not None:
            for packet in self.wire.read_on():
                self._see(packet)
        seen, self.seen = self.seen, []
        return seen

    def _see(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            ids = sorted(map(int, packet.values(p.SUBSCRIPTION_ID)))  # type: ignore[arg-type]
            self.seen.append((packet.topic, packet.payload, packet.qos, packet.retain, packet.dup, ids))
            if packet.qos:
                if packet.dup:
                    assert packet.packet_id in self.ids[packet.payload]
                self.ids.setdefault(packet.payload, set()).add(packet.packet_id)
                self.held.append((f"PUBLISH{packet.qos}", packet.packet_id))
        elif isinstance(packet, Ack) and packet.kind == "PUBREL":
            self.seen.append("PUBREL")
            self.held.append(("PUBREL", packet.packet_id))
        else:
            self.seen.append(packet)

    def subscribe(self, text: str, options: int, number: int) -> None:
        if self.wire is not None:
            options = options & ~0x04 if text.startswith("$share") else options
            self.seen += self.wire.subscribe(text, options, [(p.SUBSCRIPTION_ID, number)] if number else [])

    def unsubscribe(self, text: str) -> None:
        if self.wire is not None:
            self.wire.send(encode.unsubscribe(5, 1, [text]))

    def tell(self, topic: str, qos: int, expiry: int | None) -> None:
        self.told += 1
        told(self.engine, b"%d" % self.told, qos=qos, topic=topic, expiry=expiry)
        self.engine.catch_up()

    def acknowledge(self, place: int) -> None:
        if self.wire is not None and self.held:
            kind, packet_id = self.held.pop(place % len(self.held))
            answer = {"PUBLISH1": encode.PUBACK, "PUBLISH2": encode.PUBREC, "PUBREL": encode.PUBCOMP}[kind]
            self.wire.send(encode.ack(5, answer, packet_id))

    def publish(self, packet_id: int, dup: bool) -> None:
        """With QoS 2, perhaps again; some of its own subscriptions do not want that."""
        if self.wire is not None:
            payload = b"own %d %d" % (packet_id, self.told)
            self.wire.send(encode.publish(5, "t", payload, qos=2, packet_id=packet_id, dup=dup))

    def release(self, packet_id: int) -> None:
        if self.wire is not None:
            self.wire.send(encode.ack(5, encode.PUBREL, packet_id))

    def leave(self) -> None:
        if self.wire is not None:
            self.wire.close()
            self.wire = None
        self.held.clear()
        self.engine.catch_up()

    def connect(self, window: int) -> None:
        self.leave()
        self.wire = lasting(self.engine, window=window)
        assert self.wire.connack is not None
        self.seen.append(self.wire.connack)

    def pass_time(self) -> None:
        for engine in self.engines:
            engine.advance(3.6)

    def crash(self) -> None:
        self.leave()
        if self.kept:
            self.engines[self.at] = self.engine.crash()

    def move(self, meanwhile: int) -> None:
        """To the next engine; with messages `meanwhile`, it is subscribed there before."""
        self.leave()
        here, self.at = self.engine, (self.at + 1) % len(self.engines)
        if self.engine is not here and meanwhile:
            state = here.hub.moving.export(b"s", only_subscriptions=True)
            assert state is not None
            assert self.engine.hub.moving.adopt(b"s", state)
        state = exported(here) if self.engine is not here else None
        for _ in range(meanwhile):
            self.tell("t/a", 1, None)
        if state is not None:
            assert self.engine.hub.moving.adopt(b"s", state)
            assert here.hub.moving.drop(b"s")
            assert here.hub.moving.sessions() == []
            assert not self.kept or nothing_left(here)
        self.engine.catch_up()

    def end(self) -> list[object]:
        """The client comes back and takes all there is."""
        self.connect(10)
        assert self.wire is not None
        found = self.look()
        while self.held:
            self.acknowledge(0)
            found += self.look()
        return found


@settings(deadline=None)
@given(kept=st.booleans(), engines=st.integers(2, 3), ops=st.lists(OPS, min_size=3, max_size=40))
def test_a_client_does_not_see_that_its_session_moves(
    kept: bool, engines: int, ops: list[tuple[Any, ...]]
) -> None:  # fmt: skip
    with ExitStack() as stack:
        stays, moves = World(kept, 1), World(kept, engines)
        for each in (*stays.first, *moves.first):
            stack.enter_context(each)
        for at, engine in enumerate(moves.first):
            engine.advance(1000 * at)
        for name, *rest in ops:
            getattr(stays, name)(*rest)
            getattr(moves, name)(*rest)
            assert moves.look() == stays.look(), name
        assert moves.end() == stays.end()
        if kept:
            assert nothing_left(moves.engine)
