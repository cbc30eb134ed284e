"""A durable engine that crashes, against what its clients were promised: nothing lost, nothing twice, in order.

Hypothesis decides what clients do, which acknowledgements they hold back, when batches are committed, when bodies come
back and when the engine dies. At the end everyone comes back and gets what is due.
"""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fastmq.store.memory import Contents
from tests.inprocess import Engine, Wire
from tests.properties import durable_model as model
from tests.properties.durable_model import GROUP, MAYBE, NONE, SURE, Books, Outgoing, Retained, SharedWork
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Connack, Packet, Publish, Suback, Unsuback

NAMES = ("a", "b", "c")
CLIENTS = st.sampled_from(NAMES)
FILTERS = st.sampled_from(("t/x", "t/+", "t/#", "w/#", GROUP))
STEP_S = 3.6


class DurableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sent = 0
        self.books = {name: Books(name) for name in NAMES}
        self.wills: set[bytes] = set()
        self.group = SharedWork()
        self.retained = {topic: Retained() for topic in ("r/1", "r/2")}
        self.first = self.engine = Engine(store=Contents())

    def teardown(self) -> None:
        try:
            self._all_is_well_in_the_end()
        finally:
            self.first.close()

    @initialize(versions=st.tuples(*[st.sampled_from((4, 5))] * 3), texts=st.tuples(*[FILTERS] * 3))
    def begin(self, versions: tuple[int, ...], texts: tuple[str, ...]) -> None:
        for name, version, text in zip(NAMES, versions, texts, strict=True):
            self.connect(name, version, "lasting", 10, False)
            self.commit(True)
            self.subscribe(name, text)
            self.commit(True)

    @rule(
        name=CLIENTS,
        version=st.sampled_from((4, 5)),
        how=st.sampled_from(("lasting", "lasting", "lasting", *model.EXPIRIES)),
        window=st.sampled_from((1, 2, 10)),
        will=st.booleans(),
    )
    def connect(self, name: str, version: int, how: str, window: int, will: bool) -> None:
        """`resumed`: taken up, but the session ends with this connection. A clean start is repeated until answered."""
        books = self.books[name]
        if books.wire is not None:
            self._look()
            books.wire.close()
            self._is_gone(books)
        if books.starts_clean:
            how = "passing" if version == 4 else "clean and lasting"
        how = "lasting" if version == 4 and how != "passing" else how
        was_durable = books.is_durable_member()
        books.version, books.clean = version, how in ("passing", "clean and lasting")
        books.starts_clean = books.clean
        books.lasting = how not in ("passing", "resumed")
        books.may_say = books.may_be_present(self.now)
        books.asks_for(model.NEVER if version == 4 and books.lasting else model.EXPIRIES[how])
        if was_durable and (books.clean or not books.lasting):
            self.group.member_is_lost(self.books.values())
        books.wire = self.engine.wire(version)
        props = [(p.SESSION_EXPIRY, int(books.expiry)), (p.RECEIVE_MAXIMUM, window)] if version == 5 else []
        last = None
        if will:
            payload = self._payload("W")
            self.wills.add(payload)
            last = encode.Will("w/x", payload, 2, props=[(p.WILL_DELAY, 5)] if version == 5 else ())
        books.wire.send(
            encode.connect(version, client_id=name, clean=books.clean, props=props, will=last, keep_alive=0)
        )
        self._look()

    @rule(name=CLIENTS, how=st.sampled_from(("lose", "lose unread", "disconnect", "end")))
    def leave(self, name: str, how: str) -> None:
        """`end`: the session is to go as well, at once."""
        books = self.books[name]
        if books.wire is None:
            return
        if how != "lose unread":
            self._look()
        was_durable = books.is_durable_member()
        if how == "end" and (not books.is_open or books.version == 4 or not books.lasting):
            how = "lose"
        if how == "end":
            books.wire.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 0)]))
        elif how == "disconnect" and books.is_open:
            books.wire.send(encode.disconnect(books.version))
        self.engine.settle()
        books.wire.close()
        self._is_gone(books)
        if how == "end":
            books.doubt()
            books.ended = True
            if was_durable:
                self.group.member_is_lost(self.books.values())
        self._look()

    @rule(name=CLIENTS, text=FILTERS)
    def subscribe(self, name: str, text: str) -> None:
        books = self.books[name]
        if books.wire is None or not books.is_open:
            return
        packet_id = self._asks(books, text, True)
        if text not in books.filters:
            books.perhaps.add(text)
        books.was_member |= text == GROUP
        books.wire.send(encode.subscribe(books.version, packet_id, [(text, 2)]))
        self._look()

    @rule(name=CLIENTS, text=FILTERS)
    def unsubscribe(self, name: str, text: str) -> None:
        books = self.books[name]
        if books.wire is not None and books.is_open:
            self._unsubscribe(books, books.wire, text)
            self._look()

    @rule(
        name=CLIENTS,
        topic=st.sampled_from(("t/x", "t/x", "t/y", "j/x", "r/1", "r/2")),
        qos=st.sampled_from((0, 1, 1, 2, 2)),
        count=st.sampled_from((1, 1, 3)),
        expiry=st.sampled_from((None, None, 10)),
        stored=st.booleans(),
    )
    def publish(self, name: str, topic: str, qos: int, count: int, expiry: int | None, stored: bool) -> None:
        books = self.books[name]
        retain = topic.startswith("r/")
        qos = 1 if retain or topic.startswith("j/") else qos
        for _ in range(count):
            free = [packet_id for packet_id in range(1, 5) if packet_id not in books.outgoing]
            if books.wire is None or not books.is_open or not free:
                return
            payload = b"" if retain and count == 3 else self._payload(name)
            message = Outgoing(topic, payload, qos, retain)
            if qos:
                books.outgoing[free[0]] = message
            self._send(books, free[0], message, expiry=expiry if topic[0] == "t" and books.version == 5 else None)
        if stored:
            self.engine.commit_all()
        self._look()

    @rule(name=CLIENTS, places=st.lists(st.integers(0, 9), min_size=1, max_size=5))
    def acknowledge(self, name: str, places: list[int]) -> None:
        """In any order, or never. What is drawn must not depend on the engine, whose clock ticks as it likes."""
        books = self.books[name]
        for place in places:
            if books.held:
                self._answer(books, place % len(books.held))
        self._look()

    # -- what the store and time do --------------------------------------------------------------------------------

    @rule(all_of_it=st.booleans())
    def commit(self, all_of_it: bool) -> None:
        (self.engine.commit_all if all_of_it else self.engine.commit)()
        self._look()

    @rule()
    def fetch(self) -> None:
        self.engine.fetch()
        self._look()

    @rule(steps=st.sampled_from((1, 1, 2, 400)))
    def time_passes(self, steps: int) -> None:
        while self.engine.commit_all():  # a batch that is late is no part of this
            self._look()
        self.now += steps * STEP_S
        self.engine.advance(steps * STEP_S)
        self._grow_old()
        self._look()

    @rule(
        stored=st.booleans(),
        read=st.booleans(),
        away_s=st.sampled_from((0.0, 0.0, STEP_S, 200 * STEP_S)),
        back=st.sampled_from((True, True, False)),
    )
    def crash(self, stored: bool, read: bool, away_s: float, back: bool) -> None:
        """With `back`, everyone is there again at once."""
        if read:
            self._look()
        if stored:
            self.engine.append()
        self.now += away_s
        self.engine = self.engine.crash(away_s)
        for books in self.books.values():
            if books.wire is not None:
                opened = books.is_open
                self._is_gone(books)
                if not opened and (books.clean or not books.lasting):  # it may be the session of before, or the new one
                    books.doubt()
            elif not books.end_is_firm:
                books.end_latest = self.now
            books.ended = False
        self._grow_old()
        self._look()
        if back:
            for name, books in self.books.items():
                self.connect(name, books.version, "lasting", 10, False)
            self.commit(True)

    @rule()
    def look_at_what_is_retained(self) -> None:
        probe = self.engine.client("probe")
        probe.send(encode.subscribe(5, 1, [("r/#", 0)]))
        self.engine.settle()
        found = {packet.topic: packet.payload for packet in probe.read() if isinstance(packet, Publish)}
        for topic, retained in self.retained.items():
            retained.is_seen(found.get(topic, b""))
        probe.close()
        self._look()

    def _payload(self, publisher: str) -> bytes:
        self.sent += 1
        return publisher.encode() + b"%d" % self.sent

    def _asks(self, books: Books, text: str, subscribes: bool) -> int:
        self.sent += 1
        books.asked[self.sent + 100] = (text, subscribes)
        return self.sent + 100

    def _send(
        self, books: Books, packet_id: int, message: Outgoing, again: bool = False, expiry: int | None = None
    ) -> None:
        assert books.wire is not None
        self.sent += 1
        message.sent_as = self.sent
        props = [(p.MESSAGE_EXPIRY, expiry)] if expiry is not None else []
        packet = encode.publish(
            books.version, message.topic, message.payload, qos=message.qos, retain=message.retain,
            dup=again and message.qos > 0, packet_id=packet_id if message.qos else None, props=props,
        )  # fmt: skip
        books.wire.send(packet)
        self.engine.settle()
        if message.retain:
            self.retained[message.topic].is_sent(message.sent_as, message.payload)
            return
        if message.topic.startswith("j/"):
            self.group.is_sent(message.payload, self.books.values())
            return
        for each in self.books.values():
            each.is_sent(message, again, self.now + expiry if expiry is not None else None)

    def _is_accepted(self, message: Outgoing) -> None:
        if message.retain:
            self.retained[message.topic].is_acknowledged(message.sent_as)
        self.group.is_acknowledged(message.payload)
        for each in self.books.values():
            each.is_acknowledged(message.payload)

    def _unsubscribe(self, books: Books, wire: Wire, text: str) -> None:
        packet_id = self._asks(books, text, False)
        books.filters.discard(text)
        books.perhaps.add(text)
        if text == GROUP:  # what it has in flight is its own from now on
            self.group.is_forgotten()
        wire.send(encode.unsubscribe(books.version, packet_id, [text]))

    def _answer(self, books: Books, at: int) -> None:
        kind, packet_id = books.held.pop(at)
        assert books.wire is not None
        books.wire.send(encode.ack(books.version, model.ANSWERS[kind], packet_id))
        self.engine.settle()

    def _is_gone(self, books: Books) -> None:
        """Its connection ended."""
        opened = books.is_open
        books.hangs_up(self.now)
        if not books.lasting and opened:
            books.forget()
        elif not opened and (books.clean or not books.lasting):
            books.doubt()
        elif not opened and books.session == NONE:
            books.session = MAYBE

    def _grow_old(self) -> None:
        for books in self.books.values():
            if books.wire is None and books.session != NONE and books.end_earliest + books.expiry_least - 1 <= self.now:
                was_durable = books.is_durable_member()
                books.doubt()
                if was_durable:
                    self.group.member_is_lost(self.books.values())

    def _look(self) -> None:
        """Reads what came, and does what a client must do at once."""
        self.engine.hub.hurry()  # not when the real clock ticks
        self.engine.settle()
        for books in self.books.values():
            while books.wire is not None and (packets := books.wire.read()):
                for packet in packets:
                    self._take(books, books.wire, packet)
                self.engine.settle()
            assert books.wire is None or not books.wire.ended, f"{books.name} was cut"
        if self.engine.batch is None and self.engine.hub.is_settled:
            for books in self.books.values():
                books.end_is_firm = True
                if books.ended and books.wire is None:
                    books.forget()

    def _take(self, books: Books, wire: Wire, packet: Packet) -> None:
        match packet:
            case Connack():
                self._take_connack(books, wire, packet)
            case Suback() | Unsuback():
                text, subscribed = books.asked.pop(packet.packet_id)
                if not any(text == other for other, _ in books.asked.values()):
                    books.perhaps.discard(text)
                    (books.filters.add if subscribed else books.filters.discard)(text)
            case Publish():
                if packet.topic.startswith("j/"):
                    assert packet.payload in self.group.may
                    assert books.was_member
                    self.group.got.add(packet.payload)
                    if packet.qos:
                        books.held.append(("PUBACK", packet.packet_id))
                    return
                known = packet.payload in (self.wills if packet.topic == "w/x" else books.due)
                assert known, f"{books.name} got {packet.payload!r} out of nowhere"
                books.takes(packet.payload, packet.qos, packet.packet_id, packet.dup)
            case Ack():
                self._take_ack(books, wire, packet)

    def _take_connack(self, books: Books, wire: Wire, packet: Connack) -> None:
        assert packet.code == 0
        assert packet.session_present in books.may_say, f"{books.name}: {packet}"
        books.is_open, books.starts_clean = True, False
        if not packet.session_present:
            books.forget()
        books.session, books.ended = SURE, False
        books.expiry_least = books.expiry_most = books.expiry
        for packet_id, message in sorted(books.outgoing.items(), key=lambda item: item[1].sent_as):
            if message.released:
                wire.send(encode.ack(books.version, encode.PUBREL, packet_id))
            else:
                self._send(books, packet_id, message, again=True)
        for text in sorted(books.perhaps):
            self._unsubscribe(books, wire, text)

    def _take_ack(self, books: Books, wire: Wire, packet: Ack) -> None:
        if packet.kind == "PUBREL":
            books.incoming.discard(packet.packet_id)
            books.held.append(("PUBCOMP", packet.packet_id))
            return
        assert packet.code < 0x80 or packet.kind == "PUBCOMP", packet
        message = books.outgoing.get(packet.packet_id)
        if packet.kind == "PUBREC":
            assert message is not None
            message.released = True
            wire.send(encode.ack(books.version, encode.PUBREL, packet.packet_id))
        else:
            del books.outgoing[packet.packet_id]
        if message is not None:
            self._is_accepted(message)

    def _all_is_well_in_the_end(self) -> None:
        self.engine.catch_up()
        self._look()
        for name, books in self.books.items():
            if books.wire is None:
                self.connect(name, 5, "lasting", 10, False)
            self.engine.catch_up()
        idle = 0
        while idle < 3:
            self.engine.catch_up()
            self._look()
            held = [books for books in self.books.values() if books.held]
            for books in held:
                self._answer(books, 0)
            idle = 0 if held else idle + 1
        for books in self.books.values():
            assert not books.missing(self.now), f"{books.name} did not get {books.missing(self.now)}"
            assert not books.outgoing
        assert self.group.must <= self.group.got, f"nobody got {self.group.must - self.group.got}"
        self.look_at_what_is_retained()
        self.engine.commit_all()
        assert self.engine.store.stat()["deliveries"] == 0
        assert self.engine.laws.leaked() <= set(), "messages that nobody needs are still stored"


TestDurableSessions = DurableMachine.TestCase
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "300"))
TestDurableSessions.settings = settings(max_examples=EXAMPLES, stateful_step_count=50)
