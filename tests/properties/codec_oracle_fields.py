"""The oracle's tables and fields: what stands inside a packet, read and written the slow and plain way."""

from collections.abc import Callable
from dataclasses import fields

from fastmq.packets import Properties

# MQTT 5, table 2-4, a row a line: id, field, form, packets (w = will).
TABLE = """
1  payload_format_indicator          bool01 PUBLISH w
2  message_expiry_interval           u32    PUBLISH w
3  content_type                      utf8   PUBLISH w
8  response_topic                    topic  PUBLISH w
9  correlation_data                  binary PUBLISH w
11 subscription_identifiers          subid  PUBLISH SUBSCRIBE
17 session_expiry_interval           u32    CONNECT CONNACK DISCONNECT
18 assigned_client_identifier        utf8   CONNACK
19 server_keep_alive                 u16    CONNACK
21 authentication_method             utf8   CONNECT CONNACK AUTH
22 authentication_data               binary CONNECT CONNACK AUTH
23 request_problem_information       flag   CONNECT
24 will_delay_interval               u32    w
25 request_response_information      flag   CONNECT
26 response_information              utf8   CONNACK
28 server_reference                  utf8   CONNACK DISCONNECT
31 reason_string                     utf8   CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH
33 receive_maximum                   u16+   CONNECT CONNACK
34 topic_alias_maximum               u16    CONNECT CONNACK
35 topic_alias                       u16+   PUBLISH
36 maximum_qos                       bool01 CONNACK
37 retain_available                  flag   CONNACK
38 user_properties                   pair   CONNECT CONNACK PUBLISH w PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH
39 maximum_packet_size               u32+   CONNECT CONNACK
40 wildcard_subscription_available   flag   CONNACK
41 subscription_identifier_available flag   CONNACK
42 shared_subscription_available     flag   CONNACK
"""  # noqa: E501
ROWS = {int(row.split()[0]): (row.split()[1], row.split()[2], row.split()[3:]) for row in TABLE.strip().splitlines()}

REASONS = {
    "CONNACK": "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f",
    "PUBACK": "00 10 80 83 87 90 91 97 99",
    "PUBREC": "00 10 80 83 87 90 91 97 99",
    "PUBREL": "00 92",
    "PUBCOMP": "00 92",
    "SUBACK": "00 01 02 80 83 87 8f 91 97 9e a1 a2",
    "UNSUBACK": "00 11 80 83 87 8f 91",
    "DISCONNECT": "00 04 80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2",
    "AUTH": "00 18 19",
}


class Wrong(Exception):
    """These bytes are no packet."""


def require(condition: bool, why: str) -> None:
    if not condition:
        raise Wrong(why)


def u16(n: int) -> bytes:
    return n.to_bytes(2, "big")


def u32(n: int) -> bytes:
    return n.to_bytes(4, "big")


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n % 128 + 128]) + varint(n // 128)


def binary(data: bytes) -> bytes:
    return u16(len(data)) + data


def utf8(text: str) -> bytes:
    return binary(text.encode())


def flag(value: bool | int) -> bytes:
    return b"\1" if value else b"\0"


WRITERS: dict[str, Callable[..., bytes]] = {
    "flag": flag, "bool01": flag, "u16": u16, "u16+": u16, "u32": u32, "u32+": u32, "utf8": utf8, "topic": utf8,
    "binary": binary,
}  # fmt: skip


def properties(given: Properties, where: str) -> bytes:
    out = b""
    for code, (field, form, places) in ROWS.items():
        value = getattr(given, field)
        if value in (None, []):
            continue
        assert where in places, f"{field} in {where}"
        if form == "pair":
            out += b"".join(bytes([code]) + utf8(name) + utf8(text) for name, text in value)
        elif form == "subid":
            out += b"".join(bytes([code]) + varint(number) for number in value)
        else:
            out += bytes([code]) + WRITERS[form](value)
    return varint(len(out)) + out


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, n: int) -> bytes:
        require(len(self.data) >= n, "too short")
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def varint(self) -> int:
        value = 0
        for place in range(4):
            byte = self.u8()
            value += byte % 128 << 7 * place
            if byte < 128:
                require(place == 0 or byte > 0, "not minimal")
                return value
        raise Wrong("too long")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def utf8(self) -> str:
        try:
            text = self.binary().decode()
        except UnicodeDecodeError:
            raise Wrong("not UTF-8") from None
        require("\0" not in text, "null character")
        return text

    def topic(self) -> str:
        text = self.utf8()
        require(text != "" and not set(text) & set("+#"), "not a topic name")
        return text

    def flag(self) -> bool:
        return self.bool01() == 1

    def bool01(self) -> int:
        value = self.u8()
        require(value < 2, "neither 0 nor 1")
        return value

    def positive(self, value: int) -> int:
        require(value > 0, "must not be 0")
        return value

    def packet_id(self) -> int:
        return self.positive(self.u16())

    def form(self, form: str) -> object:
        readers: dict[str, Callable[[], object]] = {
            "u16": self.u16, "u32": self.u32, "flag": self.flag, "bool01": self.bool01, "utf8": self.utf8,
            "topic": self.topic, "binary": self.binary, "u16+": lambda: self.positive(self.u16()),
            "u32+": lambda: self.positive(self.u32()),
        }  # fmt: skip
        return readers[form]()

    def properties(self, where: str) -> Properties:
        inner, found, seen = Reader(self.take(self.varint())), Properties(), set()
        while inner.data:
            code = inner.varint()
            require(code in ROWS and where in ROWS[code][2], f"property {code} in {where}")
            field, form, _ = ROWS[code]
            repeatable = form == "pair" or (form == "subid" and where == "PUBLISH")
            require(repeatable or field not in seen, "twice")
            seen.add(field)
            if form == "pair":
                found.user_properties.append((inner.utf8(), inner.utf8()))
            elif form == "subid":
                found.subscription_identifiers.append(inner.positive(inner.varint()))
            else:
                setattr(found, field, inner.form(form))
        require(found.authentication_data is None or found.authentication_method is not None, "data without method")
        return found


assert {row[0] for row in ROWS.values()} == {each.name for each in fields(Properties)}
