"""Enhanced authentication: AUTH to and fro, before CONNACK and after."""

from __future__ import annotations

import pytest

from tests.spec.brokers import Address
from tests.spec.conftest import Dial, Join
from tests.spec.normative import normative
from tests.wireclient import Auth, Client, Connack, Disconnect, Publish, encode
from tests.wireclient import properties as p

SUCCESS, CONTINUE, AGAIN, NOT_AUTHORIZED, PROTOCOL_ERROR = 0x00, 0x18, 0x19, 0x87, 0x82
METHOD = (p.AUTH_METHOD, "CHALLENGE")


def begin(client: Client, client_id: str, data: bytes = b"hello") -> Auth:
    """CONNECT with the method; the server's first question."""
    props: list[tuple[int, p.PropertyValue]] = [METHOD, (p.AUTH_DATA, data), (p.MAXIMUM_PACKET_SIZE, 100)]
    client.send(encode.connect(client_id=client_id, props=props))
    question = client.expect(Auth)
    assert client.last_size <= 100
    return question


def answer(client: Client, data: bytes = b"me", code: int = CONTINUE, method: str = "CHALLENGE") -> None:
    client.send(encode.auth(code, [(p.AUTH_METHOD, method), (p.AUTH_DATA, data)]))


@pytest.fixture
def known(dial: Dial, challenging: Address, cid: str) -> Client:
    """A client that has authenticated."""
    client = dial(at=challenging)
    begin(client, cid)
    answer(client)
    assert client.expect(Connack).code == SUCCESS
    return client


@normative(
    "MQTT-4.12.0-2", "MQTT-4.12.0-3", "MQTT-4.12.0-5", "MQTT-3.15.2-1", "MQTT-3.15.2-2", "MQTT-3.15.2-3", "MQTT-3.2.0-1"
)
def test_the_exchange_comes_before_connack(dial: Dial, challenging: Address, cid: str) -> None:
    client = dial(at=challenging)
    question = begin(client, cid)
    assert (question.code, question.value(p.AUTH_METHOD), question.value(p.AUTH_DATA)) == (
        CONTINUE,
        "CHALLENGE",
        b"who?",
    )
    answer(client)
    connack = client.expect(Connack)
    assert (connack.code, connack.value(p.AUTH_METHOD), connack.value(p.AUTH_DATA)) == (
        SUCCESS,
        "CHALLENGE",
        b"welcome",
    )
    client.ping()


@normative("MQTT-4.12.0-2", "MQTT-4.12.0-3")
def test_there_may_be_several_questions(dial: Dial, challenging: Address, cid: str) -> None:
    client = dial(at=challenging)
    assert begin(client, cid, b"slow").value(p.AUTH_DATA) == b"who?"
    answer(client)
    assert client.expect(Auth).value(p.AUTH_DATA) == b"really?"
    answer(client)
    assert client.expect(Connack).code == SUCCESS


@normative("MQTT-4.12.0-4", "MQTT-4.13.2-1")
def test_a_wrong_answer_is_refused(dial: Dial, challenging: Address, cid: str) -> None:
    client = dial(at=challenging)
    begin(client, cid)
    answer(client, b"somebody else")
    assert client.expect(Connack).code == NOT_AUTHORIZED
    client.expect_closed()


@normative("MQTT-4.12.0-5", "MQTT-4.12.0-4")
@pytest.mark.parametrize("method", ["challenge", "OTHER", ""])
def test_another_method_within_the_exchange_is_an_error(
    dial: Dial, challenging: Address, cid: str, method: str
) -> None:
    client = dial(at=challenging)
    begin(client, cid)
    answer(client, method=method)
    client.expect_refused(PROTOCOL_ERROR, 0x8C, silence_allowed=True)


@normative("MQTT-3.1.2-30", "MQTT-3.2.0-1")
@pytest.mark.parametrize(
    "wire",
    [encode.PINGREQ, encode.publish(5, "t", b"x"), encode.subscribe(5, 1, [("t", 0)])],
    ids=["PINGREQ", "PUBLISH", "SUBSCRIBE"],
)
def test_other_packets_before_connack_are_an_error(dial: Dial, challenging: Address, cid: str, wire: bytes) -> None:
    client = dial(at=challenging)
    begin(client, cid)
    client.send(wire)
    client.expect_refused(PROTOCOL_ERROR, silence_allowed=True)


@normative("MQTT-3.1.2-30")
def test_a_client_may_leave_before_connack(dial: Dial, challenging: Address, cid: str) -> None:
    client = dial(at=challenging)
    begin(client, cid)
    client.send(encode.disconnect())
    client.expect_closed()


@normative("MQTT-4.12.1-1", "MQTT-4.12.0-5", "MQTT-3.15.2-1")
def test_re_authentication(known: Client) -> None:
    answer(known, b"hello", AGAIN)
    question = known.expect(Auth)
    assert (question.code, question.value(p.AUTH_METHOD)) == (CONTINUE, "CHALLENGE")
    answer(known)
    done = known.expect(Auth)
    assert (done.code, done.value(p.AUTH_METHOD), done.value(p.AUTH_DATA)) == (SUCCESS, "CHALLENGE", b"welcome")
    known.ping()
    answer(known, b"hello", AGAIN)
    assert known.expect(Auth).code == CONTINUE


@normative("MQTT-4.12.1-1")
def test_messages_flow_during_re_authentication(known: Client, topic: str) -> None:
    known.subscribe((topic, 1))
    answer(known, b"hello", AGAIN)
    known.expect(Auth)
    known.send(encode.publish(5, topic, b"meanwhile", qos=1, packet_id=7))
    assert known.wait_for(Publish).payload == b"meanwhile"


@normative("MQTT-4.12.1-2", "MQTT-4.13.2-1")
def test_a_failed_re_authentication_ends_the_connection(known: Client) -> None:
    answer(known, b"hello", AGAIN)
    known.expect(Auth)
    answer(known, b"somebody else")
    known.expect_disconnect(NOT_AUTHORIZED)


@normative("MQTT-4.12.1-1")
def test_re_authentication_with_another_method_is_an_error(known: Client) -> None:
    answer(known, b"hello", AGAIN, method="OTHER")
    known.expect_disconnect(PROTOCOL_ERROR)


@normative("MQTT-3.15.2-1")
def test_an_answer_to_no_question_is_an_error(known: Client) -> None:
    answer(known, b"me", CONTINUE)
    known.expect_disconnect(PROTOCOL_ERROR)


@normative("MQTT-3.15.2-1", "MQTT-4.13.1-1")
@pytest.mark.parametrize(
    ("wire", "codes"),
    [
        (encode.auth(SUCCESS, [METHOD]), (PROTOCOL_ERROR,)),
        (encode.auth(0x42, [METHOD]), (PROTOCOL_ERROR, 0x81)),
        (encode.auth(AGAIN, [METHOD, METHOD]), (PROTOCOL_ERROR,)),
        (encode.auth(AGAIN, [METHOD, (p.SESSION_EXPIRY, 1)]), (0x81,)),
        (encode.auth(AGAIN, [(p.AUTH_DATA, b"x")]), (PROTOCOL_ERROR,)),
        (encode.auth(AGAIN), (PROTOCOL_ERROR,)),
        (encode.auth(AGAIN, b"\x15\x00\x01\xff"), (0x81,)),
    ],
    ids=["success", "no such reason", "method twice", "foreign property", "no method", "nothing", "no UTF-8"],
)
def test_wrong_auth_packets(known: Client, wire: bytes, codes: tuple[int, ...]) -> None:
    known.send(wire)
    known.expect_disconnect(*codes)


def test_who_names_no_method_is_not_asked(join: Join, challenging: Address) -> None:
    client = join(at=challenging)
    client.send(encode.auth(AGAIN, [METHOD]))
    assert client.expect(Disconnect).code == PROTOCOL_ERROR
