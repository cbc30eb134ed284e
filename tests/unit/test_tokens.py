"""JSON Web Tokens: which are taken, which are not, and what they say of their client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import JWKRegistry, OctKey

from fastmq.auth.tokens import Tokens
from fastmq.auth.work import Work
from fastmq.config.auth import Jwt
from fastmq.config.secret import Secret
from fastmq.contracts import AccessRule, Authentication, Credentials
from fastmq.reasons import Reason
from tests.brokerproc import await_condition, running_broker
from tests.httpservice import http_service
from tests.wireclient import Client

NOW = 1_800_000_000.0
SECRET = "correct horse battery staple, and then some more"


class Key:
    """A pair of keys, and its algorithm."""

    def __init__(self, algorithm: str, private: Any) -> None:
        self.algorithm = algorithm
        self.pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.public_pem = (
            private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )
        kind = {"R": "RSA", "P": "RSA", "E": "EC"}[algorithm[0]] if algorithm != "EdDSA" else "OKP"
        self.jwk = JWKRegistry.import_key(self.pem, kind)

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        return jwt.encode({"alg": self.algorithm, **header}, claims, self.jwk, algorithms=[self.algorithm])


RSA = rsa.generate_private_key(65537, 2048)
KEYS = [
    *(Key(name, RSA) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    Key("ES256", ec.generate_private_key(ec.SECP256R1())),
    Key("ES384", ec.generate_private_key(ec.SECP384R1())),
    Key("ES512", ec.generate_private_key(ec.SECP521R1())),
    Key("EdDSA", ed25519.Ed25519PrivateKey.generate()),
]
pytestmark = pytest.mark.filterwarnings("ignore:.*EdDSA is deprecated")


def shared(claims: object, secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode({"alg": algorithm}, claims, OctKey.import_key(secret), algorithms=[algorithm])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    made = Work(1)
    yield made
    made.close()


def ask(work: Work, token: str | bytes | None, username: str | None = "ada", **given: Any) -> Authentication | None:
    if not {"secret", "public_key", "jwks_url"} & given.keys():
        given = {"secret": Secret(SECRET), "algorithms": ("HS256",), **given}
    step = Tokens(Jwt(**given), work, lambda: NOW)
    password = token.encode() if isinstance(token, str) else token
    shown = Credentials(client_id="c1", username=username, password=password, peer="1.2.3.4:5", version=5)
    return asyncio.run(step.authenticate(shown))


def answer(work: Work, token: str | bytes, **given: Any) -> Authentication:
    found = ask(work, token, **given)
    assert found is not None
    return found


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_every_algorithm(work: Work, tmp_path: Path, key: Key) -> None:
    path = tmp_path / "key.pem"
    path.write_text(key.public_pem)
    good = key.sign({"exp": NOW + 10})
    given = {"public_key": str(path), "algorithms": (key.algorithm,)}
    assert answer(work, good, **given).reason == Reason.SUCCESS
    assert answer(work, good[:-8] + "AAAAAAA" + good[-1], **given).reason == Reason.BAD_USER_NAME_OR_PASSWORD
    others = tuple(
        each.algorithm for each in KEYS if each.algorithm != key.algorithm and each.algorithm[0] == key.algorithm[0]
    )
    if others and key.algorithm != "EdDSA" and key.algorithm[0] != "E":
        assert answer(work, good, public_key=str(path), algorithms=others).reason != Reason.SUCCESS


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_shared_secrets(work: Work, algorithm: str) -> None:
    token = shared({"exp": NOW + 10}, algorithm=algorithm)
    assert answer(work, token, secret=Secret(SECRET), algorithms=(algorithm,)).reason == Reason.SUCCESS
    assert answer(work, token, secret=Secret("x" * 40), algorithms=(algorithm,)).reason != Reason.SUCCESS


def test_a_public_key_is_no_shared_secret(work: Work, tmp_path: Path) -> None:
    """The old trick: a token signed with HS256, and with the public key as its secret."""
    path = tmp_path / "key.pem"
    path.write_text(KEYS[0].public_pem)
    part = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in
            ({"alg": "HS256"}, {"exp": NOW + 10})]  # fmt: skip
    import hashlib
    import hmac

    signature = hmac.digest(KEYS[0].public_pem.encode(), b".".join(part), hashlib.sha256)
    token = b".".join([*part, base64.urlsafe_b64encode(signature).rstrip(b"=")])
    assert answer(work, token, public_key=str(path)).reason != Reason.SUCCESS


def encoded(header: object, claims: object, signature: bytes = b"") -> str:
    parts = [json.dumps(each).encode() if not isinstance(each, bytes) else each for each in (header, claims)]
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in (*parts, signature))


FORGED = [
    encoded({"alg": "none"}, {"exp": NOW + 10}), encoded({"alg": "None"}, {"exp": NOW + 10}),
    encoded({"alg": "HS256"}, {"exp": NOW + 10}), encoded({"alg": "HS256"}, {"exp": NOW + 10}, b"\0" * 32),
    encoded({"alg": ["HS256"]}, {}), encoded({"alg": None}, {}), encoded({"alg": 256}, {}), encoded({}, {}),
    encoded([], {}), encoded("x", {}), encoded(None, {}), encoded(b"\xff\xfe", {}), encoded(b"", {}), encoded(b"{", {}),
    encoded({"alg": "HS256", "crit": ["exp"]}, {}), encoded({"alg": "HS256", "jwk": {"kty": "oct", "k": ""}}, {}),
    encoded({"alg": "HS256", "jku": "http://127.0.0.1:1/"}, {}), encoded({"alg": "RS256"}, {}, b"\0" * 256),
    encoded({"alg": "dir", "enc": "A128GCM"}, {}), encoded({"alg": "HS256", "b64": False, "crit": ["b64"]}, {}),
    encoded({"alg": "HS256", "kid": "../../etc/passwd"}, {}), encoded({"alg": "HS256", "kid": ["x"]}, {}),
    encoded({"alg": "HS256", "zip": "DEF"}, {}), "..", ".a.", "a..b", "a.b.", "=.=.=", " . . ", "\x7f.\x7f.\x7f",
    "e30.e30.", "e30.e30.e30", "!.!.!", "a" * 16_000 + "..", encoded({"alg": "HS512"}, {}, b"\0" * 64),
    encoded({"alg": "hs256"}, {}, b"\0" * 32), encoded({"alg": "HS256 "}, {}, b"\0" * 32),
]  # fmt: skip


@pytest.mark.parametrize("token", FORGED, ids=range(len(FORGED)))
def test_forged_tokens_are_refused(work: Work, token: str) -> None:
    assert answer(work, token).reason == Reason.BAD_USER_NAME_OR_PASSWORD


@pytest.mark.parametrize(
    "claims",
    [
        {}, {"exp": NOW}, {"exp": NOW - 1}, {"exp": "tomorrow"}, {"exp": None}, {"exp": True}, {"exp": -1},
        {"exp": 1e12}, {"exp": [NOW + 10]}, {"exp": NOW + 10, "nbf": NOW + 5}, {"exp": NOW + 10, "nbf": "x"},
        {"exp": NOW + 10, "acl": "everything"}, {"exp": NOW + 10, "acl": [1]},
        {"exp": NOW + 10, "acl": {"publish": []}},
        {"exp": NOW + 10, "acl": {"pub": "a"}}, {"exp": NOW + 10, "acl": {"pub": [1]}},
        {"exp": NOW + 10, "acl": {"pub": ["a/#/b"]}}, {"exp": NOW + 10, "acl": {"pub": ["${nobody}"]}},
        {"exp": NOW + 10, "acl": [{"permission": "perhaps", "topic": "a"}]},
        {"exp": NOW + 10, "acl": [{"permission": "allow"}]},
        {"exp": NOW + 10, "acl": [{"permission": "allow", "topic": "a", "action": "own"}]},
        {"exp": NOW + 10, "acl": [{"permission": "allow", "topic": "a", "qos": 3}]},
        {"exp": NOW + 10, "acl": [{"permission": "allow", "topic": "a", "qos": True}]},
        {"exp": NOW + 10, "acl": [{"permission": "allow", "topic": "a", "retain": "perhaps"}]},
    ],
)  # fmt: skip
def test_claims_that_are_not_enough(work: Work, claims: dict[str, Any]) -> None:
    assert answer(work, shared(claims)).reason == Reason.NOT_AUTHORIZED


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=100), st.text(st.characters(codec="ascii"), max_size=100))
def test_any_text_is_refused_or_no_token(one: str, two: str) -> None:
    made = Work(1)
    with contextlib.closing(made):
        found = ask(made, f"{one}.{two}")
        assert found is None or found.reason != Reason.SUCCESS


@pytest.mark.parametrize(
    ("claims", "given", "fits"),
    [
        ({"iss": "me"}, {"issuer": "me"}, True),
        ({"iss": "you"}, {"issuer": "me"}, False),
        ({}, {"issuer": "me"}, False),
        ({"aud": "mqtt"}, {"audience": "mqtt"}, True),
        ({"aud": ["web", "mqtt"]}, {"audience": "mqtt"}, True),
        ({"aud": ["web"]}, {"audience": "mqtt"}, False),
        ({}, {"audience": "mqtt"}, False),
        ({"sub": "ada"}, {"verify_claims": ("sub=${username}",)}, True),
        ({"sub": "eve"}, {"verify_claims": ("sub=${username}",)}, False),
        ({"sub": ["ada"]}, {"verify_claims": ("sub=${username}",)}, False),
        ({}, {"verify_claims": ("sub=${username}",)}, False),
        ({"n": 5}, {"verify_claims": ("n=5",)}, True),
        ({"n": True}, {"verify_claims": ("n=True",)}, False),
        ({"exp": NOW - 5}, {"leeway_s": 10.0}, True),
        ({"nbf": NOW + 5}, {"leeway_s": 10.0}, True),
        ({"name": ""}, {"username_from": "name"}, False),
        ({"name": "a\0"}, {"username_from": "name"}, False),
        ({"name": 5}, {"client_id_from": "name"}, False),
    ],
)
def test_claims(work: Work, claims: dict[str, Any], given: dict[str, Any], fits: bool) -> None:
    found = answer(work, shared({"exp": NOW + 10, **claims}), **given)
    assert (found.reason == Reason.SUCCESS) is fits, found


def test_what_a_token_says(work: Work) -> None:
    claims = {
        "exp": NOW + 60, "who": "ada", "device": "d7", "is_superuser": True,
        "acl": [
            {"permission": "allow", "action": "publish", "topic": "up/${clientid}", "qos": [0, 1], "retain": False},
            {"permission": "deny", "topics": ["#", "eq $SYS/#"]},
        ],
    }  # fmt: skip
    assert answer(work, shared(claims), username_from="who", client_id_from="device") == Authentication(
        client_id="d7", username="ada", superuser=True, expires_at=NOW + 60, why="its token",
        rules=(
            AccessRule(topic="up/${clientid}", action="publish", qos=(0, 1), retain=False),
            AccessRule(topic="#", allow=False), AccessRule(topic="eq $SYS/#", allow=False),
        ),
    )  # fmt: skip
    for roles, found in ((["a", "b"], ("a", "b")), ("a b", ("a", "b")), (None, ())):
        assert answer(work, shared({"exp": NOW + 60, "roles": roles}), groups_from="roles").groups == found
    for wrong in (5, [1], {"a": 1}):
        assert answer(work, shared({"exp": NOW + 60, "roles": wrong}), groups_from="roles").reason != Reason.SUCCESS
    forever = answer(work, shared({"acl": {"pub": ["a"], "sub": ["b"]}}), must_expire=False)
    assert forever.expires_at is None
    assert [rule.action for rule in forever.rules] == ["publish", "subscribe"]


def test_what_is_no_token_is_left_to_the_next_step(work: Work) -> None:
    for password in (None, b"", b"secret", b"a.b", b"a.b.c.d", b"\xff.\xff.\xff", b"a" * 20_000 + b".."):
        assert ask(work, password) is None
    assert ask(work, b"a.b.c", username=None, token_in="username") is None
    assert answer(work, b"x", username=shared({"exp": NOW + 10}), token_in="username").reason == Reason.SUCCESS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "is no public key"),
        (KEYS[0].pem, "is a private key"),
        (KEYS[6].public_pem, "is no public key for RS256"),
    ],
)
def test_keys_that_cannot_be_used(work: Work, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "key.pem"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        Tokens(Jwt(public_key=str(path), algorithms=("RS256",)), work)


def test_published_keys_are_read_and_read_again(work: Work) -> None:
    old, new = KEYS[0], KEYS[6]
    now = [NOW]

    def published(*keys: tuple[Key, str]) -> dict[str, Any]:
        return {"keys": [{**key.jwk.as_dict(private=False), "kid": kid} for key, kid in keys]}

    with http_service() as service:
        service.answer = lambda _: (200, published((old, "1")))
        step = Tokens(Jwt(jwks_url=service.url, jwks_refresh_s=300), work, lambda: now[0])

        async def reason(token: str) -> Reason:
            shown = Credentials(client_id="c", username="u", password=token.encode(), peer="1.2.3.4:5", version=5)
            found = await step.authenticate(shown)
            assert found is not None
            return found.reason

        async def story() -> None:
            claims = {"exp": NOW + 10_000}
            assert await reason(old.sign(claims, kid="1")) == Reason.SUCCESS
            assert await reason(old.sign(claims, kid="1")) == Reason.SUCCESS
            assert len(service.asked) == 1
            assert await reason(new.sign(claims, kid="2")) != Reason.SUCCESS  # and it is not asked again so soon
            assert len(service.asked) == 1
            service.answer = lambda _: (200, published((old, "1"), (new, "2")))
            now[0] += 11
            assert await reason(new.sign(claims, kid="2")) == Reason.SUCCESS
            assert len(service.asked) == 2
            broken: tuple[tuple[int, Any], ...]
            broken = ((500, {}), (200, b"nonsense"), (200, {"keys": []}), (200, {"keys": [{"kty": "x"}]}))
            for each in broken:
                service.answer = functools.partial(lambda each, _: each, each)
                now[0] += 400
                assert await reason(new.sign(claims, kid="2")) == Reason.SUCCESS  # the old ones are kept
            service.answer = lambda _: (200, published((new, "2")))
            now[0] += 400
            assert await reason(old.sign(claims, kid="1")) != Reason.SUCCESS

        asyncio.run(story())


def test_serve_takes_tokens_and_holds_clients_to_them(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    chain = json.dumps([{"method": "jwt", "algorithms": ["HS256"], "secret": f"file:{secret}", "username_from": "sub"}])
    with running_broker({"auth.chain": chain, "auth.allow_anonymous": False}) as broker:
        claims = {"exp": time.time() + 2.5, "sub": "ada", "acl": {"pub": ["up/${username}"], "sub": []}}
        for token, code in ((shared(claims), 0), (shared(claims, "x" * 40), 0x86), ("a.b.c", 0x86), ("secret", 0x86)):
            with contextlib.closing(Client((broker.host, broker.port))) as client:
                assert client.connect("c1", username="u", password=token.encode()).code == code
                if code == 0:
                    assert client.publish("up/ada", qos=1) == 0x10
                    assert client.publish("up/u", qos=1) == 0x87
                    assert client.subscribe("up/ada").codes == [0x87]
                    client.expect_disconnect(0x87, timeout=5)  # it has expired
        await_condition(lambda: "rule=acl.no_match" in broker.log_text())
        assert SECRET not in broker.log_text()
