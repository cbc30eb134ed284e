"""SCRAM-SHA-256 and -512 as MQTT 5's enhanced authentication, with `scramp` as the client's side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramException

from fastmq.auth import hashes, password_file
from fastmq.auth.scram import methods
from fastmq.auth.scram_keys import Keys, ScramError, parse, prepared, shown
from fastmq.auth.text_file import TextFile
from fastmq.auth.work import Work
from fastmq.contracts import Credentials
from fastmq.reasons import Reason
from tests.brokerproc import BrokerProcess, running_broker
from tests.wireclient import Auth, Client, Connack, Disconnect, encode
from tests.wireclient import properties as p

METHODS = ["SCRAM-SHA-256", "SCRAM-SHA-512"]
CONTINUE, AGAIN, SUCCESS, NOT_AUTHORIZED, BAD_METHOD = 0x18, 0x19, 0x00, 0x87, 0x8C
SHOWN = Credentials(client_id="c1", username=None, password=None, peer="1.2.3.4:5", version=5)


def test_the_example_of_rfc_7677() -> None:
    """Section 3: user `user`, password `pencil`."""
    import base64
    import hmac

    keys = Keys.made("pencil", "sha256", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    assert (
        base64.b64encode(hmac.digest(keys.server, message, "sha256")) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )
    assert parse(shown(keys)) == keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")],
)
def test_sasl_prep(text: str, expected: str) -> None:
    assert prepared(text) == expected  # RFC 4013, section 3


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "", "\u00ad", "\ud800", "\ue000", "\u200e"])
def test_what_sasl_prep_forbids(text: str) -> None:
    with pytest.raises(ScramError):
        prepared(text)


BAD_HASHES = [
    "$scram-sha-256$",
    "$scram-sha-256$4096$AA==$AA==$AA==",
    "$scram-sha-256$1$AA==$x$y",
    "$scram-sha-256$x$A$A$A",
]


@pytest.mark.parametrize("hash", BAD_HASHES)
def test_wrong_hashes_are_told(hash: str) -> None:
    with pytest.raises(hashes.BadHash):
        hashes.check(hash)


@pytest.mark.parametrize("kind", ["scram-sha-256", "scram-sha-512"])
def test_a_hash_serves_plain_passwords_too(kind: str) -> None:
    made = hashes.make("pässword".encode(), kind)
    assert hashes.verify(made, "pässword".encode())
    assert not hashes.verify(made, b"password")
    assert not hashes.verify(made, b"\xff")
    assert not hashes.verify(hashes.nobodys(made), b"password")


# -- one exchange ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scram") / "users"
    lines = [
        ("ada", hashes.make(b"pencil", "scram-sha-256")), ("bob", hashes.make(b"pencil", "scram-sha-512")),
        ("a=b,c", hashes.make(b"pencil", "scram-sha-256")), ("old", hashes.make(b"pencil", "sha512")),
    ]  # fmt: skip
    path.write_text("".join(f"{name}:{hash}\n" for name, hash in lines))
    return path


def talk(users: Path, method: str, *messages: bytes | None) -> tuple[Reason, bytes | None]:
    """The last answer to these messages of a client."""

    async def story() -> tuple[Reason, bytes | None]:
        with contextlib.closing(Work(1)) as work:
            made = {each.method: each for each in methods(TextFile(users, password_file.read, work))}
            exchange = made[method].begin(SHOWN)
            answer: tuple[Reason, bytes | None] = (Reason.NOT_AUTHORIZED, None)
            for message in messages:
                answer = await exchange.step(message)
            return answer

    return asyncio.run(story())


BAD_FIRST = [
    None, b"", b"n", b"n,", b"n,,", b"n,,n=ada", b"n,,n=ada,", b"n,,n=ada,r=", b"n,,n=ada,r=abc",
    b"n,,r=abcdefghij,n=ada",
    b"y,a=bob,n=ada,r=abcdefghij", b"n,a=ada,n=ada,r=abcdefghij", b"p=tls-unique,,n=ada,r=abcdefghij",
    b"x,,n=ada,r=abcdefghij", b"n,,m=1,n=ada,r=abcdefghij", b"n,,n=,r=abcdefghij", b"n,,n=a=b,r=abcdefghij",
    b"n,,n=a=2c,r=abcdefghij", b"n,,n=\xff,r=abcdefghij", b"n,,n=\x07,r=abcdefghij", b"n,,n=ada,r=" + b"x" * 5000,
    b"\xff\xfe", b",,,,", b"n,,N=ada,R=abcdefghij",
]  # fmt: skip


@pytest.mark.parametrize("message", BAD_FIRST, ids=range(len(BAD_FIRST)))
def test_first_messages_that_are_none(users: Path, message: bytes | None) -> None:
    assert talk(users, METHODS[0], message) == (Reason.NOT_AUTHORIZED, None)


BAD_FINAL = [
    None, b"", b"c=biws", b"c=biws,r=x,p=AAAA", b"c=biws,r={nonce}", b"c=biws,r={nonce},p=", b"c=biws,r={nonce},p=AAAA",
    b"c=biws,r={nonce},p=!!!!", b"c=eSws,r={nonce},p=AAAA", b"r={nonce},c=biws,p=AAAA", b"c=biws,r={nonce},x=1,p=AAAA",
    b"c=biws,r={nonce},p=" + b"A" * 43 + b"=", b"\xff", b"c=biws,r={nonce},p=" + b"A" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("final", BAD_FINAL, ids=range(len(BAD_FINAL)))
@pytest.mark.parametrize("name", [b"ada", b"nobody", b"bob", b"old"])
def test_final_messages_that_prove_nothing(users: Path, name: bytes, final: bytes | None) -> None:
    async def story() -> Reason:
        with contextlib.closing(Work(1)) as work:
            exchange = methods(TextFile(users, password_file.read, work))[0].begin(SHOWN)
            reason, data = await exchange.step(b"n,,n=" + name + b",r=abcdefghij")
            assert (reason, data is not None) == (Reason.CONTINUE_AUTHENTICATION, True)
            nonce = (data or b"").split(b",")[0][2:]
            assert nonce.startswith(b"abcdefghij")
            reason, data = await exchange.step(final.replace(b"{nonce}", nonce) if final is not None else None)
            assert data is None
            return reason

    assert asyncio.run(story()) == Reason.NOT_AUTHORIZED


@given(st.binary(max_size=60), st.sampled_from([b"", b"n,,", b"n,,n=ada,r="]))
def test_any_bytes_are_a_message_or_refused(rest: bytes, start: bytes) -> None:
    from fastmq.auth.scram import Scram, ScramExchange

    class Nobody(Scram):
        def __init__(self) -> None:
            self.method = METHODS[0]

        async def keys(self, username: str) -> tuple[Keys, bool]:
            return Keys("sha256", 4096, b"salt", b"", b""), False

    reason, _ = asyncio.run(ScramExchange(Nobody()).step(start + rest))
    assert reason in (Reason.CONTINUE_AUTHENTICATION, Reason.NOT_AUTHORIZED)


def test_who_does_not_exist_has_the_same_salt_each_time(users: Path) -> None:
    async def story() -> list[bytes]:
        with contextlib.closing(Work(1)) as work:
            method = methods(TextFile(users, password_file.read, work))[0]
            found = []
            for name in (b"eve", b"eve", b"mallory"):
                _, data = await method.begin(SHOWN).step(b"n,,n=" + name + b",r=abcdefghij")
                found.append((data or b"").split(b",")[1])
            return found

    first, again, other = asyncio.run(story())
    assert first == again != other


# -- a broker ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(users: Path) -> Iterator[BrokerProcess]:
    rules = json.dumps([{"permission": "allow", "topics": ["of/${username}"]}])
    with running_broker({"auth.scram_file": str(users), "auth.allow_anonymous": False, "acl.rules": rules}) as found:
        yield found


class Session:
    """A client that authenticates."""

    def __init__(self, broker: BrokerProcess, stack: ExitStack) -> None:
        self.client = Client((broker.host, broker.port))
        stack.callback(self.client.close)

    def connects(self, method: str, username: str, password: str) -> int:
        """The CONNACK's reason; the server's proof is checked."""
        side = ScramClient([method], username, password)
        first = side.get_client_first()
        props = [(p.AUTH_METHOD, method), (p.AUTH_DATA, first.encode())]
        self.client.send(encode.connect(5, client_id="c1", props=props))
        return self._goes_on(side, method)

    def proves_again(self, method: str, username: str, password: str) -> int:
        side = ScramClient([method], username, password)
        props = [(p.AUTH_METHOD, method), (p.AUTH_DATA, side.get_client_first().encode())]
        self.client.send(encode.auth(AGAIN, props))
        return self._goes_on(side, method)

    def _goes_on(self, side: ScramClient, method: str) -> int:
        challenge = self.client.recv()
        if not isinstance(challenge, Auth):
            assert isinstance(challenge, Connack)
            return challenge.code
        side.set_server_first(_data(challenge))
        props = [(p.AUTH_METHOD, method), (p.AUTH_DATA, side.get_client_final().encode())]
        self.client.send(encode.auth(CONTINUE, props))
        last = self.client.recv()
        assert isinstance(last, Connack | Auth | Disconnect)
        if last.code == SUCCESS:
            assert isinstance(last, Connack | Auth)
            side.set_server_final(_data(last))
        return last.code


def _data(packet: Connack | Auth) -> str:
    found = dict(packet.props)[p.AUTH_DATA]
    assert isinstance(found, bytes)
    return found.decode()


@pytest.mark.parametrize(
    ("method", "username", "password", "code"),
    [
        ("SCRAM-SHA-256", "ada", "pencil", SUCCESS),
        ("SCRAM-SHA-256", "a=b,c", "pencil", SUCCESS),
        ("SCRAM-SHA-512", "bob", "pencil", SUCCESS),
        ("SCRAM-SHA-256", "ada", "pencils", NOT_AUTHORIZED),
        ("SCRAM-SHA-512", "ada", "pencil", NOT_AUTHORIZED),  # its hash is the other one
        ("SCRAM-SHA-256", "nobody", "pencil", NOT_AUTHORIZED),
        ("SCRAM-SHA-256", "old", "pencil", NOT_AUTHORIZED),
        ("SCRAM-SHA-1", "ada", "pencil", BAD_METHOD),
    ],
)
def test_clients_of_scramp(broker: BrokerProcess, method: str, username: str, password: str, code: int) -> None:
    with ExitStack() as stack:
        session = Session(broker, stack)
        assert session.connects(method, username, password) == code
        if code == SUCCESS:
            assert session.client.publish(f"of/{username}", qos=1) == 0x10
            assert session.client.publish("of/eve", qos=1) == NOT_AUTHORIZED
    assert "pencil" not in broker.log_text()


def test_who_is_connected_may_prove_again_who_it_is(broker: BrokerProcess) -> None:
    with ExitStack() as stack:
        session = Session(broker, stack)
        assert session.connects("SCRAM-SHA-256", "ada", "pencil") == SUCCESS
        assert session.proves_again("SCRAM-SHA-256", "ada", "pencil") == SUCCESS
        session.client.ping()
        with contextlib.suppress(ScramException, KeyError):  # it is another user, though a right one
            assert session.proves_again("SCRAM-SHA-256", "a=b,c", "pencil") == NOT_AUTHORIZED
        session.client.expect_closed()


def test_passwd_makes_such_hashes(tmp_path: Path) -> None:
    path = tmp_path / "users"
    command = [sys.executable, "-m", "fastmq", "passwd", "-c", "-b", "-H", "scram-sha-256", str(path), "ada", "pencil"]
    assert subprocess.run(command, timeout=60).returncode == 0
    keys = parse(password_file.read(path)["ada"])
    assert Keys.made("pencil", "sha256", keys.salt, 4096) == keys
