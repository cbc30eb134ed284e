"""Authentication by an HTTP service, and by what is known of a client: what is asked, answered, and survived."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.auth.by_client import ByClient
from fastmq.auth.service import ServiceError, verdict
from fastmq.config.auth import ClientRules
from fastmq.contracts import AccessRule, Authentication, Certificate, Credentials
from fastmq.reasons import Reason
from tests.brokerproc import BrokerProcess, await_condition, running_broker
from tests.httpservice import HttpService, http_service
from tests.wireclient import Client, Connack

UNAVAILABLE, NOT_AUTHORIZED, BAD_PASSWORD = 0x88, 0x87, 0x86


# -- answers -----------------------------------------------------------------------------------------------------------


def test_what_an_answer_says() -> None:
    answer = {
        "result": "allow", "is_superuser": True, "client_id": "c9", "username": "ada", "expire_at": 1_800_000_000,
        "acl": [{"permission": "deny", "action": "subscribe", "topic": "a/#", "qos": 1, "retain": True}], "more": 1,
    }  # fmt: skip
    assert verdict(json.dumps(answer).encode()) == Authentication(
        superuser=True, client_id="c9", username="ada", expires_at=1.8e9, why="the service said allow",
        rules=(AccessRule(topic="a/#", allow=False, action="subscribe", qos=(1,), retain=True),),
    )  # fmt: skip
    assert verdict(b'{"result": "ignore"}') is None
    denied = verdict(b'{"result": "deny"}')
    assert denied is not None
    assert denied.reason == Reason.NOT_AUTHORIZED


ALLOW = b'{"result": "allow", '
BAD_ANSWERS = [
    b"", b"allow", b"{", b"[]", b"null", b"1", b'"allow"', b"\xff\xfe", b"{}", b'{"result": "yes"}',
    b'{"result": true}',
    b'{"result": ["allow"]}', b'{"result": "ALLOW"}', b'{"Result": "allow"}', b"<html>", b"[" * 100_000,
    ALLOW + b'"is_superuser": 1}', ALLOW + b'"is_superuser": "true"}', ALLOW + b'"client_id": 5}',
    ALLOW + b'"client_id": ""}', ALLOW + b'"client_id": "a\\u0000"}', ALLOW + b'"username": []}',
    ALLOW + b'"username": "' + b"a" * 65_536 + b'"}', ALLOW + b'"expire_at": "now"}', ALLOW + b'"expire_at": true}',
    ALLOW + b'"expire_at": -1}', ALLOW + b'"expire_at": 1e300}', ALLOW + b'"expire_at": NaN}', ALLOW + b'"acl": 1}',
    ALLOW + b'"acl": "all"}', ALLOW + b'"acl": [1]}', ALLOW + b'"acl": [{}]}',
    ALLOW + b'"acl": [{"permission": "allow"}]}',
    ALLOW + b'"acl": {"x": []}}', ALLOW + b'"acl": {"all": ["a#"]}}',
    ALLOW + b'"acl": [' + b",".join([b'{"permission": "allow", "topic": "a"}'] * 1001) + b"]}",
]  # fmt: skip


@pytest.mark.parametrize("data", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
def test_what_is_no_answer_is_a_failure(data: bytes) -> None:
    with pytest.raises(ServiceError):
        verdict(data)


@given(st.binary(max_size=60), st.sampled_from([b"", ALLOW, ALLOW + b'"acl": ']))
def test_any_bytes_are_an_answer_or_an_error_of_ours(data: bytes, start: bytes) -> None:
    with suppress(ServiceError):
        verdict(start + data)


# -- a broker and its service ------------------------------------------------------------------------------------------


class Pair:
    def __init__(self, broker: BrokerProcess, service: HttpService, clients: ExitStack) -> None:
        self.broker, self.service, self._clients = broker, service, clients

    def client(self) -> Client:
        made = Client((self.broker.host, self.broker.port))
        self._clients.callback(made.close)
        return made

    def connects(self, name: str = "c1", user: str | None = "ada", password: bytes = b"secret") -> Connack:
        return self.client().connect(name, username=user, password=password)


@contextmanager
def asked(**more: object) -> Iterator[Pair]:
    with http_service() as service:
        step = {"method": "http", "url": service.url, "timeout_s": 0.5, **more}
        settings: dict[str, Any] = {"auth.chain": json.dumps([step]), "auth.allow_anonymous": False}
        with running_broker(settings) as broker, ExitStack() as clients:
            yield Pair(broker, service, clients)


def test_the_service_decides() -> None:
    with asked(headers=["X-Site: berlin"], authorization="Bearer t0ken") as pair:
        pair.service.answer = lambda question: (200, {"result": "allow" if question["username"] == "ada" else "deny"})
        assert pair.connects().code == 0
        assert pair.connects(user="eve").code == NOT_AUTHORIZED
        question = pair.service.asked[0]
        assert (question["clientid"], question["username"], question["password"]) == ("c1", "ada", "secret")
        assert (question["peerhost"], question["proto_ver"]) == ("127.0.0.1", 5)
        headers = pair.service.headers[0]
        assert (headers["X-Site"], headers["Authorization"]) == ("berlin", "Bearer t0ken")
        pair.service.answer = lambda _: (204, b"")
        assert pair.connects().code == 0
        pair.service.answer = lambda _: (403, b"")
        assert pair.connects().code == NOT_AUTHORIZED
        pair.service.answer = lambda _: (200, {"result": "ignore"})
        assert pair.connects().code == BAD_PASSWORD
        log = pair.broker.log_text()
        assert "t0ken" not in log
        assert "secret" not in log


def test_clients_are_held_to_what_the_service_says() -> None:
    with asked() as pair:
        pair.service.answer = lambda question: (
            200,
            {
                "result": "allow",
                "groups": ["ops"],
                "is_superuser": question["username"] == "root",
                "acl": [{"permission": "allow", "action": "publish", "topic": "mine/${username}"}],
                "expire_at": time.time() + 2,
            },
        )
        client, root = pair.client(), pair.client()
        client.connect("c1", username="ada", password=b"x")
        root.connect("c2", username="root", password=b"x")
        assert (client.publish("mine/ada", qos=1), client.publish("mine/eve", qos=1)) == (0x10, NOT_AUTHORIZED)
        assert root.publish("mine/eve", qos=1) == 0x10
        client.expect_disconnect(NOT_AUTHORIZED)


FAILURES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "hangs": lambda _: (200, {"result": "allow"}, 3.0),
    "error": lambda _: (500, {"result": "allow"}),
    "garbage": lambda _: (200, b"\xff\xfe<html>"),
    "redirect": lambda _: (302, {"result": "allow"}),
    "too much": lambda _: (200, b'{"result": "allow", "x": "' + b"x" * 400_000 + b'"}'),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_service_that_fails_refuses_and_comes_back(failure: Callable[[Any], tuple[Any, ...]]) -> None:
    with asked() as pair:
        inside = pair.client()
        assert inside.connect("inside", username="ada", password=b"x").code == 0
        pair.service.answer = failure
        start = time.monotonic()
        assert pair.connects("new").code == UNAVAILABLE
        assert time.monotonic() - start < 2
        assert inside.publish("t", qos=1) == 0x10  # who is inside does not notice
        await_condition(lambda: "a step of authentication failed" in pair.broker.log_text())
        pair.service.answer = lambda _: (200, {"result": "allow"})
        await_condition(lambda: pair.connects("new").code == 0, 10)


def test_a_service_that_dies_is_asked_again_when_it_is_back() -> None:
    with http_service() as first:
        port = first.port
        step = {"method": "http", "url": first.url, "timeout_s": 0.5}
        with running_broker({"auth.chain": json.dumps([step])}) as broker, ExitStack() as clients:
            pair = Pair(broker, first, clients)
            assert pair.connects().code == 0
            first.stop()
            for _ in range(8):  # more than are tried: then it is left alone for some seconds
                assert pair.connects().code == UNAVAILABLE
            with http_service(port) as pair.service:
                await_condition(lambda: pair.connects().code == 0, 15)


def test_many_come_while_the_service_hangs_and_those_inside_go_on() -> None:
    with asked() as pair:
        inside = pair.client()
        inside.connect("inside", username="ada", password=b"x")
        pair.service.answer = FAILURES["hangs"]
        crowd = [pair.client() for _ in range(100)]
        from tests.wireclient import encode

        for at, each in enumerate(crowd):
            each.send(encode.connect(5, client_id=f"c{at}", username="ada", password=b"x"))
        slowest = 0.0
        for _ in range(100):
            start = time.monotonic()
            inside.publish("t", qos=1)
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 0.5
        assert {each.expect(Connack).code for each in crowd} == {UNAVAILABLE}


# -- by what is known of a client --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "fits"),
    [
        ({"client_id_regex": "c[0-9]"}, True),
        ({"client_id_regex": "[0-9]"}, False),
        ({"username_regex": "a.*"}, True),
        ({"username_regex": "b.*"}, False),
        ({"addresses": ("10.0.0.0/8", "::1")}, True),
        ({"addresses": ("11.0.0.0/8",)}, False),
        ({"certificate_regex": "CN=a,.*"}, True),
        ({"certificate_regex": "CN=b,.*"}, False),
        ({"client_id_regex": "c.", "addresses": ("11.0.0.0/8",)}, False),
    ],
)
@pytest.mark.parametrize("permission", ["allow", "deny"])
def test_client_rules(rules: dict[str, Any], fits: bool, permission: Any) -> None:
    certificate = Certificate(subject="CN=a,O=b", common_name="a", alternative_names=())
    shown = Credentials(
        client_id="c1", username="ada", password=None, peer="10.1.2.3:5", version=5, certificate=certificate
    )
    found = asyncio.run(ByClient(ClientRules(permission=permission, **rules)).authenticate(shown))
    expected = {"allow": Reason.SUCCESS, "deny": Reason.NOT_AUTHORIZED}[permission] if fits else None
    assert (found.reason if found is not None else None) == expected


def test_rules_come_before_passwords() -> None:
    chain = [
        {"method": "client", "name": "no robots", "permission": "deny", "client_id_regex": "robot.*"},
        {"method": "client", "name": "at home", "addresses": ["127.0.0.0/8"]},
    ]
    with running_broker({"auth.chain": json.dumps(chain), "auth.allow_anonymous": False}) as broker:
        for name, code in (("robot-1", NOT_AUTHORIZED), ("human", 0)):
            with closing(Client((broker.host, broker.port))) as client:
                assert client.connect(name).code == code


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"method": "http"}, "auth.chain[0].url: must be set"),
        ({"method": "http", "url": "ftp://x"}, "auth.chain[0].url: must begin with https:// or http://"),
        ({"method": "http", "url": "http://x", "headers": ["a b: c"]}, "auth.chain[0].headers: 'a b: c' must be like"),
        ({"method": "http", "url": "http://x", "headers": ["a: c\r\nb: d"]}, "must be like X-Site: berlin"),
        ({"method": "http", "url": "http://x", "ca": "/nowhere"}, "auth.chain[0]: /nowhere: No such file"),
        ({"method": "http", "url": "http://x", "authorization": "file:/nowhere"}, "/nowhere: No such file"),
        ({"method": "http", "url": "http://x", "authorization": "env:NOT_THERE"}, "no environment variable NOT_THERE"),
        ({"method": "client"}, "auth.chain[0].permission: is for everybody: say for whom"),
        ({"method": "client", "client_id_regex": "("}, "auth.chain[0].client_id_regex: is no regular expression"),
        ({"method": "client", "addresses": ["x"]}, "auth.chain[0].addresses: 'x' does not appear"),
        ({"method": "jwt"}, "auth.chain[0].public_key: must be set, or else jwks_url"),
        ({"method": "jwt", "algorithms": ["HS256"]}, "auth.chain[0].secret: must be set for HS256"),
        ({"method": "jwt", "algorithms": ["HS256", "RS256"], "secret": "x"}, "auth.chain[0].algorithms: must not mix"),
        ({"method": "jwt", "jwks_url": "file:///etc/passwd"}, "auth.chain[0].jwks_url: must begin with https://"),
        ({"method": "jwt", "public_key": "/nowhere"}, "auth.chain[0]: /nowhere: No such file"),
        ({"method": "jwt", "public_key": "x", "verify_claims": ["x"]}, "'x' must be like sub=${username}"),
        ({"method": "jwt", "public_key": "x", "algorithms": ["none"]}, "auth.chain[0].algorithms: must be one of"),
    ],
)
def test_steps_that_cannot_be(step: dict[str, object], says: str) -> None:
    with pytest.raises(RuntimeError) as refused, running_broker({"auth.chain": json.dumps([step])}):
        pass
    assert says in str(refused.value)
    assert "Traceback" not in str(refused.value)
