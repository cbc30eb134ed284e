"""The MQTT control packets as plain values, one class each, for 3.1, 3.1.1 and 5.0 alike.

They carry what is on the wire and nothing else: `_codec` makes and reads them, every other room may hold them.
What a version does not know (properties, reason codes) stays at its default and is not encoded for that version.
PUBLISH on the broker's hot path never becomes one of these.
"""

from dataclasses import dataclass, field, fields
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "PROPERTY_TABLE",
    "REASON_TABLE",
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Packet",
    "PacketType",
    "Pingreq",
    "Pingresp",
    "Properties",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "Suback",
    "Subscribe",
    "SubscriptionRequest",
    "Unsuback",
    "Unsubscribe",
    "Will",
]


class PacketType(IntEnum):
    """The upper four bits of the first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


@dataclass(slots=True, repr=False)
class Properties:
    """The properties of one packet, or of a will. None = absent; which of them a packet may carry, `_codec` knows."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None  # seconds
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    session_expiry_interval: int | None = None  # seconds; 0xFFFFFFFF = never
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None  # seconds
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: bool | None = None
    will_delay_interval: int | None = None  # seconds
    request_response_information: bool | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None  # 0 or 1; absent = 2
    retain_available: bool | None = None
    maximum_packet_size: int | None = None  # bytes
    wildcard_subscription_available: bool | None = None
    subscription_identifier_available: bool | None = None
    shared_subscription_available: bool | None = None
    subscription_identifiers: list[int] = field(default_factory=list)
    user_properties: list[tuple[str, str]] = field(default_factory=list)  # order and duplicates are kept

    def __repr__(self) -> str:
        """Only what is there: most packets carry none of them."""
        present = ((each.name, getattr(self, each.name)) for each in fields(self))
        return f"Properties({', '.join(f'{name}={value!r}' for name, value in present if value not in (None, []))})"


@dataclass(slots=True)
class Will:
    """What the broker publishes for a client that goes without DISCONNECT."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Connect:
    client_id: str = ""
    version: int = 5  # 3, 4 or 5: the protocol level on the wire
    clean_start: bool = True
    keepalive: int = 60  # seconds; 0 = off
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Connack:
    """For 3.x `reason` decodes to the return code 0-5; an MQTT 5 reason is translated when encoded for 3.x."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Publish:
    topic: str  # "" only with a topic alias
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0  # 0 with QoS 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Puback:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pubrec:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pubrel:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pubcomp:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


class SubscriptionRequest(NamedTuple):
    """One topic filter of a SUBSCRIBE with its options; only `qos` exists before MQTT 5."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0  # 0 = send retained, 1 = only if the subscription is new, 2 = never


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    subscriptions: list[SubscriptionRequest]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Suback:
    packet_id: int
    reasons: list[int]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    filters: list[str]
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Unsuback:
    packet_id: int
    reasons: list[int] = field(default_factory=list)  # empty before MQTT 5
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Pingreq:
    pass


@dataclass(slots=True)
class Pingresp:
    pass


@dataclass(slots=True)
class Disconnect:
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(slots=True)
class Auth:
    reason: int = 0
    properties: Properties = field(default_factory=Properties)


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)

_P = PacketType
_WILL: Final = 0  # the will's properties stand beside those of the packet types 1-15
_ANSWERS: Final = (
    _P.CONNACK,
    _P.PUBACK,
    _P.PUBREC,
    _P.PUBREL,
    _P.PUBCOMP,
    _P.SUBACK,
    _P.UNSUBACK,
    _P.DISCONNECT,
    _P.AUTH,
)

PROPERTY_TABLE: Final[tuple[tuple[int, str, str, tuple[int, ...]], ...]] = (
    (0x01, "byte", "payload_format_indicator", (_P.PUBLISH, _WILL)),
    (0x02, "four", "message_expiry_interval", (_P.PUBLISH, _WILL)),
    (0x03, "text", "content_type", (_P.PUBLISH, _WILL)),
    (0x08, "text", "response_topic", (_P.PUBLISH, _WILL)),
    (0x09, "binary", "correlation_data", (_P.PUBLISH, _WILL)),
    (0x0B, "varint", "subscription_identifiers", (_P.PUBLISH, _P.SUBSCRIBE)),
    (0x11, "four", "session_expiry_interval", (_P.CONNECT, _P.CONNACK, _P.DISCONNECT)),
    (0x12, "text", "assigned_client_identifier", (_P.CONNACK,)),
    (0x13, "two", "server_keep_alive", (_P.CONNACK,)),
    (0x15, "text", "authentication_method", (_P.CONNECT, _P.CONNACK, _P.AUTH)),
    (0x16, "binary", "authentication_data", (_P.CONNECT, _P.CONNACK, _P.AUTH)),
    (0x17, "flag", "request_problem_information", (_P.CONNECT,)),
    (0x18, "four", "will_delay_interval", (_WILL,)),
    (0x19, "flag", "request_response_information", (_P.CONNECT,)),
    (0x1A, "text", "response_information", (_P.CONNACK,)),
    (0x1C, "text", "server_reference", (_P.CONNACK, _P.DISCONNECT)),
    (0x1F, "text", "reason_string", _ANSWERS),
    (0x21, "two", "receive_maximum", (_P.CONNECT, _P.CONNACK)),
    (0x22, "two", "topic_alias_maximum", (_P.CONNECT, _P.CONNACK)),
    (0x23, "two", "topic_alias", (_P.PUBLISH,)),
    (0x24, "byte", "maximum_qos", (_P.CONNACK,)),
    (0x25, "flag", "retain_available", (_P.CONNACK,)),
    (0x26, "pair", "user_properties", (_WILL, _P.CONNECT, _P.PUBLISH, _P.SUBSCRIBE, _P.UNSUBSCRIBE, *_ANSWERS)),
    (0x27, "four", "maximum_packet_size", (_P.CONNECT, _P.CONNACK)),
    (0x28, "flag", "wildcard_subscription_available", (_P.CONNACK,)),
    (0x29, "flag", "subscription_identifier_available", (_P.CONNACK,)),
    (0x2A, "flag", "shared_subscription_available", (_P.CONNACK,)),
)
"""MQTT 5, table 2-4: id, form on the wire, field of Properties, where it may appear (0 = in a will)."""

_PUBLISH_REASONS: Final = (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)

REASON_TABLE: Final = MappingProxyType(
    {
        _P.CONNACK: (0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F),
        _P.PUBACK: _PUBLISH_REASONS,
        _P.PUBREC: _PUBLISH_REASONS,
        _P.PUBREL: (0x00, 0x92),
        _P.PUBCOMP: (0x00, 0x92),
        _P.SUBACK: (0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2),
        _P.UNSUBACK: (0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91),
        _P.DISCONNECT: (0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, *range(0x8B, 0x91), *range(0x93, 0xA3)),
        _P.AUTH: (0x00, 0x18, 0x19),
    }
)
"""MQTT 5, table 2-6: which reason codes a packet type may carry."""
