"""A real engine against the model of what MQTT promises: every step of every client, in any order, with time.

Each rule does something to the engine through a socket and to the model, then compares all that every client got.
"""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.inprocess import Engine, Wire
from tests.properties.session_model import NEVER, Answer, Message, Model, Sent, Session, Subscription, Will
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Disconnect, Packet, Publish, Suback, Unsuback

NAMES = ("p", "q", "r")
CLIENTS = st.sampled_from(NAMES)
TOPICS = st.sampled_from(("a", "a/b", "b", "$x/b"))
FILTERS = st.sampled_from(("a", "a/b", "a/+", "+", "#", "a/#", "b", "+/b", "$x/#"))
QOS = st.integers(0, 2)
PACKET_IDS = st.integers(1, 3)
TAKEN_OVER = 0x8E
INFLIGHT_MAX = 32  # mqtt.inflight_max: MQTT 3 has no Receive Maximum
STEP_S = 3.6
"""No multiple of it is near a delay that the rules ask for: the wheel's quarter of a second does not matter."""

wills = st.none() | st.builds(
    lambda topic, qos, retain, delay: (topic, qos, retain, delay), TOPICS, QOS, st.booleans(), st.sampled_from((0, 5))
)


def answer(packet: Packet) -> Answer:
    if isinstance(packet, Ack):
        return Answer(packet.kind, packet.packet_id, packet.code)
    assert isinstance(packet, Suback | Unsuback), packet
    return Answer(type(packet).__name__.upper(), None, packet.codes[0] if packet.codes else 0)


def seen(packet: Publish) -> Sent:
    ids = tuple(sorted(value for number, value in packet.props if number == p.SUBSCRIPTION_ID and type(value) is int))
    return Sent(packet.topic, packet.payload, packet.qos, packet.retain, packet.dup, ids)


class SessionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(expiry_max_s=int(NEVER))
        self.model = Model()
        self.wires: dict[str, Wire] = {}
        self.payloads = 0

    def teardown(self) -> None:
        self.engine.close()

    def _one_of_the_connected(self, data: st.DataObject) -> tuple[str, Wire]:
        return data.draw(st.sampled_from(sorted(self.wires.items(), key=lambda item: item[0])))

    # -- rules -----------------------------------------------------------------------------------------------------

    @initialize(data=st.data(), qos=QOS, send_max=st.sampled_from((1, 2, 10)))
    def begin(self, data: st.DataObject, qos: int, send_max: int) -> None:
        """Everyone is there, with a session that lasts and something to hear."""
        for client in NAMES:
            self.connect(client, data.draw(st.sampled_from((4, 5))), False, 1000, send_max, None)
            self.subscribe(client, data.draw(FILTERS), max(qos, 1), False, False, 0, 0)

    @rule(
        client=CLIENTS,
        version=st.sampled_from((4, 5)),
        clean=st.sampled_from((False, False, False, True)),
        expiry=st.sampled_from((1000, 10, 0)),
        send_max=st.sampled_from((1, 2, 10)),
        will=wills,
    )
    def reconnect(
        self,
        client: str,
        version: int,
        clean: bool,
        expiry: int,
        send_max: int,
        will: tuple[str, int, bool, int] | None,
    ) -> None:
        self.connect(client, version, clean, expiry, send_max, will)

    def connect(
        self,
        client: str,
        version: int,
        clean: bool,
        expiry: int,
        send_max: int,
        will: tuple[str, int, bool, int] | None,
    ) -> None:
        old = self.wires.pop(client, None)
        wire = self.engine.wire(version)
        self.wires[client] = wire
        sent_will, model_will = self._will(will, version)
        props: list[tuple[int, int]] = []
        if version == 5:
            props = [(p.SESSION_EXPIRY, expiry), (p.RECEIVE_MAXIMUM, send_max)]
        wire.connect(client, clean=clean, props=props, will=sent_will)
        lifetime = float(expiry) if version == 5 else 0.0 if clean else NEVER
        present = self.model.connect(
            client,
            version=version,
            clean=clean,
            expiry=lifetime,
            send_max=send_max if version == 5 else INFLIGHT_MAX,
            will=model_will,
        )
        assert wire.connack is not None
        assert (wire.connack.session_present, wire.connack.code) == (present, 0)
        if old is not None:
            last = old.read()
            assert last == ([Disconnect([], TAKEN_OVER)] if old.version == 5 else [])
            assert old.ended
            old.close()
        self._compare()

    def _will(self, will: tuple[str, int, bool, int] | None, version: int) -> tuple[encode.Will | None, Will | None]:
        if will is None:
            return None, None
        topic, qos, retain, delay = will
        delay = delay if version == 5 else 0
        payload = self._payload()
        props = [(p.WILL_DELAY, delay)] if delay else []
        return encode.Will(topic, payload, qos, retain, props), Will(Message(topic, payload, qos, retain), delay)

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), how=st.sampled_from(("disconnect", "keep will", "lose")))
    def end(self, data: st.DataObject, how: str) -> None:
        client, wire = self._one_of_the_connected(data)
        del self.wires[client]
        if how == "lose":
            wire.shut()
            self.model.lose(client)
        elif how == "keep will" and wire.version == 5:
            wire.send(encode.disconnect(5, 4))
            self.model.lose(client)
        else:
            wire.send(encode.disconnect(wire.version))
            self.model.leave(client)
        self.engine.settle()
        assert wire.read() == []
        assert wire.ended
        wire.close()
        self._compare()

    @precondition(lambda self: self.wires)
    @rule(
        data=st.data(),
        topic=TOPICS,
        qos=QOS,
        retain=st.booleans(),
        empty=st.booleans(),
        packet_id=PACKET_IDS,
        expiry=st.none() | st.sampled_from((5, 1000)),
    )
    def publish(
        self, data: st.DataObject, topic: str, qos: int, retain: bool, empty: bool, packet_id: int, expiry: int | None
    ) -> None:
        client, wire = self._one_of_the_connected(data)
        payload = b"" if empty and retain else self._payload()
        timed = expiry is not None and wire.version == 5
        wire.send(
            encode.publish(
                wire.version,
                topic,
                payload,
                qos=qos,
                retain=retain,
                packet_id=packet_id if qos else None,
                props=[(p.MESSAGE_EXPIRY, expiry)] if expiry is not None and timed else (),
            )
        )
        expires_at = self.model.now + expiry if expiry is not None and timed else None
        self.model.publish(client, Message(topic, payload, qos, retain, expires_at), packet_id)
        self._compare()

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), packet_id=PACKET_IDS)
    def release(self, data: st.DataObject, packet_id: int) -> None:
        client, wire = self._one_of_the_connected(data)
        wire.send(encode.ack(wire.version, encode.PUBREL, packet_id))
        self.model.release(client, packet_id)
        self._compare()

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), count=st.integers(1, 6), topic=TOPICS)
    def burst(self, data: st.DataObject, count: int, topic: str) -> None:
        """Several messages of QoS 1 in one segment, more than a small window takes."""
        client, wire = self._one_of_the_connected(data)
        packets = b""
        for packet_id in range(1, count + 1):
            payload = self._payload()
            packets += encode.publish(wire.version, topic, payload, qos=1, packet_id=packet_id)
            self.model.publish(client, Message(topic, payload, 1), packet_id)
        wire.send(packets)
        self._compare()

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), refuse=st.sampled_from((False, False, False, True)))
    def acknowledge(self, data: st.DataObject, refuse: bool) -> None:
        """In any order: it is the client's to choose."""
        client, wire = self._one_of_the_connected(data)
        flight = list(self.model.to_acknowledge(client))
        if not flight:
            return
        delivery = flight[data.draw(st.integers(0, len(flight) - 1))]
        kind = {"PUBACK": encode.PUBACK, "PUBREC": encode.PUBREC, "PUBCOMP": encode.PUBCOMP}[delivery.state]
        refuse = refuse and wire.version == 5 and delivery.state == "PUBREC"
        wire.send(encode.ack(wire.version, kind, delivery.packet_id, 0x80 if refuse else None))
        self.model.acknowledge(client, delivery, refuse)
        self._compare()

    @rule(
        client=CLIENTS,
        text=FILTERS,
        qos=QOS,
        no_local=st.booleans(),
        as_published=st.booleans(),
        handling=st.sampled_from((0, 1, 2)),
        identifier=st.sampled_from((0, 1, 200)),
    )
    def subscribe(
        self, client: str, text: str, qos: int, no_local: bool, as_published: bool, handling: int, identifier: int
    ) -> None:
        wire = self.wires.get(client)
        if wire is None:
            return
        session = self.model.sessions[client]
        fits = len(session.flight) + len(self.model.retained_for(text)) <= session.send_max
        if session.queue or not fits or not all(delivery.sent_here for delivery in session.flight):
            if wire.version < 5:
                return
            handling = 2  # how retained and other messages share a full window is the server's choice
        if wire.version < 5:
            no_local = as_published = False
            handling = identifier = 0
        options = qos | no_local << 2 | as_published << 3 | handling << 4
        props = [(p.SUBSCRIPTION_ID, identifier)] if identifier else ()
        wire.send(encode.subscribe(wire.version, 7, [(text, options)], props))
        retained = self.model.subscribe(client, text, Subscription(qos, no_local, as_published, identifier), handling)
        session.sent += retained
        self._compare(any_order=True)

    @rule(client=CLIENTS, text=FILTERS)
    def unsubscribe(self, client: str, text: str) -> None:
        wire = self.wires.get(client)
        if wire is not None:
            wire.send(encode.unsubscribe(wire.version, 7, [text]))
            self.model.unsubscribe(client, text)
            self._compare()

    @rule(steps=st.sampled_from((1, 1, 1, 300)))
    def time_passes(self, steps: int) -> None:
        """Not past two wills at once, for their order is the server's choice."""
        if sum(session.will_at is not None for session in self.model.sessions.values()) < 2:
            self.model.pass_time(steps * STEP_S)
            self.engine.advance(steps * STEP_S)
            self._compare()

    # -- comparing -------------------------------------------------------------------------------------------------

    def _payload(self) -> bytes:
        self.payloads += 1
        return b"%d" % self.payloads

    def _compare(self, any_order: bool = False) -> None:
        self.engine.settle()
        assert {client for client, session in self.model.sessions.items() if session.connected} == set(self.wires)
        for client, wire in self.wires.items():
            packets = wire.read()
            assert not wire.ended, f"{client} was cut after {packets}"
            session = self.model.sessions[client]
            messages = [packet for packet in packets if isinstance(packet, Publish)]
            got, expected = [seen(message) for message in messages], session.sent
            if any_order:
                got, expected = sorted(got, key=str), sorted(expected, key=str)
            assert got == expected, f"{client} got {got}, expected {expected}"
            self._learn_packet_ids(session, messages)
            answers = [answer(packet) for packet in packets if not isinstance(packet, Publish)]
            assert answers == session.answers, f"{client} got {answers}, expected {session.answers}"
        for session in self.model.sessions.values():
            session.sent.clear()
            session.answers.clear()
        stats = self.engine.hub.stats()
        assert stats["sessions"] == len(self.model.sessions)
        assert stats["subscriptions"] == sum(len(each.subscriptions) for each in self.model.sessions.values())

    def _learn_packet_ids(self, session: Session, messages: list[Publish]) -> None:
        """A fresh delivery has a packet id that nothing else in flight has; a repeated one has its own.

        The order in which retained messages of several topics came is the order in which they are to be repeated.
        """
        for message in messages:
            if message.qos == 0:
                continue
            same = next(
                each
                for each in session.flight
                if each.message.payload == message.payload
                and each.message.topic == message.topic
                and each.packet_id == (message.packet_id if message.dup else 0)
            )
            if not message.dup:
                assert message.packet_id not in {each.packet_id for each in session.flight}
                same.packet_id = message.packet_id
                session.flight.remove(same)
                session.flight.append(same)


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "250")), stateful_step_count=60)
