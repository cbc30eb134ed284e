"""Enhanced authentication with a method that proves something: a shared secret, by HMAC over the server's challenge."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator

import pytest

from fastmq.client import Client as OurClient
from fastmq.client import ConnectRefused
from fastmq.contracts import Credentials
from fastmq.packets import Auth as AuthPacket
from fastmq.packets import Properties
from fastmq.reasons import Reason
from fastmq.testing import BackgroundBroker
from tests.wireclient import Auth, Client, Connack, Will, encode
from tests.wireclient import properties as p

SECRETS = {b"alice": b"alice's secret", b"bob": b"bob's secret"}
METHOD = "HMAC-SHA-256"
SUCCESS, CONTINUE, AGAIN = 0x00, 0x18, 0x19
PROTOCOL_ERROR, NOT_AUTHORIZED, UNAVAILABLE, BAD_METHOD = 0x82, 0x87, 0x88, 0x8C


def proof(secret: bytes, *parts: bytes) -> bytes:
    return hmac.new(secret, b"\0".join(parts), hashlib.sha256).digest()


class HmacExchange:
    """name -> challenge -> proof of the client -> proof of the server; b"raise" and b"slow" are for the tests."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._name = b""
        self._challenge = b""

    async def step(self, data: bytes | None) -> tuple[Reason, bytes | None]:
        if data == b"raise":
            raise RuntimeError("the table of secrets is gone")
        if data == b"slow":
            await asyncio.sleep(0.2)
            return Reason.SUCCESS, None
        if not self._challenge:
            self._name = data or b""
            self._challenge = secrets.token_bytes(16)
            return Reason.CONTINUE_AUTHENTICATION, self._challenge
        secret = SECRETS.get(self._name, b"nobody has this one")
        right = proof(secret, b"client", self._challenge)
        if self._name not in SECRETS or not hmac.compare_digest(right, data or b""):
            return Reason.NOT_AUTHORIZED, None
        return Reason.SUCCESS, proof(secret, b"server", self._challenge)


class HmacMethod:
    method = METHOD

    def __init__(self) -> None:
        self.begun: list[Credentials] = []

    def begin(self, credentials: Credentials) -> HmacExchange:
        self.begun.append(credentials)
        return HmacExchange(credentials)


class AtOnce:
    """A method of one step: the server has no question."""

    method = "TICKET"

    def begin(self, credentials: Credentials) -> AtOnce:
        return self

    async def step(self, data: bytes | None) -> tuple[Reason, bytes | None]:
        return (Reason.SUCCESS, b"welcome") if data == b"valid" else (Reason.BANNED, None)


@pytest.fixture
def method() -> HmacMethod:
    return HmacMethod()


@pytest.fixture
def broker(method: HmacMethod) -> Iterator[BackgroundBroker]:
    with BackgroundBroker(enhanced=[method, AtOnce()]) as broker:
        yield broker


Dial = Callable[[], Client]


@pytest.fixture
def dial(broker: BackgroundBroker) -> Iterator[Dial]:
    clients: list[Client] = []

    def dial() -> Client:
        clients.append(Client((broker.host, broker.port)))
        return clients[-1]

    yield dial
    for client in clients:
        client.close()


def hello(client: Client, name: bytes | None, *, method: str = METHOD, **connect: object) -> None:
    data: list[tuple[int, p.PropertyValue]] = [(p.AUTH_METHOD, method)]
    if name is not None:
        data.append((p.AUTH_DATA, name))
    client.send(encode.connect(props=data, **connect))  # type: ignore[arg-type]


def auth(data: bytes, code: int = CONTINUE, method: str = METHOD) -> bytes:
    return encode.auth(code, [(p.AUTH_METHOD, method), (p.AUTH_DATA, data)])


def challenge_in(question: Auth) -> bytes:
    assert (question.code, question.value(p.AUTH_METHOD)) == (CONTINUE, METHOD)
    challenge = question.value(p.AUTH_DATA)
    assert isinstance(challenge, bytes)
    return challenge


def log_in(client: Client, name: bytes = b"alice", client_id: str = "c") -> Connack:
    hello(client, name, client_id=client_id)
    challenge = challenge_in(client.expect(Auth))
    client.send(auth(proof(SECRETS[name], b"client", challenge)))
    connack = client.expect(Connack)
    assert connack.value(p.AUTH_DATA) == proof(SECRETS[name], b"server", challenge)
    return connack


# -- before CONNACK ----------------------------------------------------------------------------------------------------


def test_who_proves_the_secret_is_let_in_and_told_a_proof(dial: Dial, method: HmacMethod) -> None:
    client = dial()
    connack = log_in(client)
    assert (connack.code, connack.session_present, connack.value(p.AUTH_METHOD)) == (SUCCESS, False, METHOD)
    client.subscribe("a")
    client.publish("a", b"x", qos=1)
    assert client.receive().payload == b"x"
    assert (method.begun[0].client_id, method.begun[0].version) == ("c", 5)
    assert method.begun[0].peer.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    "answer",
    [
        lambda challenge: proof(SECRETS[b"bob"], b"client", challenge),
        lambda challenge: proof(SECRETS[b"alice"], b"server", challenge),
        lambda challenge: challenge,
        lambda challenge: b"",
    ],
    ids=["another's secret", "the server's proof", "the challenge", "nothing"],
)
def test_who_does_not_is_refused(dial: Dial, broker: BackgroundBroker, answer: Callable[[bytes], bytes]) -> None:
    client = dial()
    hello(client, b"alice", client_id="c", will=Will("will"))
    wills = broker.messages("will")
    client.send(auth(answer(challenge_in(client.expect(Auth)))))
    assert client.expect(Connack).code == NOT_AUTHORIZED
    client.expect_closed()
    assert broker.clients() == []
    assert wills.all() == []


def test_who_is_unknown_is_asked_all_the_same(dial: Dial) -> None:
    client = dial()
    hello(client, b"mallory")
    client.send(auth(proof(b"guess", b"client", challenge_in(client.expect(Auth)))))
    assert client.expect(Connack).code == NOT_AUTHORIZED


def test_every_connection_gets_a_challenge_of_its_own(dial: Dial) -> None:
    first, second = dial(), dial()
    hello(first, b"alice")
    hello(second, b"bob")
    challenges = [challenge_in(client.expect(Auth)) for client in (first, second)]
    assert challenges[0] != challenges[1]
    second.send(auth(proof(SECRETS[b"bob"], b"client", challenges[1])))
    assert second.expect(Connack).code == SUCCESS
    first.send(auth(proof(SECRETS[b"alice"], b"client", challenges[0])))
    assert first.expect(Connack).code == SUCCESS


def test_an_old_proof_is_worth_nothing(dial: Dial) -> None:
    client = dial()
    hello(client, b"alice")
    old = proof(SECRETS[b"alice"], b"client", challenge_in(client.expect(Auth)))
    client.close()
    client = dial()
    hello(client, b"alice")
    client.expect(Auth)
    client.send(auth(old))
    assert client.expect(Connack).code == NOT_AUTHORIZED


def test_the_client_id_is_held_only_by_who_is_let_in(dial: Dial) -> None:
    alice, mallory = dial(), dial()
    log_in(alice, client_id="c")
    hello(mallory, b"mallory", client_id="c")
    mallory.expect(Auth)
    mallory.send(auth(b"guess"))
    assert mallory.expect(Connack).code == NOT_AUTHORIZED
    alice.ping()


@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "hmac-sha-256", "HMAC-SHA-256 ", ""])
def test_a_method_that_is_not_offered_is_refused(dial: Dial, method: HmacMethod, name: str) -> None:
    client = dial()
    hello(client, b"alice", method=name)
    assert client.expect(Connack).code == BAD_METHOD
    client.expect_closed()
    assert method.begun == []


def test_several_methods_are_offered(dial: Dial) -> None:
    client = dial()
    hello(client, b"valid", method="TICKET")
    connack = client.expect(Connack)
    assert (connack.code, connack.value(p.AUTH_METHOD), connack.value(p.AUTH_DATA)) == (SUCCESS, "TICKET", b"welcome")
    client = dial()
    hello(client, b"forged", method="TICKET")
    assert client.expect(Connack).code == Reason.BANNED
    client.expect_closed()


def test_data_may_be_absent(dial: Dial) -> None:
    client = dial()
    hello(client, None)
    challenge_in(client.expect(Auth))
    client.send(encode.auth(CONTINUE, [(p.AUTH_METHOD, METHOD)]))
    assert client.expect(Connack).code == NOT_AUTHORIZED


def test_a_method_that_fails_refuses(dial: Dial) -> None:
    client = dial()
    hello(client, b"raise")
    assert client.expect(Connack).code == UNAVAILABLE
    client.expect_closed()
    client = dial()
    hello(client, b"alice")
    client.expect(Auth)
    client.send(auth(b"raise"))
    assert client.expect(Connack).code == UNAVAILABLE
    log_in(dial())


def test_who_leaves_in_the_middle_is_forgotten(dial: Dial, broker: BackgroundBroker) -> None:
    for _ in range(20):
        client = dial()
        hello(client, b"alice", client_id="c")
        client.expect(Auth)
        client.drop()
    assert broker.stats()["connections"] == 0
    assert broker.clients() == []
    log_in(dial())


def test_who_never_answers_is_cut(dial: Dial, broker: BackgroundBroker) -> None:
    client = dial()
    hello(client, b"alice")
    client.expect(Auth)
    broker.advance(16)
    with pytest.raises(AssertionError):
        client.ping()
    assert broker.stats()["connections"] == 0


def test_a_slow_method_keeps_nobody_else_waiting(dial: Dial) -> None:
    slow = dial()
    hello(slow, b"slow")
    log_in(dial())
    assert slow.waiting() == 0
    assert slow.expect(Connack).code == SUCCESS


# -- and after ---------------------------------------------------------------------------------------------------------


def test_a_client_proves_itself_again(dial: Dial, method: HmacMethod) -> None:
    client = dial()
    log_in(client)
    for _ in range(3):
        client.send(auth(b"alice", AGAIN))
        challenge = challenge_in(client.expect(Auth))
        client.send(auth(proof(SECRETS[b"alice"], b"client", challenge)))
        done = client.expect(Auth)
        assert (done.code, done.value(p.AUTH_METHOD)) == (SUCCESS, METHOD)
        assert done.value(p.AUTH_DATA) == proof(SECRETS[b"alice"], b"server", challenge)
    client.ping()
    assert len(method.begun) == 4
    assert {each.client_id for each in method.begun} == {"c"}


def test_who_fails_to_is_cut_and_leaves_the_will(dial: Dial, broker: BackgroundBroker) -> None:
    wills = broker.messages("will")
    client = dial()
    hello(client, b"alice", client_id="c", will=Will("will", b"gone"))
    client.send(auth(proof(SECRETS[b"alice"], b"client", challenge_in(client.expect(Auth)))))
    client.expect(Connack)
    client.send(auth(b"alice", AGAIN))
    client.expect(Auth)
    client.send(auth(b"wrong"))
    client.expect_disconnect(NOT_AUTHORIZED)
    assert wills.wait()[0].payload == b"gone"


def test_a_method_that_fails_then_cuts(dial: Dial) -> None:
    client = dial()
    log_in(client)
    client.send(auth(b"raise", AGAIN))
    client.expect_disconnect(NOT_AUTHORIZED)


def test_two_re_authentications_at_a_time_are_an_error(dial: Dial) -> None:
    client = dial()
    log_in(client)
    client.send(auth(b"alice", AGAIN))
    client.expect(Auth)
    client.send(auth(b"alice", AGAIN))
    client.expect_disconnect(PROTOCOL_ERROR)


def test_the_method_may_not_change(dial: Dial) -> None:
    client = dial()
    log_in(client)
    client.send(auth(b"valid", AGAIN, "TICKET"))
    client.expect_disconnect(PROTOCOL_ERROR)


def test_messages_flow_while_a_client_proves_itself(dial: Dial, broker: BackgroundBroker) -> None:
    client = dial()
    log_in(client)
    client.subscribe(("a", 1))
    client.send(auth(b"slow", AGAIN))
    broker.publish("a", b"meanwhile", 1)
    assert client.receive().payload == b"meanwhile"
    assert client.expect(Auth).code == SUCCESS


def test_who_comes_back_proves_itself_anew(dial: Dial) -> None:
    first = dial()
    log_in(first)
    second = dial()
    assert log_in(second).code == SUCCESS
    first.expect_disconnect(Reason.SESSION_TAKEN_OVER)
    second.send(auth(b"alice", AGAIN))
    challenge_in(second.expect(Auth))


# -- with the client of the house --------------------------------------------------------------------------------------


def test_fastmqs_own_client_authenticates(broker: BackgroundBroker) -> None:
    def answer(secret: bytes) -> Callable[[AuthPacket], AuthPacket]:
        def answer(question: AuthPacket) -> AuthPacket:
            data = proof(secret, b"client", question.properties.authentication_data or b"")
            return AuthPacket(CONTINUE, Properties(authentication_method=METHOD, authentication_data=data))

        return answer

    async def main() -> None:
        offer = Properties(authentication_method=METHOD, authentication_data=b"alice")
        known = OurClient(broker.host, broker.port, properties=offer, authenticate=answer(SECRETS[b"alice"]))
        async with known as client:
            await client.publish("a", b"x", qos=1)
        stranger = OurClient(broker.host, broker.port, properties=offer, authenticate=answer(b"guess"))
        with pytest.raises(ConnectRefused) as told:
            await stranger.connect()
        assert told.value.reason == NOT_AUTHORIZED

    asyncio.run(main())
