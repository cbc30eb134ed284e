"""MQTT 5 properties as a list of (identifier, value) pairs: order and repetitions are kept, nothing is checked."""

from __future__ import annotations

from collections.abc import Sequence

PAYLOAD_FORMAT = 0x01
MESSAGE_EXPIRY = 0x02
CONTENT_TYPE = 0x03
RESPONSE_TOPIC = 0x08
CORRELATION_DATA = 0x09
SUBSCRIPTION_ID = 0x0B
SESSION_EXPIRY = 0x11
ASSIGNED_CLIENT_ID = 0x12
SERVER_KEEP_ALIVE = 0x13
AUTH_METHOD = 0x15
AUTH_DATA = 0x16
REQUEST_PROBLEM_INFO = 0x17
WILL_DELAY = 0x18
REQUEST_RESPONSE_INFO = 0x19
RESPONSE_INFO = 0x1A
SERVER_REFERENCE = 0x1C
REASON_STRING = 0x1F
RECEIVE_MAXIMUM = 0x21
TOPIC_ALIAS_MAXIMUM = 0x22
TOPIC_ALIAS = 0x23
MAXIMUM_QOS = 0x24
RETAIN_AVAILABLE = 0x25
USER_PROPERTY = 0x26
MAXIMUM_PACKET_SIZE = 0x27
WILDCARD_AVAILABLE = 0x28
SUBSCRIPTION_ID_AVAILABLE = 0x29
SHARED_AVAILABLE = 0x2A

#: How each property is written: b byte, h two bytes, i four bytes, v variable byte integer, s string,
#: d binary data, p pair of strings.
FORMATS: dict[int, str] = {
    PAYLOAD_FORMAT: "b",
    MESSAGE_EXPIRY: "i",
    CONTENT_TYPE: "s",
    RESPONSE_TOPIC: "s",
    CORRELATION_DATA: "d",
    SUBSCRIPTION_ID: "v",
    SESSION_EXPIRY: "i",
    ASSIGNED_CLIENT_ID: "s",
    SERVER_KEEP_ALIVE: "h",
    AUTH_METHOD: "s",
    AUTH_DATA: "d",
    REQUEST_PROBLEM_INFO: "b",
    WILL_DELAY: "i",
    REQUEST_RESPONSE_INFO: "b",
    RESPONSE_INFO: "s",
    SERVER_REFERENCE: "s",
    REASON_STRING: "s",
    RECEIVE_MAXIMUM: "h",
    TOPIC_ALIAS_MAXIMUM: "h",
    TOPIC_ALIAS: "h",
    MAXIMUM_QOS: "b",
    RETAIN_AVAILABLE: "b",
    USER_PROPERTY: "p",
    MAXIMUM_PACKET_SIZE: "i",
    WILDCARD_AVAILABLE: "b",
    SUBSCRIPTION_ID_AVAILABLE: "b",
    SHARED_AVAILABLE: "b",
}

PropertyValue = int | str | bytes | tuple[str, str]
#: Pairs, or the bytes of a property list without its length (for lists that no pairs can express).
Properties = Sequence[tuple[int, PropertyValue]] | bytes
