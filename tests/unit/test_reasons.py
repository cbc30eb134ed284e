"""Reason codes, against the tables of the specifications."""

import pytest

from fastmq.reasons import ConnectReturn, Reason, connect_return

# MQTT 5.0 table 2-6, all codes.
CODES = [0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19, *range(0x80, 0xA3)]


def test_every_code_of_the_specification_has_a_name_and_no_other() -> None:
    assert sorted(int(reason) for reason in Reason) == CODES


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.NORMAL_DISCONNECTION, 0x00),
        (Reason.GRANTED_QOS_0, 0x00),
        (Reason.DISCONNECT_WITH_WILL, 0x04),
        (Reason.UNSPECIFIED_ERROR, 0x80),
        (Reason.NOT_AUTHORIZED, 0x87),
        (Reason.SERVER_SHUTTING_DOWN, 0x8B),
        (Reason.SESSION_TAKEN_OVER, 0x8E),
        (Reason.PACKET_TOO_LARGE, 0x95),
        (Reason.QUOTA_EXCEEDED, 0x97),
        (Reason.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED, 0xA2),
    ],
)
def test_a_name_has_its_code(reason: Reason, code: int) -> None:
    assert reason == code


def test_failures_begin_at_0x80() -> None:
    assert [reason for reason in Reason if reason.is_failure] == [reason for reason in Reason if reason >= 0x80]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.SUCCESS, ConnectReturn.ACCEPTED),
        (Reason.UNSUPPORTED_PROTOCOL_VERSION, ConnectReturn.UNACCEPTABLE_PROTOCOL_VERSION),
        (Reason.CLIENT_IDENTIFIER_NOT_VALID, ConnectReturn.IDENTIFIER_REJECTED),
        (Reason.SERVER_BUSY, ConnectReturn.SERVER_UNAVAILABLE),
        (Reason.QUOTA_EXCEEDED, ConnectReturn.SERVER_UNAVAILABLE),
        (Reason.BAD_USER_NAME_OR_PASSWORD, ConnectReturn.BAD_USER_NAME_OR_PASSWORD),
        (Reason.NOT_AUTHORIZED, ConnectReturn.NOT_AUTHORIZED),
        (Reason.BANNED, ConnectReturn.NOT_AUTHORIZED),
        (Reason.MALFORMED_PACKET, None),
        (Reason.PROTOCOL_ERROR, None),
    ],
)
def test_an_mqtt_3_client_is_told_the_nearest_return_code(reason: Reason, told: ConnectReturn | None) -> None:
    assert connect_return(reason) is told
