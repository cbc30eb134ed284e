"""Cookies: whose signature they have, whom they name, and from which pages they come."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from fastmq.auth.cookies import unsigned
from fastmq.broker.websocket import COOKIES_MAX, cookies_of
from fastmq.config.cookies import SignedCookie
from tests import servers
from tests.brokerproc import HOST, BrokerProcess, ended_cleanly, running_broker, start_fastmq
from tests.httpservice import http_service
from tests.wireclient import Client, doors

SECRET = "keyboard cat, and a long one"
PAGE = "https://page.example"
NOT_AUTHORIZED = 0x87


def signature(value: str, digest: str = "sha256", secret: str = SECRET) -> bytes:
    return hmac.digest(secret.encode(), value.encode(), digest)


def express(value: str, secret: str = SECRET) -> str:
    """As cookie-signature and express-session write it."""
    return quote("s:" + value + "." + base64.b64encode(signature(value, secret=secret)).decode().rstrip("="), safe="")


def step(**more: Any) -> dict[str, Any]:
    return {"method": "cookie", "cookie": "sid", "secret": SECRET, **more}


def settings(**more: Any) -> SignedCookie:
    return SignedCookie(**{key: value for key, value in step(**more).items() if key != "method"})


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode), ("hex", lambda data: data.hex().encode())],
)
def test_signatures(digest: str, encoding: str, encode: Any) -> None:
    given = settings(digest=digest, encoding=encoding)
    for value in ("ada", "a.b.c", "M\u00fcller", "x" * 1000):
        made = encode(signature(value, digest)).decode()
        for text in (made, made.rstrip("=")):
            assert unsigned(given, f"{value}.{text}") == value
        assert unsigned(given, f"{value}x.{made}") is None
        assert unsigned(given, f"{value}.{encode(signature(value, digest, 'other')).decode()}") is None


BAD = [
    "", ".", "..", "ada", "ada.", ".AAAA", "ada.AAAA", "ada.!!!!", "ada.\xff", "ada." + "A" * 43, "ada." + "A" * 5000,
    "s:ada.AAAA", "ada.AAAA.AAAA", "ada =.AAAA", "." + base64.b64encode(signature("")).decode(),
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("encoding", ["base64", "base64url", "hex"])
def test_what_is_not_signed_is_nobodys(text: str, encoding: str) -> None:
    assert unsigned(settings(encoding=encoding), text) is None


@given(st.text(), st.sampled_from(["base64", "base64url", "hex"]))
def test_any_text_is_not_signed(text: str, encoding: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        assert unsigned(settings(encoding=encoding), text) is None


def test_headers_are_taken_apart() -> None:
    assert cookies_of(["a=1; b=\"2\";c = 3; d; =e; f=", "a=9; g=x=y"]) == {
        "a": "1", "b": "2", "c ": " 3", "f": "", "g": "x=y",
    }  # fmt: skip
    assert len(cookies_of([";".join(f"c{at}=1" for at in range(500))])) == COOKIES_MAX


@contextmanager
def serving(chain: list[dict[str, Any]], **more: Any) -> Iterator[BrokerProcess]:
    given: dict[str, Any] = {"auth.chain": json.dumps(chain), "auth.allow_anonymous": False}
    listener = {"url": f"ws://{HOST}:0", "origins": [PAGE], **more}
    with ended_cleanly(start_fastmq(given, listen=json.dumps([listener]))) as broker:
        yield broker


def code(broker: BrokerProcess, cookie: str | None, origin: str | None = PAGE) -> int:
    """What a browser hears that sends this Cookie header."""
    headers = ["Sec-WebSocket-Protocol: mqtt"]
    headers += [f"Cookie: {cookie}"] if cookie is not None else []
    headers += [f"Origin: {origin}"] if origin is not None else []
    doors.know((broker.host, broker.port), lambda opened: doors.WebSocket(opened, "/mqtt", tuple(headers)))
    with contextlib.closing(Client((broker.host, broker.port))) as client:
        return client.connect("browser").code


def test_a_browser_is_known_by_its_cookie() -> None:
    with serving([step(prefix="s:")]) as broker:
        assert code(broker, f"other=1; sid={express('ada')}") == 0
        assert code(broker, f"sid={express('ada', 'other')}") == NOT_AUTHORIZED
        assert code(broker, "sid=ada") == NOT_AUTHORIZED
        assert code(broker, None) == NOT_AUTHORIZED
        assert code(broker, f"sid={express('ada')}", origin=None) == NOT_AUTHORIZED  # no browser
        assert SECRET not in broker.log_text()


def test_sessions_in_redis() -> None:
    sessions = {"one": {"passport": {"user": "ada"}}, "two": {"cookie": {}}, "three": {"passport": {"user": 5}}}
    commands = [["SET", f"sess:{name}", json.dumps(each)] for name, each in sessions.items()]
    rules = [{"permission": "allow", "topics": ["of/${username}"]}]
    with servers.redis([*commands, ["SET", "sess:broken", "{"]]) as (server, url):
        chain = [step(prefix="s:", session_url=url, session_user="passport.user")]
        given: dict[str, Any] = {
            "auth.chain": json.dumps(chain), "auth.allow_anonymous": False, "acl.rules": json.dumps(rules),
        }  # fmt: skip
        listener = json.dumps([{"url": f"ws://{HOST}:0", "origins": [PAGE]}])
        with ended_cleanly(start_fastmq(given, listen=listener)) as broker:
            codes = [code(broker, f"sid={express(name)}") for name in ("one", "two", "three", "four", "broken", "one")]
            assert codes == [0, NOT_AUTHORIZED, NOT_AUTHORIZED, NOT_AUTHORIZED, 0x88, 0]
            doors.know((broker.host, broker.port), lambda opened: doors.WebSocket(
                opened, "/mqtt", ("Sec-WebSocket-Protocol: mqtt", f"Cookie: sid={express('one')}", f"Origin: {PAGE}"),
            ))  # fmt: skip
            with contextlib.closing(Client((broker.host, broker.port))) as client:
                client.connect("browser")
                assert (client.publish("of/ada", qos=1), client.publish("of/eve", qos=1)) == (0x10, NOT_AUTHORIZED)
            server.kill()
            assert code(broker, f"sid={express('one')}") == 0x88


def test_a_token_in_a_cookie() -> None:
    chain = {"method": "jwt", "token_in": "cookie", "cookie": "jwt", "algorithms": ["HS256"], "secret": SECRET * 2}
    token = jwt.encode({"alg": "HS256"}, {"exp": int(time.time()) + 60, "sub": "ada"}, OctKey.import_key(SECRET * 2))
    with serving([{**chain, "username_from": "sub"}]) as broker:
        assert code(broker, f"jwt={token}") == 0
        assert code(broker, f"jwt={token[:-4]}AAAA") == 0x86
        assert code(broker, f"sid={token}") == NOT_AUTHORIZED


def test_a_service_says_whose_a_cookie_is() -> None:
    with http_service() as service:
        service.answer = lambda _: (
            (200, {"result": "allow", "username": "ada"}) if "session=good" in service.headers[-1].get("Cookie", "")
            else (401, {})
        )  # fmt: skip
        chain = [{"method": "http", "url": service.url, "cookies": ["session", "csrf"]}]
        with serving(chain) as broker:
            assert code(broker, "session=good; csrf=1; private=x") == 0
            assert service.headers[-1]["Cookie"] == "session=good; csrf=1"
            assert code(broker, "session=bad") == NOT_AUTHORIZED
            asked = len(service.asked)
            assert code(broker, "private=x") == NOT_AUTHORIZED  # nobody's, and the service is not asked
            assert code(broker, "session=good", origin=None) == NOT_AUTHORIZED
            assert len(service.asked) == asked
            service.answer = lambda _: (500, b"")
            assert code(broker, "session=good") == 0x88


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        ({"cookie": ""}, "auth.chain[0].cookie: must be set"),
        ({"secret": ""}, "auth.chain[0].secret: must be set"),
        ({"session_url": "http://x"}, "auth.chain[0].session_url: must begin with redis://"),
        ({"session_url": "redis://x", "session_key": "a"}, "auth.chain[0].session_key: must have ${session}"),
        ({"encoding": "rot13"}, "auth.chain[0].encoding: must be one of"),
    ],
)
def test_steps_that_cannot_be(chain: dict[str, Any], says: str) -> None:
    with pytest.raises(RuntimeError) as refused, running_broker({"auth.chain": json.dumps([step(**chain)])}):
        pass
    assert says in str(refused.value)


def test_pages_must_be_known_where_cookies_are_asked_for() -> None:
    with pytest.raises(RuntimeError, match=r"listen\[0\].origins: must be set"), serving([step()], origins=[]):
        pass
    token = {"method": "jwt", "token_in": "cookie", "cookie": "j", "algorithms": ["HS256"], "secret": SECRET}
    with pytest.raises(RuntimeError, match=r"listen\[0\].origins: must be set"), serving([token], origins=[]):
        pass
    others = [step(), {"method": "client", "addresses": ["127.0.0.1"]}]
    with serving(others, origins=[], auth=["client"]) as broker:
        assert code(broker, None) == 0
