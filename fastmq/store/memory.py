"""A store in memory: the reference for all stores. What a closed one kept can be opened again; a process ends it.

Its rules, which every store follows: a record sets, replaces or removes one thing, and what is not there is removed
without complaint. ENDED and GROUP_GONE remove all that belongs to a session or a group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastmq.store import records as r
from fastmq.store.clock import Clocks, MachineClocks, Stamp, engine_now, stamp

BATCH_BYTES = 256 * 1024


@dataclass
class Contents:
    """What a MemoryStore keeps; outlives it."""

    last: Stamp = field(default_factory=Stamp)
    messages: dict[int, r.Message] = field(default_factory=dict)
    deliveries: dict[int, dict[int, r.Delivery]] = field(default_factory=dict)
    """Subscriber -> position -> delivery."""
    received: dict[int, set[int]] = field(default_factory=dict)
    sessions: dict[int, r.Session] = field(default_factory=dict)
    subscriptions: dict[int, dict[str, r.Subscribed]] = field(default_factory=dict)
    retained: set[int] = field(default_factory=set)
    wills: dict[int, r.Will] = field(default_factory=dict)
    groups: dict[int, r.Group] = field(default_factory=dict)
    facts: dict[str, bytes] = field(default_factory=dict)

    def apply(self, record: r.Record) -> None:
        match record:
            case r.Message():
                self.messages[record.id] = record
            case r.Forget():
                self.messages.pop(record.message, None)
            case r.Delivery():
                self.deliveries.setdefault(record.subscriber, {})[record.position] = record
            case r.State():
                queue = self.deliveries.get(record.subscriber, {})
                if record.position in queue:
                    now = replace(queue[record.position], state=record.state, packet_id=record.packet_id)
                    queue[record.position] = now
            case r.Done():
                self.deliveries.get(record.subscriber, {}).pop(record.position, None)
            case r.Received():
                self.received.setdefault(record.session, set()).add(record.packet_id)
            case r.Released():
                self.received.get(record.session, set()).discard(record.packet_id)
            case r.Retained():
                self.retained.add(record.message)
            case r.Unretained():
                self.retained.discard(record.message)
            case _:
                self.apply_to_session(record)

    def apply_to_session(self, record: r.Record) -> None:
        match record:
            case r.Session():
                self.sessions[record.serial] = record
            case r.Ended():
                for part in (self.sessions, self.subscriptions, self.deliveries, self.received, self.wills):
                    part.pop(record.session, None)
            case r.Subscribed():
                self.subscriptions.setdefault(record.session, {})[record.filter] = record
            case r.Unsubscribed():
                self.subscriptions.get(record.session, {}).pop(record.filter, None)
            case r.Will():
                self.wills[record.session] = record
            case r.WillGone():
                self.wills.pop(record.session, None)
            case r.Group():
                self.groups[record.serial] = record
            case r.GroupGone():
                self.groups.pop(record.group, None)
                self.deliveries.pop(record.group, None)

    def tidy(self, now_ms: int) -> None:
        """Leaves out what nobody can use: of sessions that are not there, of messages that expired or are not there."""
        for of_session in (self.subscriptions, self.received, self.wills):
            for serial in of_session.keys() - self.sessions.keys():
                del of_session[serial]
        for serial in self.deliveries.keys() - self.sessions.keys() - self.groups.keys():
            del self.deliveries[serial]
        waiting = [delivery for queue in self.deliveries.values() for delivery in queue.values()]
        wills = {will.message for will in self.wills.values()}
        # What was sent once must be sent again, expired or not: its delivery has begun [MQTT-3.3.2-5] [MQTT-4.4.0-1].
        sent = {delivery.message for delivery in waiting if delivery.state in (r.AWAIT_PUBACK, r.AWAIT_PUBREC)}
        expired = {
            id
            for id, message in self.messages.items()
            if message.expires_ms and message.expires_ms <= now_ms and id not in wills
        }
        self.retained -= expired
        needed = wills | sent | self.retained
        needed |= {delivery.message for delivery in waiting if delivery.state == r.QUEUED} - expired
        self.messages = {id: message for id, message in self.messages.items() if id in needed}
        self.retained &= self.messages.keys()
        self.wills = {serial: will for serial, will in self.wills.items() if will.message in self.messages}
        for delivery in waiting:
            # One that awaits PUBCOMP needs no message any more, and its client still needs the PUBREL.
            is_over = delivery.state == r.QUEUED and delivery.message in expired
            is_lost = delivery.state != r.AWAIT_PUBCOMP and delivery.message not in self.messages
            if is_over or is_lost:
                del self.deliveries[delivery.subscriber][delivery.position]

    def records(self) -> Iterator[r.Record]:
        """All but the clock, in the order of `Store.load`."""
        yield from (self.groups[serial] for serial in sorted(self.groups))
        yield from (self.sessions[serial] for serial in sorted(self.sessions))
        for serial in sorted(self.subscriptions):
            yield from (self.subscriptions[serial][filter] for filter in sorted(self.subscriptions[serial]))
        for serial in sorted(self.received):
            yield from (r.Received(serial, packet_id) for packet_id in sorted(self.received[serial]))
        whole = self.retained | {will.message for will in self.wills.values()}
        yield from (self.messages[id] for id in sorted(whole))
        for id in sorted(self.messages.keys() - whole):
            message = self.messages[id]
            size = len(message.topic.encode()) + len(message.properties) + len(message.payload)
            yield r.Stub(id, size, message.expires_ms or 0)
        yield from (r.Retained(id) for id in sorted(self.retained))
        yield from (self.wills[serial] for serial in sorted(self.wills))
        for serial in sorted(self.deliveries):
            yield from (self.deliveries[serial][position] for position in sorted(self.deliveries[serial]))


class MemoryStore:
    """Implements `contracts.Store`. `contents` of a store that was closed opens it again."""

    def __init__(self, contents: Contents | None = None, clocks: Clocks | None = None) -> None:
        self.contents = contents or Contents()
        self._clocks: Clocks = clocks or MachineClocks()
        self._commits = 0
        self._appended_bytes = 0

    def load(self) -> Iterator[bytes]:
        kept = self.contents
        now_ms = engine_now(kept.last, self._clocks)
        kept.last = stamp(now_ms, self._clocks)
        kept.tidy(now_ms)
        batch = bytearray(r.encode(r.Clock(now_ms)))
        for record in kept.records():
            batch += r.encode(record)
            if len(batch) >= BATCH_BYTES:
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)

    def append(self, batch: bytes, sync: bool) -> None:
        records = list(r.decode(batch))
        if any(isinstance(record, r.Stub) for record in records):
            raise ValueError("record at some offset: is a STUB, which only a store writes")
        for record in records:
            self.contents.apply(record)
        engine_ms = [record.engine_ms for record in records if isinstance(record, r.Clock)]
        self.contents.last = stamp(max(self.contents.last.engine_ms, *engine_ms), self._clocks)
        self._commits += 1
        self._appended_bytes += len(batch)

    def fetch(self, ids: Sequence[int]) -> list[bytes | None]:
        found = (self.contents.messages.get(id) for id in ids)
        return [r.encode(message) if message else None for message in found]

    def maintain(self, budget_s: float) -> bool:
        return False

    def facts(self) -> Mapping[str, bytes]:
        return dict(self.contents.facts)

    def put_facts(self, changes: Mapping[str, bytes | None]) -> None:
        facts = self.contents.facts
        facts.update({key: value for key, value in changes.items() if value is not None})
        for key in changes.keys() & facts.keys():
            if changes[key] is None:
                del facts[key]

    def facts_changed(self) -> bool:
        return False

    def no_room(self) -> str:
        return ""

    def stat(self) -> Mapping[str, int]:
        kept = self.contents
        return {
            "sessions": len(kept.sessions),
            "subscriptions": sum(map(len, kept.subscriptions.values())),
            "deliveries": sum(map(len, kept.deliveries.values())),
            "messages": len(kept.messages),
            "retained": len(kept.retained),
            "commits": self._commits,
            "appended_bytes": self._appended_bytes,
        }

    def hurry(self) -> None:
        pass  # it waits for nobody

    def close(self) -> None:
        self.contents.last = stamp(engine_now(self.contents.last, self._clocks), self._clocks)
