"""What MQTT promises a client, in plain Python: sessions, subscriptions, QoS 1 and 2, retained messages, wills, expiry.

Slow and readable. Nothing here knows the engine: `Model` is told what clients do and says what they must be sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fastmq.topics import matches

NEVER = 604_800.0
"""mqtt.session_expiry_max_s: what a client that asks for ever gets."""


@dataclass(frozen=True)
class Sent:
    """A PUBLISH as a client must see it; the packet id is the server's choice."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool = False
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Any other packet: its name, its packet id (None: the server's choice) and its reason code."""

    kind: str
    packet_id: int | None = None
    code: int = 0


@dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool = False
    expires_at: float | None = None


@dataclass
class Subscription:
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0


@dataclass(eq=False)
class Delivery:
    message: Message
    qos: int
    retain: bool
    ids: tuple[int, ...]
    state: str = ""  # PUBACK, PUBREC, PUBCOMP: what it waits for
    packet_id: int = 0  # learned from the wire
    sent_here: bool = True  # on the present connection


@dataclass
class Will:
    message: Message
    delay: float


@dataclass
class Session:
    version: int = 5
    send_max: int = 10
    expiry: float = 0.0
    connected: bool = False
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    flight: list[Delivery] = field(default_factory=list)  # oldest first
    queue: list[Delivery] = field(default_factory=list)
    inbound: set[int] = field(default_factory=set)  # QoS 2 packet ids that await PUBREL
    will: Will | None = None
    will_at: float | None = None
    ends_at: float | None = None
    sent: list[Sent] = field(default_factory=list)  # since the test last looked
    answers: list[Answer] = field(default_factory=list)


class Model:
    def __init__(self) -> None:
        self.now = 0.0
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Message] = {}

    # -- connections -----------------------------------------------------------------------------------------------

    def connect(
        self, client: str, *, version: int, clean: bool, expiry: float, send_max: int, will: Will | None
    ) -> bool:
        """Returns Session Present."""
        old = self.sessions.get(client)
        if old is not None and old.connected:
            self.lose(client)
        old = self.sessions.get(client)
        if old is not None and clean:
            self._end(client)
            old = None
        session = old or Session()
        session.version, session.expiry, session.send_max = version, expiry, send_max
        session.connected, session.will, session.will_at, session.ends_at = True, will, None, None
        self.sessions[client] = session
        for delivery in session.flight:
            delivery.sent_here = False
        self._pump(session)
        return old is not None

    def leave(self, client: str) -> None:
        """DISCONNECT: no will [MQTT-3.14.4-3]."""
        self.sessions[client].will = None
        self.lose(client)

    def lose(self, client: str) -> None:
        """The connection is gone."""
        session = self.sessions[client]
        session.connected = False
        if session.expiry == 0:
            self._end(client)
            return
        if session.will is not None:
            session.will_at = self.now + session.will.delay
        session.ends_at = self.now + session.expiry
        self._fire()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._fire()

    def _fire(self) -> None:
        for client, session in list(self.sessions.items()):
            if session.ends_at is not None and session.ends_at <= self.now:
                self._end(client)
            elif session.will_at is not None and session.will_at <= self.now:
                self._publish_will(session)

    def _end(self, client: str) -> None:
        """The will of a session that ends goes out, whatever its delay [MQTT-3.1.3-9]."""
        self._publish_will(self.sessions[client])
        del self.sessions[client]

    def _publish_will(self, session: Session) -> None:
        will, session.will, session.will_at = session.will, None, None
        if will is not None:
            self.route(will.message, session)

    # -- messages --------------------------------------------------------------------------------------------------

    def publish(self, client: str, message: Message, packet_id: int) -> None:
        session = self.sessions[client]
        if message.qos == 2 and packet_id in session.inbound:
            session.answers.append(Answer("PUBREC", packet_id))
            return
        reached = self.route(message, session)
        code = 0x10 if reached == 0 and session.version == 5 else 0
        if message.qos == 1:
            session.answers.append(Answer("PUBACK", packet_id, code))
        elif message.qos == 2:
            session.inbound.add(packet_id)
            session.answers.append(Answer("PUBREC", packet_id, code))

    def release(self, client: str, packet_id: int) -> None:
        session = self.sessions[client]
        known = packet_id in session.inbound
        session.inbound.discard(packet_id)
        session.answers.append(Answer("PUBCOMP", packet_id, 0 if known or session.version < 5 else 0x92))

    def route(self, message: Message, publisher: Session) -> int:
        """To everyone who subscribed, each once; returns how many that were."""
        if message.retain:
            self.retained.pop(message.topic, None)
            if message.payload:
                self.retained[message.topic] = message
        reached = 0
        for session in self.sessions.values():
            hits = [
                sub
                for text, sub in session.subscriptions.items()
                if matches(text, message.topic) and not (sub.no_local and session is publisher)
            ]
            if not hits:
                continue
            reached += 1
            retain = message.retain and any(sub.retain_as_published for sub in hits)
            ids = tuple(sorted(sub.identifier for sub in hits if sub.identifier))
            self._deliver(session, message, min(message.qos, max(sub.qos for sub in hits)), retain, ids)
        return reached

    def _deliver(self, session: Session, message: Message, qos: int, retain: bool, ids: tuple[int, ...]) -> None:
        delivery = Delivery(message, qos, retain, ids)
        if qos:
            session.queue.append(delivery)
            self._pump(session)
        elif session.connected:
            self._send(session, delivery)

    def _send(self, session: Session, delivery: Delivery, dup: bool = False) -> None:
        ids = delivery.ids if session.version == 5 else ()
        session.sent.append(
            Sent(delivery.message.topic, delivery.message.payload, delivery.qos, delivery.retain, dup, ids)
        )

    def _pump(self, session: Session) -> None:
        """First what was in flight when the connection was lost, in its order [MQTT-4.6.0-1]; then the queue."""
        if not session.connected:
            return
        for delivery in session.flight:
            if not delivery.sent_here:
                if sum(each.sent_here for each in session.flight) >= session.send_max:
                    return
                delivery.sent_here = True
                if delivery.state == "PUBCOMP":
                    session.answers.append(Answer("PUBREL", delivery.packet_id))
                else:
                    self._send(session, delivery, dup=True)
        while session.queue and len(session.flight) < session.send_max:
            delivery = session.queue.pop(0)
            expires_at = delivery.message.expires_at
            if expires_at is not None and expires_at <= self.now:
                continue
            delivery.state = "PUBACK" if delivery.qos == 1 else "PUBREC"
            session.flight.append(delivery)
            self._send(session, delivery)

    def acknowledge(self, client: str, delivery: Delivery, refuse: bool) -> None:
        """The client answers a delivery with what it waits for."""
        session = self.sessions[client]
        if delivery.state == "PUBREC" and not refuse:
            delivery.state = "PUBCOMP"
            session.answers.append(Answer("PUBREL", delivery.packet_id))
            return
        session.flight.remove(delivery)
        self._pump(session)

    # -- subscriptions ---------------------------------------------------------------------------------------------

    def retained_for(self, text: str) -> list[Message]:
        return [
            message
            for topic, message in self.retained.items()
            if matches(text, topic) and (message.expires_at is None or message.expires_at > self.now)
        ]

    def subscribe(self, client: str, text: str, subscription: Subscription, handling: int) -> list[Sent]:
        """The retained messages that must follow, in no order; the caller made sure that they fit the window."""
        session = self.sessions[client]
        is_new = text not in session.subscriptions
        session.subscriptions[text] = subscription
        session.answers.append(Answer("SUBACK", code=subscription.qos))
        if handling == 2 or (handling == 1 and not is_new):
            return []
        found = []
        for message in self.retained_for(text):
            ids = (subscription.identifier,) if subscription.identifier else ()
            delivery = Delivery(message, min(message.qos, subscription.qos), True, ids)
            if delivery.qos:
                delivery.state = "PUBACK" if delivery.qos == 1 else "PUBREC"
                session.flight.append(delivery)
            found.append(
                Sent(message.topic, message.payload, delivery.qos, True, False, ids if session.version == 5 else ())
            )
        return found

    def unsubscribe(self, client: str, text: str) -> None:
        session = self.sessions[client]
        existed = session.subscriptions.pop(text, None) is not None
        session.answers.append(Answer("UNSUBACK", code=0 if existed or session.version < 5 else 0x11))

    def to_acknowledge(self, client: str) -> Iterator[Delivery]:
        """What the client has on its present connection and has not answered yet."""
        return (each for each in self.sessions[client].flight if each.sent_here)
