"""What a client may and must hear from a broker that crashes: its books, kept by the promises that it was given.

The broker's state after a crash is some prefix of what happened, at least as long as what was acknowledged. So what a
client knows for sure is what it was told; the rest is possible. `Books` is one client with its own memory of packet
ids, as MQTT asks of it; `Retained` is a topic's value as far as anyone can know it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastmq.topics import matches
from tests.inprocess import Wire
from tests.wireclient import encode

NONE, MAYBE, SURE = "none", "maybe", "sure"
GROUP = "$share/g/j/#"
NEVER = 604_800.0
"""mqtt.session_expiry_max_s: what MQTT 3 gets."""
EXPIRIES = {"lasting": 1000.0, "clean and lasting": 1000.0, "brief": 20.0, "passing": 0.0, "resumed": 0.0}
ANSWERS = {"PUBACK": encode.PUBACK, "PUBREC": encode.PUBREC, "PUBCOMP": encode.PUBCOMP}


@dataclass
class Due:
    """A message that a client may get; `must`: it has to, at least once, and once only with QoS 2."""

    qos: int
    promised: bool = False  # it must, as soon as its publisher is told so
    must: bool = False
    expires_at: float | None = None


@dataclass
class Outgoing:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    sent_as: int = 0  # its last place in the order of all that was sent
    released: bool = False
    doubted: bool = False  # the session that it was sent in may be gone, unheard: its packet id would be new


@dataclass
class Books:
    name: str
    wire: Wire | None = None
    is_open: bool = False  # its CONNACK came
    version: int = 5
    clean: bool = False  # as its last CONNECT said
    starts_clean: bool = False  # and it was not answered
    lasting: bool = False  # its session outlives its connection
    expiry: float = 0.0  # as its last CONNECT said
    expiry_least: float = 0.0  # of the session, as far as the client knows
    expiry_most: float = 0.0
    session: str = NONE
    ended: bool = False  # the session is over, but that may not be committed
    end_earliest: float = 0.0
    end_latest: float = 0.0
    end_is_firm: bool = True
    may_say: set[bool] = field(default_factory=set)  # what Session Present may say
    filters: set[str] = field(default_factory=set)
    perhaps: set[str] = field(default_factory=set)  # asked for, or asked to end, without an answer
    asked: dict[int, tuple[str, bool]] = field(default_factory=dict)
    outgoing: dict[int, Outgoing] = field(default_factory=dict)
    held: list[tuple[str, int]] = field(default_factory=list)  # what is to be acknowledged on this connection
    incoming: set[int] = field(default_factory=set)  # QoS 2
    due: dict[bytes, Due] = field(default_factory=dict)
    twice: set[bytes] = field(default_factory=set)  # of QoS 2, sent again in what may be another session
    count: Counter[bytes] = field(default_factory=Counter)
    newest: dict[bytes, int] = field(default_factory=dict)  # of each publisher, what came first
    was_member: bool = False

    def forget(self) -> None:
        """The session is gone, and the client knows it."""
        self.session, self.ended = NONE, False
        for part in (self.filters, self.perhaps, self.asked, self.outgoing, self.incoming, self.due, self.newest):
            part.clear()
        self.held.clear()
        self.count.clear()
        self.was_member = False

    def doubt(self) -> None:
        """The session may be gone: nothing that was due must come any more."""
        self.session = MAYBE
        self.perhaps |= self.filters
        self.filters.clear()
        for due in self.due.values():
            due.must = due.promised = False
        for message in self.outgoing.values():
            message.doubted = True

    def is_durable_member(self) -> bool:
        is_sure = self.session == SURE and self.lasting and not self.ended and not self.starts_clean
        return GROUP in self.filters and is_sure

    def asks_for(self, expiry: float) -> None:
        """It connects: until it is answered, its session may be that of before."""
        self.expiry, self.ended = expiry, False
        is_new = self.session == NONE
        self.expiry_least = expiry if is_new else min(expiry, self.expiry_least)
        self.expiry_most = expiry if is_new else max(expiry, self.expiry_most)

    def hangs_up(self, now: float) -> None:
        if self.is_open or self.session == NONE:
            self.end_earliest = now  # else its CONNECT may be lost as well, and the session is as old as before
        self.end_latest, self.end_is_firm = now, False
        self.wire, self.is_open = None, False
        self.held.clear()
        self.asked.clear()

    def may_be_present(self, now: float) -> set[bool]:
        """What Session Present may say."""
        if self.clean or self.session == NONE:
            return {False}
        if self.end_latest + self.expiry_most + 1 < now:
            return {False}
        if self.session == MAYBE or self.end_earliest + self.expiry_least - 1 <= now:
            return {False, True}
        return {True}

    def hears(self, topic: str, filters: Iterable[str]) -> bool:
        return any(text != GROUP and matches(text, topic) for text in filters)

    def is_sent(self, message: Outgoing, again: bool, expires_at: float | None) -> None:
        """The broker works off a publish; one of QoS 2 that is sent again only if the first was lost."""
        if again and message.doubted:
            self.twice.add(message.payload)
        if self.ended or self.starts_clean:
            return  # the broker has no session with these filters now
        old = self.due.get(message.payload)
        if self.hears(message.topic, self.filters) and message.qos and not (again and message.qos == 2):
            must = old is not None and old.must
            self.due[message.payload] = Due(message.qos, True, must, expires_at)
        elif old is not None:  # perhaps the first was lost, and nobody is to hear this one
            old.promised = old.promised and self.hears(message.topic, self.filters)
        elif self.hears(message.topic, self.filters | self.perhaps):
            self.due[message.payload] = Due(message.qos)

    def is_acknowledged(self, payload: bytes) -> None:
        due = self.due.get(payload)
        if due is not None and due.promised:
            due.must = True

    def takes(self, payload: bytes, qos: int, packet_id: int, dup: bool) -> None:
        """A PUBLISH arrives."""
        assert qos or not dup, "QoS 0 is never repeated [MQTT-3.3.1-2]"
        if qos:
            self.held.append(("PUBACK" if qos == 1 else "PUBREC", packet_id))
        if qos == 2 and packet_id in self.incoming:
            assert dup, f"{self.name} got {payload!r} with a packet id that is in use"
            return
        assert not qos or packet_id not in self.incoming
        first = self.count[payload] == 0
        self.count[payload] += 1
        if qos == 2:
            self.incoming.add(packet_id)
            assert first or payload in self.twice, f"{self.name} got {payload!r} twice"
        publisher, number = payload[:1], int(payload[1:])
        if first and qos and publisher.islower():
            assert number > self.newest.get(publisher, -1), f"{self.name} got {payload!r} out of order"
            self.newest[publisher] = number

    def missing(self, now: float) -> list[bytes]:
        return [
            payload
            for payload, due in self.due.items()
            if due.must and not self.count[payload] and (due.expires_at is None or due.expires_at > now + 1)
        ]


@dataclass
class Retained:
    """Values that a topic may have: those that were sent since the last one that is known to be there."""

    values: list[tuple[int, bytes]] = field(default_factory=lambda: [(0, b"")])

    def is_sent(self, sent_as: int, payload: bytes) -> None:
        self.values.append((sent_as, payload))

    def is_acknowledged(self, sent_as: int) -> None:
        self.values = [each for each in self.values if each[0] >= sent_as]

    def is_seen(self, payload: bytes) -> None:
        assert payload in {value for _, value in self.values}, f"{payload!r} is not retained, but one of {self.values}"


@dataclass
class SharedWork:
    """What a shared group may get, and what some member of it must."""

    may: dict[bytes, bool] = field(default_factory=dict)  # whether it must, once its publisher is told so
    must: set[bytes] = field(default_factory=set)
    got: set[bytes] = field(default_factory=set)

    def is_sent(self, payload: bytes, members: Iterable[Books]) -> None:
        self.may[payload] = any(books.is_durable_member() for books in members)

    def is_acknowledged(self, payload: bytes) -> None:
        if self.may.get(payload):
            self.must.add(payload)

    def member_is_lost(self, members: Iterable[Books]) -> None:
        """Its work goes to the others, if there are any whose sessions last."""
        if not any(books.is_durable_member() for books in members):
            self.is_forgotten()

    def is_forgotten(self) -> None:
        self.must.clear()
        self.may = dict.fromkeys(self.may, False)
