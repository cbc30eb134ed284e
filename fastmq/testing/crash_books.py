"""The books of a crash proof: what publishers were promised, what subscribers got, and whether the two agree.

Law: the books know neither sockets nor clocks. What the clients see is numbered in the order in which they see it, and
`Books.moment` is the number of the latest event; so "published after the UNSUBACK was seen" is a comparison of two
numbers. Where the specification leaves the broker a choice, nothing is claimed.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["Books", "Reader", "Stream", "Violation", "number_of", "payload_of"]

Violation = Literal["lost", "repeated", "reordered", "ghosts", "damaged", "sessions_lost", "retained_wrong", "broken"]

DETAILS_MAX: Final = 6
"""How many violations of a kind are told in words."""

SIZES: Final = (24, 40, 100, 32, 200, 1000, 48, 5000)
LARGE: Final = 70_000
"""Bytes of payloads. Every hundredth message or so is a large one."""


def payload_of(stream: str, number: int) -> bytes:
    """What message `number` of a stream carries: recognised, and damaged if a byte differs."""
    head = f"{stream}/{number}/".encode()
    size = LARGE if number % 101 == 0 else SIZES[number % len(SIZES)]
    return (head * (size // len(head) + 1))[: max(size, len(head))]


def number_of(payload: bytes) -> tuple[str, int] | None:
    """The stream and the number of a payload; None if it is not as `payload_of` made it."""
    name, _, rest = payload[:100].partition(b"/")
    digits = rest.partition(b"/")[0]
    if not digits.isdigit():
        return None
    stream, number = name.decode("utf-8", "replace"), int(digits)
    return (stream, number) if payload == payload_of(stream, number) else None


@dataclass(slots=True)
class Stream:
    """Messages 1, 2, 3 ... that one publisher sends to one topic with one QoS. Moments are 0 where nothing happened."""

    name: str
    topic: str
    qos: int
    is_retained: bool = False
    sent_at: array[int] = field(default_factory=lambda: array("Q"))
    acknowledged_at: array[int] = field(default_factory=lambda: array("Q"))
    finished_at: array[int] = field(default_factory=lambda: array("Q"))
    refused: int = 0

    @property
    def last(self) -> int:
        return len(self.sent_at)

    def clears(self, number: int) -> bool:
        """Of a retained stream: whether that message is empty, and removes what was retained."""
        return self.is_retained and number % 5 == 0

    def payload(self, number: int) -> bytes:
        return b"" if self.clears(number) else payload_of(self.name, number)


@dataclass(slots=True)
class Reader:
    """One subscription as the books see it: of a client, or of a shared group as a whole."""

    name: str
    qos: int
    is_group: bool = False
    opened_at: int = 0  #: a SUBACK was seen then and no UNSUBSCRIBE sent since; 0: not so
    closed_at: int = 0  #: an UNSUBACK was seen then and no SUBSCRIBE sent since; 0: not so
    answered_at: int = 0  #: the last SUBACK was seen then
    is_asking: bool = False  #: a SUBSCRIBE was sent, and neither SUBACK nor UNSUBACK seen since
    ever_asked: bool = False
    gaps: list[tuple[int, int]] = field(default_factory=list)  #: UNSUBACK seen, next SUBSCRIBE sent
    copies: dict[str, bytearray] = field(default_factory=dict)  #: by stream: how often each number came, at most 255
    highest: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)  #: by stream: up to here everything was checked

    def expects_once(self, stream: Stream) -> bool:
        return stream.qos == 2 and self.qos == 2


class Books:
    """Everything that happened, and what was wrong with it."""

    def __init__(self) -> None:
        self.moment = 0
        self.streams: dict[str, Stream] = {}
        self.readers: dict[str, Reader] = {}
        self.counts: Counter[str] = Counter()
        self.violations: Counter[Violation] = Counter()
        self.details: list[str] = []
        self.round = 0  #: only told in details
        self._crashed_at = 0
        self._sessions: set[str] = set()

    def violation(self, kind: Violation, detail: str) -> None:
        self.violations[kind] += 1
        if self.violations[kind] <= DETAILS_MAX:
            self.details.append(f"{kind}: {detail} (round {self.round}, moment {self.moment})")

    def _tick(self) -> int:
        self.moment += 1
        return self.moment

    # -- the broker and its sessions ---------------------------------------------------------------------------------

    def crashed(self) -> None:
        """The broker is about to be ended."""
        self._crashed_at = self._tick()
        self.counts["crashes"] += 1

    def connected(self, client: str, *, session_present: bool) -> None:
        """A CONNACK that accepts was seen, of a session that outlives its connection."""
        self._tick()
        if client in self._sessions and not session_present:
            self.violation("sessions_lost", f"{client} was told that it has no session")
        self._sessions.add(client)

    # -- publishers --------------------------------------------------------------------------------------------------

    def stream(self, name: str, topic: str, qos: int, *, is_retained: bool = False) -> Stream:
        return self.streams.setdefault(name, Stream(name, topic, qos, is_retained))

    def sent(self, stream: Stream) -> int:
        """The next message is sent for the first time; returns its number."""
        stream.sent_at.append(self._tick())
        stream.acknowledged_at.append(0)
        stream.finished_at.append(0)
        self.counts["published"] += 1
        return stream.last

    def acknowledged(self, stream: Stream, number: int, *, is_finished: bool) -> None:
        """PUBACK (QoS 1), PUBREC or PUBCOMP (QoS 2) was seen, and it does not refuse. `is_finished`: not the PUBREC."""
        now = self._tick()
        if is_finished:
            stream.finished_at[number - 1] = now
        if not stream.acknowledged_at[number - 1]:
            stream.acknowledged_at[number - 1] = now
            self.counts["acknowledged"] += 1

    def refused(self, stream: Stream) -> None:
        """PUBACK or PUBREC was seen, and it refuses: the message may arrive or not."""
        self._tick()
        stream.refused += 1
        self.counts["refused"] += 1

    # -- subscribers -------------------------------------------------------------------------------------------------

    def reader(self, name: str, qos: int, *, is_group: bool = False) -> Reader:
        return self.readers.setdefault(name, Reader(name, qos, is_group))

    def subscribing(self, reader: Reader) -> None:
        """SUBSCRIBE is about to be sent: what is published from now on may arrive."""
        now = self._tick()
        if reader.closed_at:
            reader.gaps.append((reader.closed_at, now))
        reader.ever_asked, reader.is_asking, reader.closed_at = True, True, 0

    def subscribed(self, reader: Reader) -> None:
        """SUBACK was seen: what is published from now on must arrive."""
        now = self._tick()
        self.counts["answered"] += 1
        reader.answered_at, reader.is_asking = now, False
        if not reader.opened_at:  # the members of a group subscribe one after the other
            reader.opened_at = now

    def unsubscribing(self, reader: Reader) -> None:
        """UNSUBSCRIBE is about to be sent: nothing must arrive any more [MQTT-3.10.4-2]."""
        self._tick()
        reader.opened_at = 0

    def unsubscribed(self, reader: Reader) -> None:
        """UNSUBACK was seen: nothing that is published from now on may arrive [MQTT-3.10.4-1]."""
        reader.closed_at, reader.is_asking = self._tick(), False
        self.counts["answered"] += 1

    def arrived(self, reader: Reader, topic: str, payload: bytes) -> None:
        """A PUBLISH was seen, and it does not repeat a packet identifier that QoS 2 has remembered."""
        now = self._tick()
        found = number_of(payload)
        stream = self.streams.get(found[0]) if found else None
        if found is None or stream is None or stream.topic != topic or not 0 < found[1] <= stream.last:
            self.violation("damaged", f"{reader.name} got {payload[:60]!r} on {topic}")
            return
        number = found[1]
        self._check_ghost(reader, stream, number)
        copies = reader.copies.setdefault(stream.name, bytearray())
        if len(copies) < number:
            copies.extend(bytes(stream.last - len(copies)))
        if copies[number - 1]:
            copies[number - 1] = min(255, copies[number - 1] + 1)
            self._again(reader, stream, number)
            return
        copies[number - 1] = 1
        self.counts["delivered"] += 1
        if 0 < stream.acknowledged_at[number - 1] < self._crashed_at < now:
            self.counts["recovered"] += 1
        self._check_order(reader, stream, number)

    def _again(self, reader: Reader, stream: Stream, number: int) -> None:
        if reader.expects_once(stream):
            self.violation("repeated", f"{reader.name} got message {number} of {stream.name} again")
        else:
            self.counts["duplicates"] += 1

    def _check_order(self, reader: Reader, stream: Stream, number: int) -> None:
        highest = reader.highest.get(stream.name, 0)
        if number > highest:
            reader.highest[stream.name] = number
        elif reader.is_asking or stream.sent_at[number - 1] < reader.answered_at:
            pass  # it passed by before the SUBSCRIBE, then a crash made its publisher send it again
        elif not reader.is_group:  # its members are served side by side
            self.violation("reordered", f"{reader.name} got message {number} of {stream.name} after {highest}")

    def _check_ghost(self, reader: Reader, stream: Stream, number: int) -> None:
        # A broker may route a QoS 2 message as late as at PUBREL: only PUBCOMP says that it has.
        sent, finished = stream.sent_at[number - 1], stream.finished_at[number - 1]
        is_ghost = (
            not reader.ever_asked
            or 0 < reader.closed_at < sent
            or any(closed < sent and 0 < finished < asked for closed, asked in reader.gaps)
        )
        if is_ghost:
            self.violation("ghosts", f"{reader.name}, unsubscribed, got message {number} of {stream.name}")

    # -- the check ---------------------------------------------------------------------------------------------------

    def outstanding(self) -> int:
        """How many acknowledged messages have not arrived where they must."""
        return sum(1 for _ in self._missing())

    def complete(self) -> bool:
        return next(self._missing(), None) is None

    def check(self) -> None:
        """Everything is drained: what has not arrived is lost. Each message is judged once."""
        for reader, stream, number in self._missing():
            moments = f"sent {stream.sent_at[number - 1]}, acknowledged {stream.acknowledged_at[number - 1]}"
            self.violation("lost", f"{reader.name} never got message {number} of {stream.name}: {moments}")
        for reader in self.readers.values():
            reader.gaps = reader.gaps[-1:]
            for stream in self.streams.values():
                reader.settled[stream.name] = stream.last

    def _missing(self) -> Iterator[tuple[Reader, Stream, int]]:
        for reader in self.readers.values():
            if not reader.opened_at:
                continue
            for stream in self.streams.values():
                if stream.is_retained:
                    continue
                copies = reader.copies.get(stream.name, b"")
                for at in range(reader.settled.get(stream.name, 0), stream.last):
                    is_promised = stream.acknowledged_at[at] and stream.sent_at[at] > reader.opened_at
                    if is_promised and not (at < len(copies) and copies[at]):
                        yield reader, stream, at + 1

    def retained(self, stream: Stream, payload: bytes | None) -> None:
        """What a new subscriber was sent as the retained message; None: nothing. All of the stream was answered."""
        self._tick()
        acknowledged = max((at + 1 for at, seen in enumerate(stream.acknowledged_at) if seen), default=0)
        allowed = {None if stream.clears(n) else n for n in range(max(acknowledged, 1), stream.last + 1)}
        if acknowledged == 0:
            allowed.add(None)
        found = number_of(payload) if payload is not None else None
        number = found[1] if found and found[0] == stream.name else None
        if (payload is not None and number is None) or number not in allowed:
            shown = "nothing" if payload is None else repr(payload[:60])
            self.violation("retained_wrong", f"{shown} on {stream.topic}, acknowledged up to {acknowledged}")
