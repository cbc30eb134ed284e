"""Where MQTT 3.1 differs from 3.1.1. It has no numbered statements; what each test holds to is said in its words."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Dial, Join
from tests.wireclient import Connack, Suback, Unsuback, encode

DUP = 0x08


def test_the_level_and_the_name_belong_together(dial: Dial) -> None:
    client = dial(3)
    client.send(encode.connect(3, client_id="x"))
    assert client.expect(Connack).code == 0


@pytest.mark.parametrize("flags", [0x82, 0xC2], ids=["user name", "user name and password"])
def test_flags_may_promise_a_user_name_that_is_missing(dial: Dial, cid: str, flags: int) -> None:
    """3.1 lets the remaining length overrule the flags: servers must allow the fields to be missing."""
    client = dial(3)
    client.send(encode.connect(3, client_id=cid, flags=flags))
    assert client.expect(Connack).code == 0
    client.ping()


def test_a_password_may_be_missing_after_the_user_name(dial: Dial, cid: str) -> None:
    client = dial(3)
    client.send(encode.connect(3, client_id=cid, username="u", flags=0xC2))
    assert client.expect(Connack).code == 0


def test_bit_0_of_the_connect_flags_is_not_used(dial: Dial, cid: str) -> None:
    client = dial(3)
    client.send(encode.connect(3, client_id=cid, flags=0x03))
    assert client.expect(Connack).code == 0


def test_subscribe_and_unsubscribe_may_have_dup(join: Join, topic: str) -> None:
    """In 3.1 these packets have QoS 1 and are sent again with DUP."""
    client = join(3)
    client.send(encode.subscribe(3, 5, [(topic, 1)], first_byte=0x82 | DUP))
    assert client.expect(Suback).codes == [1]
    client.send(encode.unsubscribe(3, 6, [topic], first_byte=0xA2 | DUP))
    assert client.expect(Unsuback).packet_id == 6


def test_pubrel_may_have_dup(join: Join, topic: str) -> None:
    client = join(3)
    client.send(encode.publish(3, topic, b"x", qos=2, packet_id=9))
    client.expect_ack("PUBREC", 9)
    client.send(encode.ack(3, encode.PUBREL | DUP, 9))
    client.expect_ack("PUBCOMP", 9)


def test_connack_has_no_session_flag(join: Join, cid: str) -> None:
    join(3, cid, clean=False).disconnect()
    again = join(3, cid, clean=False)
    assert again.connack is not None
    assert not again.connack.session_present
