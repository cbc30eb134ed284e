"""What must be true of every journal, whatever happened: laws that each record is held to when its batch leaves.

A record refers to what is there; nothing is said twice or after its end; a subscriber's positions and a session's
packet ids are never in use twice; a message is forgotten once, by the last one that needed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fastmq.store import records as r
from fastmq.store.memory import Contents

NEXT_STATES = {
    r.QUEUED: (r.AWAIT_PUBACK, r.AWAIT_PUBREC),
    r.AWAIT_PUBACK: (),
    r.AWAIT_PUBREC: (r.AWAIT_PUBCOMP,),
    r.AWAIT_PUBCOMP: (),
}


class BrokenLaw(AssertionError):
    """The engine wrote a record that it must not."""


class Laws:
    """Follows a journal that begins with `contents`, as they were loaded."""

    def __init__(self, contents: Contents) -> None:
        kept = contents
        self.now_ms = kept.last.engine_ms
        self.messages = dict(kept.messages)
        self.deliveries = {serial: dict(queue) for serial, queue in kept.deliveries.items()}
        self.received = {serial: set(ids) for serial, ids in kept.received.items()}
        self.sessions = dict(kept.sessions)
        self.subscriptions = {serial: dict(of) for serial, of in kept.subscriptions.items()}
        self.retained = set(kept.retained)
        self.wills = dict(kept.wills)
        self.groups = dict(kept.groups)
        self.last_message = max(self.messages, default=0)
        self.serials = {*self.sessions, *self.groups}
        self.positions = {serial: set(queue) for serial, queue in self.deliveries.items()}

    @staticmethod
    def read(batch: bytes) -> list[r.Record]:
        return list(r.decode(batch))

    def check(self, batch: bytes) -> None:
        """Raises BrokenLaw."""
        records = self.read(batch)
        self._law(isinstance(records[0], r.Clock), "a batch begins with the time", records[0])
        for record in records:
            self._see(record)

    def _law(self, holds: bool, law: str, record: r.Record) -> None:
        if not holds:
            raise BrokenLaw(f"{law}: {record}")

    def referred(self) -> set[int]:
        """Messages that the store still needs."""
        of_deliveries = {
            delivery.message
            for queue in self.deliveries.values()
            for delivery in queue.values()
            if delivery.state != r.AWAIT_PUBCOMP
        }
        return of_deliveries | self.retained | {will.message for will in self.wills.values()}

    def leaked(self) -> set[int]:
        """Messages that nothing refers to and that were not forgotten: output on its way may still hold some."""
        return self.messages.keys() - self.referred()

    def _see(self, record: r.Record) -> None:
        law = self._law
        match record:
            case r.Clock():
                law(record.engine_ms >= self.now_ms, "time never goes backwards", record)
                self.now_ms = record.engine_ms
            case r.Message():
                law(record.id > self.last_message, "ids of messages grow", record)
                self.last_message = record.id
                self.messages[record.id] = record
            case r.Forget():
                law(record.message in self.messages, "a message is forgotten once", record)
                law(not any(self._needed(record.message)), "what is needed is not forgotten", record)
                del self.messages[record.message]
            case r.Delivery() | r.State() | r.Done():
                self._see_delivery(record)
            case r.Retained():
                law(record.message in self.messages, "what is retained is stored", record)
                topic = self.messages[record.message].topic
                law(topic not in (self.messages[id].topic for id in self.retained), "one is retained a topic", record)
                self.retained.add(record.message)
            case r.Unretained():
                law(record.message in self.retained, "what was not retained stays so", record)
                self.retained.remove(record.message)
            case r.Group():
                law(record.serial not in self.serials, "a serial is used once", record)
                law(record.text not in (group.text for group in self.groups.values()), "a group is there once", record)
                self.serials.add(record.serial)
                self.groups[record.serial] = record
            case r.GroupGone():
                law(record.group in self.groups, "a group goes once", record)
                del self.groups[record.group]
                self.deliveries.pop(record.group, None)
            case _:
                self._see_session(record)

    def _needed(self, message: int) -> Iterable[int]:
        """The message, once for each that needs it."""
        for queue in self.deliveries.values():
            for delivery in queue.values():
                if delivery.message == message and delivery.state != r.AWAIT_PUBCOMP:
                    yield message
        if message in self.retained or any(will.message == message for will in self.wills.values()):
            yield message

    def _see_delivery(self, record: r.Delivery | r.State | r.Done) -> None:
        law = self._law
        serial = record.subscriber
        law(serial in self.sessions or serial in self.groups, "deliveries are for those who are there", record)
        queue = self.deliveries.setdefault(serial, {})
        if isinstance(record, r.Delivery):
            used = self.positions.setdefault(serial, set())
            law(record.message in self.messages, "what is delivered is stored", record)
            law(record.position not in used, "a position is used once", record)
            if serial in self.sessions:
                law(record.position > max(used, default=0), "the positions of a session grow", record)
            else:
                law(record.state == r.QUEUED, "what a group has waits", record)
            used.add(record.position)
            self._packet_id_is_free(queue, record)
            queue[record.position] = record
            return
        law(record.position in queue, "a delivery that is spoken of is there", record)
        if isinstance(record, r.Done):
            del queue[record.position]
            return
        before = queue.pop(record.position)
        law(record.state in NEXT_STATES[before.state], f"no such step after state {before.state}", record)
        law(before.packet_id in (0, record.packet_id), "a packet id stays", record)
        self._packet_id_is_free(queue, record)
        queue[record.position] = replace(before, state=record.state, packet_id=record.packet_id)

    def _packet_id_is_free(self, queue: dict[int, r.Delivery], record: r.Delivery | r.State) -> None:
        in_use = {each.packet_id for each in queue.values() if each.state}
        self._law(not record.state or record.packet_id not in in_use, "a packet id is in use once", record)

    def _see_session(self, record: r.Record) -> None:
        law = self._law
        if isinstance(record, r.Session):
            if record.serial not in self.sessions:
                law(record.serial not in self.serials, "a serial is used once", record)
                ids = (session.client_id for session in self.sessions.values())
                law(record.client_id not in ids, "a client has one session", record)
                self.serials.add(record.serial)
            self.sessions[record.serial] = record
            return
        assert not isinstance(record, r.Group | r.GroupGone | r.Clock | r.Stub | r.Message | r.Forget), record
        assert not isinstance(record, r.Delivery | r.State | r.Done | r.Retained | r.Unretained), record
        serial = record.session
        law(serial in self.sessions, "what is said of a session is said while it is there", record)
        match record:
            case r.Ended():
                for part in (self.sessions, self.subscriptions, self.deliveries, self.received, self.wills):
                    part.pop(serial, None)
            case r.Received():
                ids_in = self.received.setdefault(serial, set())
                law(record.packet_id not in ids_in, "an id is received once", record)
                ids_in.add(record.packet_id)
            case r.Released():
                law(record.packet_id in self.received.get(serial, ()), "what is released was received", record)
                self.received[serial].remove(record.packet_id)
            case r.Subscribed():
                self.subscriptions.setdefault(serial, {})[record.filter] = record
            case r.Unsubscribed():
                law(record.filter in self.subscriptions.get(serial, ()), "what ends was subscribed", record)
                del self.subscriptions[serial][record.filter]
            case r.Will():
                law(record.message in self.messages, "a will is stored", record)
                self.wills[serial] = record
            case r.WillGone():
                law(serial in self.wills, "a will goes once", record)
                del self.wills[serial]
