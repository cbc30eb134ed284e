"""MQTT reason codes, one name each, and what an MQTT 3 client is told instead.

The names are those of MQTT 5.0 section 2.4; where the specification gives one code several names (0x00 is "Success",
"Normal disconnection" and "Granted QoS 0") the further names are aliases.
"""

from enum import IntEnum, unique
from types import MappingProxyType
from typing import Final


class Reason(IntEnum):
    """A reason code of MQTT 5.0. From 0x80 on it is a failure."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2

    @property
    def is_failure(self) -> bool:
        return self >= 0x80


@unique
class ConnectReturn(IntEnum):
    """The CONNACK return codes of MQTT 3.1 and 3.1.1 (3.1.1 table 3.1)."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


_CONNECT_RETURNS: Final = MappingProxyType(
    {
        Reason.SUCCESS: ConnectReturn.ACCEPTED,
        Reason.UNSUPPORTED_PROTOCOL_VERSION: ConnectReturn.UNACCEPTABLE_PROTOCOL_VERSION,
        Reason.CLIENT_IDENTIFIER_NOT_VALID: ConnectReturn.IDENTIFIER_REJECTED,
        Reason.BAD_USER_NAME_OR_PASSWORD: ConnectReturn.BAD_USER_NAME_OR_PASSWORD,
        Reason.BAD_AUTHENTICATION_METHOD: ConnectReturn.BAD_USER_NAME_OR_PASSWORD,
        Reason.NOT_AUTHORIZED: ConnectReturn.NOT_AUTHORIZED,
        Reason.BANNED: ConnectReturn.NOT_AUTHORIZED,
        Reason.UNSPECIFIED_ERROR: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.IMPLEMENTATION_SPECIFIC_ERROR: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.SERVER_UNAVAILABLE: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.SERVER_BUSY: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.SERVER_SHUTTING_DOWN: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.QUOTA_EXCEEDED: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.USE_ANOTHER_SERVER: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.SERVER_MOVED: ConnectReturn.SERVER_UNAVAILABLE,
        Reason.CONNECTION_RATE_EXCEEDED: ConnectReturn.SERVER_UNAVAILABLE,
    }
)


def connect_return(reason: Reason) -> ConnectReturn | None:
    """What a CONNACK for MQTT 3 says for `reason`; None: nothing fits, close without a CONNACK. [MQTT-3.2.2-6]"""
    return _CONNECT_RETURNS.get(reason)
