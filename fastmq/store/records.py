"""The records of a store, format 1: what they say, and their bytes. Plain and slow; the oracle for the compiled code.

A batch is records back to back. A record is a byte that names its kind and a body; an array of RECORDS says what each
body has, in order. `uv` is an unsigned LEB128 number of at most 10 bytes and 63 bits, a blob is a uv length and that
many bytes, u16 is little endian. Text is UTF-8 by MQTT's rules.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Final

__all__ = [
    "Clock", "Delivery", "Done", "Ended", "Forget", "Group", "GroupGone", "Message", "Received", "Record", "Released",
    "Retained", "Session", "State", "Stub", "Subscribed", "Unretained", "Unsubscribed", "Will", "WillGone", "decode",
    "encode",
]  # fmt: skip

NUMBER_MAX: Final = 2**63 - 1  # what a signed 64-bit column of a database can hold
EXPIRY_NEVER: Final = 0xFFFF_FFFF
TEXT_MAX: Final = 0xFFFF
SUBSCRIPTION_ID_MAX: Final = 268_435_455
SUBSCRIPTION_IDS_MAX: Final = 4096
CLOCK_MAX: Final = 2**60

QUEUED, AWAIT_PUBACK, AWAIT_PUBREC, AWAIT_PUBCOMP = range(4)  # states; a queued delivery has packet id 0


@dataclass(frozen=True, slots=True)
class Message:
    """A message, stored once however many deliveries refer to it. Its id is never used again."""

    id: int
    qos: int
    retain: bool
    origin: int
    expires_ms: int | None
    """Engine time."""
    topic: str
    properties: bytes
    """As they are forwarded."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody needs the message any more."""

    message: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for a subscriber, which is a session or a shared group; positions are a subscriber's order."""

    subscriber: int
    position: int
    message: int
    qos: int
    retain: bool
    state: int
    packet_id: int
    subscription_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The delivery is in this state now."""

    subscriber: int
    position: int
    state: int
    packet_id: int


@dataclass(frozen=True, slots=True)
class Done:
    """The delivery is over."""

    subscriber: int
    position: int


@dataclass(frozen=True, slots=True)
class Received:
    """A packet id of a QoS 2 PUBLISH from the client awaits its PUBREL."""

    session: int
    packet_id: int


@dataclass(frozen=True, slots=True)
class Released:
    """Its PUBREL came."""

    session: int
    packet_id: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session was opened or has changed; replaces what was known."""

    serial: int
    client_id: str
    expiry_s: int
    expires_ms: int
    """Engine time; 0 = connected, or never."""
    will_at_ms: int
    """Engine time at which the delayed will is due; 0 = none runs."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is gone with its subscriptions, deliveries, received packet ids and will."""

    session: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Replaces a subscription of the session to the same filter."""

    session: int
    options: int
    """The Subscription Options byte of MQTT 5, section 3.8.3.1; 0x80 = its retained messages have not all been sent."""
    subscription_id: int
    """0 = none."""
    filter: str
    """As it was given, `$share/` included."""


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    session: int
    filter: str


@dataclass(frozen=True, slots=True)
class Retained:
    """The message is retained from now on."""

    message: int


@dataclass(frozen=True, slots=True)
class Unretained:
    message: int


@dataclass(frozen=True, slots=True)
class Will:
    """The session's will; replaces the one before."""

    session: int
    message: int
    delay_s: int
    expiry_s: int | None


@dataclass(frozen=True, slots=True)
class WillGone:
    session: int


@dataclass(frozen=True, slots=True)
class Group:
    """A shared group that has durable members. It is the subscriber of deliveries."""

    serial: int
    text: str
    """`$share/name/filter`"""


@dataclass(frozen=True, slots=True)
class GroupGone:
    """The group is gone, with its deliveries."""

    group: int


@dataclass(frozen=True, slots=True)
class Clock:
    """The engine's time, in milliseconds; the first record of a batch."""

    engine_ms: int


@dataclass(frozen=True, slots=True)
class Stub:
    """A message whose body stays in the store; only `Store.load` gives it."""

    id: int
    size: int
    """Bytes of topic, properties and payload."""
    expires_ms: int
    """Engine time; 0 = never."""


Record = (
    Message | Forget | Delivery | State | Done | Received | Released | Session | Ended | Subscribed | Unsubscribed
    | Retained | Unretained | Will | WillGone | Group | GroupGone | Clock | Stub
)  # fmt: skip


class Reader:
    """Takes values off the front of bytes; raises ValueError naming the offset."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"record at offset {self.at}: {what}")

    def u8(self, most: int = 255) -> int:
        if self.at >= len(self.data):
            raise self.wrong("is cut off")
        value = self.data[self.at]
        if value > most:
            raise self.wrong(f"{value} is more than {most}")
        self.at += 1
        return value

    def u16(self) -> int:
        return self.u8() | self.u8() << 8

    def uv(self, most: int = NUMBER_MAX) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.u8()
            value |= (byte & 127) << shift
            if byte < 128:
                if value > most:
                    raise self.wrong(f"{value} is more than {most}")
                return value
        raise self.wrong("a number has more than 10 bytes")

    def blob(self, most: int = NUMBER_MAX) -> bytes:
        size = self.uv(most)
        if size > len(self.data) - self.at:
            raise self.wrong("is cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self, is_valid: Callable[[str], bool] = lambda _: True) -> str:
        try:
            text = self.blob(TEXT_MAX).decode()
        except UnicodeDecodeError:
            raise self.wrong("text is not UTF-8") from None
        if "\0" in text or not is_valid(text):
            raise self.wrong(f"{text!r} is not allowed here")
        return text

    def qos_retain(self, value: int) -> tuple[int, bool]:
        if value & 3 == 3:
            raise self.wrong("there is no QoS 3")
        return value & 3, bool(value & 4)

    def state(self, state: int) -> tuple[int, int]:
        packet_id = self.u16()
        if (state == QUEUED) != (packet_id == 0):
            raise self.wrong(f"packet id {packet_id} in state {state}")
        return state, packet_id

    def packet_id(self) -> int:
        packet_id = self.u16()
        if packet_id == 0:
            raise self.wrong("packet id 0")
        return packet_id

    def options(self) -> int:
        options = self.u8()
        if options & 3 == 3 or options & 0x30 == 0x30 or options & 0x40:
            raise self.wrong(f"subscription options {options:#x}")
        return options


def is_topic(text: str) -> bool:
    return text != "" and "+" not in text and "#" not in text


def is_filter(text: str) -> bool:
    levels = text.split("/")
    return (
        text != ""
        and (is_group(text) or (not text.startswith(("$share/", "$queue/")) and text != "$share"))
        and all(level == "+" or "+" not in level for level in levels)
        and all("#" not in level for level in levels[:-1])
        and (levels[-1] == "#" or "#" not in levels[-1])
    )


def is_group(text: str) -> bool:
    first, _, rest = text.partition("/")
    if first == "$queue":
        return rest != ""
    name, _, filter = rest.partition("/")
    return first == "$share" and name != "" and filter != "" and "+" not in name and "#" not in name


def _message(r: Reader) -> Message:
    id, flags = r.uv(), r.u8(0x0F)
    qos, retain = r.qos_retain(flags)
    origin = r.uv()
    expires_ms = r.uv() if flags & 8 else None
    return Message(id, qos, retain, origin, expires_ms, r.text(is_topic), r.blob(), r.blob())


def _delivery(r: Reader) -> Delivery:
    subscriber, position, message, flags = r.uv(), r.uv(), r.uv(), r.u8(0x1F)
    qos, retain = r.qos_retain(flags)
    state, packet_id = r.state(flags >> 3)
    ids = tuple(r.uv(SUBSCRIPTION_ID_MAX) for _ in range(r.uv(SUBSCRIPTION_IDS_MAX)))
    if 0 in ids:
        raise r.wrong("subscription identifier 0")
    return Delivery(subscriber, position, message, qos, retain, state, packet_id, ids)


def _will(r: Reader) -> Will:
    session, message, delay_s, has_expiry, expiry_s = r.uv(), r.uv(), r.uv(EXPIRY_NEVER), r.u8(1), r.uv(EXPIRY_NEVER)
    return Will(session, message, delay_s, expiry_s if has_expiry else None)


READ: Final[dict[int, tuple[type, Callable[[Reader], Record]]]] = {
    1: (Message, _message),
    2: (Forget, lambda r: Forget(r.uv())),
    3: (Delivery, _delivery),
    4: (State, lambda r: State(r.uv(), r.uv(), *r.state(r.u8(3)))),
    5: (Done, lambda r: Done(r.uv(), r.uv())),
    6: (Received, lambda r: Received(r.uv(), r.packet_id())),
    7: (Released, lambda r: Released(r.uv(), r.packet_id())),
    8: (Session, lambda r: Session(r.uv(), r.text(), r.uv(EXPIRY_NEVER), r.uv(), r.uv())),
    9: (Ended, lambda r: Ended(r.uv())),
    10: (Subscribed, lambda r: Subscribed(r.uv(), r.options(), r.uv(SUBSCRIPTION_ID_MAX), r.text(is_filter))),
    11: (Unsubscribed, lambda r: Unsubscribed(r.uv(), r.text(is_filter))),
    12: (Retained, lambda r: Retained(r.uv())),
    13: (Unretained, lambda r: Unretained(r.uv())),
    14: (Will, _will),
    15: (WillGone, lambda r: WillGone(r.uv())),
    16: (Group, lambda r: Group(r.uv(), r.text(lambda text: is_group(text) and is_filter(text)))),
    17: (GroupGone, lambda r: GroupGone(r.uv())),
    18: (Clock, lambda r: Clock(r.uv(CLOCK_MAX))),
    19: (Stub, lambda r: Stub(r.uv(), r.uv(), r.uv())),
}
KIND: Final = {record: kind for kind, (record, _) in READ.items()}


def decode(batch: bytes) -> Iterator[Record]:
    """The records of a batch. Raises ValueError at the first that is malformed, naming the offset of what is wrong."""
    reader = Reader(batch)
    while reader.at < len(batch):
        kind = reader.u8()
        if kind not in READ:
            reader.at -= 1
            raise reader.wrong(f"there is no kind {kind}")
        yield READ[kind][1](reader)


def uv(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(*records: Record) -> bytes:
    """The bytes of records. They are not checked: what `decode` refuses can be written, for tests."""
    return b"".join(bytes([KIND[type(record)]]) + _body(record) for record in records)


def _body(record: Record) -> bytes:
    match record:
        case Message(id, qos, retain, origin, expires_ms, topic, properties, payload):
            flags = qos | retain << 2 | (expires_ms is not None) << 3
            expiry = b"" if expires_ms is None else uv(expires_ms)
            return uv(id) + bytes([flags]) + uv(origin) + expiry + _blob(topic) + _blob(properties) + _blob(payload)
        case Delivery(subscriber, position, message, qos, retain, state, packet_id, ids):
            flags = qos | retain << 2 | state << 3
            numbers = b"".join(map(uv, (subscriber, position, message)))
            return numbers + struct.pack("<BH", flags, packet_id) + b"".join(map(uv, (len(ids), *ids)))
        case State(subscriber, position, state, packet_id):
            return uv(subscriber) + uv(position) + struct.pack("<BH", state, packet_id)
        case Received(session, packet_id) | Released(session, packet_id):
            return uv(session) + struct.pack("<H", packet_id)
        case Subscribed(session, options, subscription_id, filter):
            return uv(session) + bytes([options]) + uv(subscription_id) + _blob(filter)
        case Will(session, message, delay_s, expiry_s):
            has_expiry = bytes([expiry_s is not None])
            return uv(session) + uv(message) + uv(delay_s) + has_expiry + uv(expiry_s or 0)
        case _:  # the others are numbers and text, in the order of their fields
            values = (getattr(record, field.name) for field in fields(record))
            return b"".join(uv(value) if isinstance(value, int) else _blob(value) for value in values)


def _blob(value: str | bytes) -> bytes:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return uv(len(data)) + data
