"""How `fastmq sub` prints a message: the payload, `-v`, or a format of mosquitto_sub's (`-F`), byte for byte.

A format is compiled once into a list of pieces; each piece turns a message and its time of arrival into bytes.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fastmq.packets import Publish

__all__ = ["Arrival", "FormatError", "NotJson", "compile_format", "plain", "verbose"]


class FormatError(ValueError):
    """A format that cannot be understood."""


class NotJson(ValueError):
    """`%J` met a payload that is none."""


@dataclass(frozen=True, slots=True)
class Arrival:
    message: Publish
    at_ns: int  # Unix time


Piece = Callable[[Arrival], bytes]

_ESCAPES: Final = {
    "\\": b"\\", "0": b"\0", "a": b"\a", "e": b"\x1b", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v",
}  # fmt: skip
_SPECIFIER: Final = re.compile(r"%([-0]*)(\d*)(?:\.(\d*))?(.)", re.DOTALL)


def plain(arrival: Arrival) -> bytes:
    return arrival.message.payload


def verbose(arrival: Arrival) -> bytes:
    """`topic payload`; an empty payload is shown as mosquitto_sub shows it."""
    return arrival.message.topic.encode() + b" " + (arrival.message.payload or b"(null)")


def compile_format(text: str, *, pretty: bool = False) -> Piece:
    """:raises FormatError: with what is wrong."""
    pieces = list(_pieces(text, pretty))
    return lambda arrival: b"".join([piece(arrival) for piece in pieces])


def _pieces(text: str, pretty: bool) -> Iterator[Piece]:
    at = 0
    while at < len(text):
        sign = text[at]
        if sign == "%":
            match = _SPECIFIER.match(text, at)
            if match is None:
                raise FormatError("Incomplete format specifier.")
            yield _parameter(match[4], match[1], int(match[2] or 0), int(match[3]) if match[3] else None, pretty)
            at = match.end()
            continue
        if sign in "@\\":
            if at + 1 == len(text):
                raise FormatError(f"Incomplete {'escape' if sign == chr(92) else 'format'} specifier.")
            yield _time(text[at + 1]) if sign == "@" else _escape(text[at + 1])
            at += 2
            continue
        end = next((i for i in range(at, len(text)) if text[i] in "%@\\"), len(text))
        yield _constant(text[at:end].encode("utf-8", "surrogateescape"))
        at = end


def _constant(text: bytes) -> Piece:
    return lambda arrival: text


def _escape(letter: str) -> Piece:
    if letter not in _ESCAPES:
        raise FormatError(f"Invalid escape specifier '{letter}'.")
    return _constant(_ESCAPES[letter])


def _time(letter: str) -> Piece:
    if letter == "@":
        return _constant(b"@")
    if letter == "N":
        return lambda arrival: b"%09d" % (arrival.at_ns % 1_000_000_000)
    return lambda arrival: time.strftime("%" + letter, _local(arrival)).encode()


def _parameter(letter: str, flags: str, width: int, most: int | None, pretty: bool) -> Piece:
    left, fill = "-" in flags, b"0" if "0" in flags and "-" not in flags else b" "

    def pad(text: bytes, fill: bytes = b" ") -> bytes:
        return text.ljust(width) if left else text.rjust(width, fill)

    if letter == "%":
        return _constant(b"%")
    if letter in _TEXTS:
        text = _TEXTS[letter]
        return lambda arrival: pad((text(arrival) or "")[:most].encode())
    if letter in _NUMBERS:
        number = _NUMBERS[letter]
        return lambda arrival: pad(b"" if (value := number(arrival.message)) is None else b"%d" % value, fill)
    if letter in _PAYLOADS:
        payload = _PAYLOADS[letter]
        return lambda arrival: pad(payload(arrival.message), fill)
    if letter in "jJ":
        return lambda arrival: _json_of(arrival, pretty, raw=letter == "J")
    if letter in _BYTES:
        return _BYTES[letter]
    raise FormatError(f"Invalid format specifier '{letter}'.")


def _local(arrival: Arrival) -> time.struct_time:
    return time.localtime(arrival.at_ns // 1_000_000_000)


def _iso(arrival: Arrival) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", _local(arrival))


_TEXTS: Final[dict[str, Callable[[Arrival], str | None]]] = {
    "t": lambda arrival: arrival.message.topic,
    "C": lambda arrival: arrival.message.properties.content_type,
    "R": lambda arrival: arrival.message.properties.response_topic,
    "I": _iso,
}
_NUMBERS: Final[dict[str, Callable[[Publish], int | None]]] = {
    "A": lambda message: message.properties.topic_alias,
    "E": lambda message: message.properties.message_expiry_interval,
    "F": lambda message: message.properties.payload_format_indicator,
    "S": lambda message: next(iter(message.properties.subscription_identifiers), None),
    "l": lambda message: len(message.payload),
    "m": lambda message: message.packet_id,
}
_PAYLOADS: Final[dict[str, Callable[[Publish], bytes]]] = {
    "p": lambda message: message.payload,
    "x": lambda message: message.payload.hex().encode(),
    "X": lambda message: message.payload.hex().upper().encode(),
}
_BYTES: Final[dict[str, Piece]] = {
    "D": lambda arrival: arrival.message.properties.correlation_data or b"",
    "P": lambda arrival: " ".join(f"{k}:{v}" for k, v in arrival.message.properties.user_properties).encode(),
    "U": lambda arrival: b"%d.%09d" % divmod(arrival.at_ns, 1_000_000_000),
    "q": lambda arrival: b"%d" % arrival.message.qos,
    "r": lambda arrival: b"%d" % arrival.message.retain,
}

# %j and %J. An object is a list of pairs here: user properties may repeat a name, and mosquitto_sub shows them all.
_Pairs = list[tuple[str, object]]


def _json_of(arrival: Arrival, pretty: bool, *, raw: bool) -> bytes:
    message, local = arrival.message, _local(arrival)
    micros = arrival.at_ns // 1000 % 1_000_000
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{micros:06d}Z{time.strftime('%z', local)}"
    shown: _Pairs = [
        ("tst", stamp),
        ("topic", message.topic),
        ("qos", message.qos),
        ("retain", int(message.retain)),
        ("payloadlen", len(message.payload)),
    ]
    if message.qos:
        shown.append(("mid", message.packet_id))
    properties = _properties(message)
    if properties:
        shown.append(("properties", _Object(properties)))
    shown.append(("payload", _payload(message, raw)))
    return _write(_Object(shown), 0 if pretty else None).encode()


class _Object:
    def __init__(self, pairs: _Pairs) -> None:
        self.pairs = pairs


def _properties(message: Publish) -> _Pairs:
    given = message.properties
    shown: _Pairs = [("subscription-identifier", number) for number in given.subscription_identifiers]
    if given.topic_alias is not None:
        shown.append(("topic-alias", given.topic_alias))
    if given.user_properties:
        shown.append(("user-properties", _Object(list(given.user_properties))))
    correlation = given.correlation_data
    for name, value in (
        ("content-type", given.content_type),
        ("response-topic", given.response_topic),
        ("correlation-data", correlation.decode("utf-8", "replace") if correlation is not None else None),
        ("payload-format-indicator", given.payload_format_indicator),
        ("message-expiry-interval", given.message_expiry_interval),
    ):
        if value is not None:
            shown.append((name, value))
    return shown


def _payload(message: Publish, raw: bool) -> object:
    if not message.payload:
        return None
    if not raw:
        return message.payload.decode("utf-8", "replace")
    try:
        return json.loads(message.payload, object_pairs_hook=_Object)
    except ValueError:
        raise NotJson(f"Error: Message payload is not valid JSON on topic {message.topic}.") from None


def _write(value: object, depth: int | None) -> str:
    """JSON as cJSON writes it. `depth` None: nothing but what is needed; else indented by tabs."""
    if isinstance(value, _Object):
        inner = None if depth is None else depth + 1
        gap = "" if depth is None else "\t"
        written = [f"{_write(name, None)}:{gap}{_write(each, inner)}" for name, each in value.pairs]
        if depth is None:
            return "{" + ",".join(written) + "}"
        indent = "\n" + "\t" * (depth + 1)
        return "{" + ",".join(indent + each for each in written) + "\n" + "\t" * depth + "}"
    if isinstance(value, list):
        inner = None if depth is None else depth + 1
        return "[" + ("," if depth is None else ", ").join(_write(each, inner) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)
