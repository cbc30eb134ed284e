"""A store as JSON lines: what a line of each kind says, and the row of a table that it stands for.

docs/howto/durability.md describes the format for those who read or write it.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastmq._records import Pack
from fastmq.store import facts, records
from fastmq.store.clock import Stamp
from fastmq.store.records import KIND, NUMBER_MAX

__all__ = ["FORMAT", "KINDS", "STATES", "Kind", "WrongLine", "footer", "header", "parse", "read_header", "take"]

FORMAT: Final = 1
STATES: Final = ("queued", "await_puback", "await_pubrec", "await_pubcomp")

Row = tuple[Any, ...]
Line = dict[str, Any]


class WrongLine(ValueError):
    """What is wrong with one line."""


# -- values ------------------------------------------------------------------------------------------------------------


def number(value: object) -> bool:
    return type(value) is int and 0 <= value <= NUMBER_MAX


def optional_number(value: object) -> bool:
    return value is None or number(value)


def text(value: object) -> bool:
    return type(value) is str


def flag(value: object) -> bool:
    return type(value) is bool


def numbers(value: object) -> bool:
    return type(value) is list and all(map(number, value))


def state(value: object) -> bool:
    return value in STATES


def upto(most: int) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return type(value) is int and 0 <= value <= most

    return check


def base64(value: object) -> bool:
    """Checked again, and wholly, when it is decoded."""
    return type(value) is str


def decoded(value: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except ValueError:
        raise WrongLine("a value is no base64") from None


def take(line: Line, fields: Mapping[str, Callable[[object], bool]]) -> None:
    """Checks that the line has these fields and no other. Raises WrongLine."""
    for name, is_right in fields.items():
        if name not in line:
            raise WrongLine(f"{name!r} is missing")
        if not is_right(line[name]):
            raise WrongLine(f"{name!r} cannot be {line[name]!r:.50}")
    for name in line.keys() - fields.keys() - {"kind"}:
        raise WrongLine(f"there is no {name!r} in a line of this kind")


def parse(data: bytes) -> Line:
    try:
        line = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WrongLine(f"this is no JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(line, dict):
        raise WrongLine("this is no JSON object")
    return line


# -- kinds -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """Lines of one kind, and rows of one table."""

    name: str
    table: str
    record: type[records.Record] | None
    """None: a fact, which is no record."""
    fields: Mapping[str, Callable[[object], bool]]
    to_line: Callable[[Row], Line]
    to_row: Callable[[Line], Row]

    def row(self, line: Line) -> Row:
        """The row that a line stands for. Raises WrongLine for one that a broker would not load."""
        take(line, self.fields)
        row = self.to_row(line)
        if self.record is None:
            return row
        stored = tuple(value.encode() if isinstance(value, str) else value for value in row)
        try:
            # As `load` does it, which reads a message's id and record only.
            Pack().add(KIND[self.record], [(stored[0], stored[3]) if self.table == "message" else stored])
        except (ValueError, OverflowError) as error:
            raise WrongLine(str(error).removeprefix("the row ")) from None
        return row


def message_line(row: Row) -> Line:
    (message,) = records.decode(row[3])
    assert isinstance(message, records.Message)
    return {
        "id": message.id,
        "topic": message.topic,
        "qos": message.qos,
        "retain": message.retain,
        "origin": message.origin,
        "expires_ms": message.expires_ms,
        "properties": b64encode(message.properties).decode(),
        "payload": b64encode(message.payload).decode(),
    }


def message_row(line: Line) -> Row:
    properties, payload = decoded(line["properties"]), decoded(line["payload"])
    message = records.Message(
        line["id"], line["qos"], line["retain"], line["origin"], line["expires_ms"], line["topic"], properties, payload
    )
    size = len(line["topic"].encode()) + len(properties) + len(payload)
    return line["id"], line["expires_ms"] or 0, size, records.encode(message)


def subscription_line(row: Row) -> Line:
    session, filter, options, id = row
    return {
        "session": session,
        "filter": filter.decode(),
        "qos": options & 3,
        "no_local": bool(options & 4),
        "retain_as_published": bool(options & 8),
        "retain_handling": options >> 4 & 3,
        "retained_due": bool(options & 0x80),
        "id": id,
    }


def subscription_row(line: Line) -> Row:
    options = line["qos"] | line["no_local"] << 2 | line["retain_as_published"] << 3 | line["retain_handling"] << 4
    return line["session"], line["filter"], options | line["retained_due"] << 7, line["id"]


def delivery_line(row: Row) -> Line:
    subscriber, position, message, flags, packet_id, ids = row
    return {
        "subscriber": subscriber,
        "position": position,
        "message": message,
        "qos": flags & 3,
        "retain": bool(flags & 4),
        "state": STATES[flags >> 3],
        "packet_id": packet_id,
        "subscription_ids": subscription_ids(ids) if ids else [],
    }


def subscription_ids(ids: bytes) -> list[int]:
    reader = records.Reader(ids)
    found = []
    while reader.at < len(ids):
        found.append(reader.uv())
    return found


def delivery_row(line: Line) -> Row:
    flags = line["qos"] | line["retain"] << 2 | STATES.index(line["state"]) << 3
    ids = b"".join(map(records.uv, line["subscription_ids"])) or None
    return line["subscriber"], line["position"], line["message"], flags, line["packet_id"], ids


def fact_row(line: Line) -> Row:
    key, value = line["key"], decoded(line["value"])
    if not facts.is_sound((key.encode("utf-8", "surrogatepass"), value)):
        raise WrongLine("the key or the value of a fact is too long, or the key is no text")
    return key, value


def plain(name: str, table: str, record: type[records.Record], fields: Mapping[str, Callable[[object], bool]]) -> Kind:
    """A kind whose fields are the columns of its table, in their order."""
    names = tuple(fields)

    def to_line(row: Row) -> Line:
        return {
            name: str(value, "utf-8") if isinstance(value, bytes) else value
            for name, value in zip(names, row, strict=True)
        }

    return Kind(name, table, record, fields, to_line, lambda line: tuple(line[name] for name in names))


KINDS: Final[tuple[Kind, ...]] = (
    plain("group", "shared_group", records.Group, {"serial": number, "text": text}),
    plain(
        "session",
        "session",
        records.Session,
        {"serial": number, "client_id": text, "expiry_s": number, "expires_ms": number, "will_at_ms": number},
    ),
    Kind(
        "subscription",
        "subscription",
        records.Subscribed,
        {
            "session": number, "filter": text, "qos": upto(2), "no_local": flag, "retain_as_published": flag,
            "retain_handling": upto(2), "retained_due": flag, "id": number,
        },
        subscription_line,
        subscription_row,
    ),
    plain("received", "received", records.Received, {"session": number, "packet_id": number}),
    Kind(
        "message",
        "message",
        records.Message,
        {
            "id": number, "topic": text, "qos": upto(2), "retain": flag, "origin": number,
            "expires_ms": optional_number, "properties": base64, "payload": base64,
        },
        message_line,
        message_row,
    ),
    plain("retained", "retained", records.Retained, {"message": number}),
    plain(
        "will",
        "will",
        records.Will,
        {"session": number, "message": number, "delay_s": number, "expiry_s": optional_number},
    ),
    Kind(
        "delivery",
        "delivery",
        records.Delivery,
        {
            "subscriber": number, "position": number, "message": number, "qos": upto(2), "retain": flag,
            "state": state, "packet_id": upto(0xFFFF), "subscription_ids": numbers,
        },
        delivery_line,
        delivery_row,
    ),
    Kind(
        "fact",
        "fact",
        None,
        {"key": text, "value": base64},
        lambda row: {"key": row[0].decode(), "value": b64encode(row[1]).decode()},
        fact_row,
    ),
)  # fmt: skip
"""In the order in which they are written: what a line refers to comes before it."""

# -- the first line and the last ---------------------------------------------------------------------------------------

HEADER: Final = {
    "fastmq_store": number, "engine_ms": number, "boot_ms": number, "wall_ms": number, "boot_id": text,
}  # fmt: skip
FOOTER: Final = {"lines": number}


def header(stamp: Stamp) -> Line:
    return {
        "fastmq_store": FORMAT, "engine_ms": stamp.engine_ms, "boot_ms": stamp.boot_ms, "wall_ms": stamp.wall_ms,
        "boot_id": stamp.boot_id,
    }  # fmt: skip


def read_header(line: Line) -> Stamp:
    version = line.get("fastmq_store")
    if not number(version):
        raise WrongLine('this is no export of a store: it does not begin with {"fastmq_store": ...}')
    if version != FORMAT:
        raise WrongLine(f"the export has format {version}, this fastmq reads {FORMAT}")
    take(line, HEADER)
    if max(line["engine_ms"], line["boot_ms"], line["wall_ms"]) > records.CLOCK_MAX // 2:
        raise WrongLine("the clocks are no times")
    return Stamp(line["engine_ms"], line["boot_ms"], line["wall_ms"], line["boot_id"])


def footer(count: int) -> Line:
    """Without it, a file that was cut off could not be told from a whole one."""
    return {"kind": "end", "lines": count}
