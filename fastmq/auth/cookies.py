"""Cookies of browsers: their signature, and the session that they name."""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, Final
from urllib.parse import unquote

from fastmq.config.cookies import SignedCookie
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason

COOKIE_MAX: Final = 4096
SESSION_MAX_BYTES: Final = 1_048_576


class Cookies:
    """Implements `contracts.Authenticator`. Who sends no such cookie is left to the next step."""

    def __init__(self, settings: SignedCookie) -> None:
        self._settings = settings
        self._redis: Any = None
        if settings.session_url:
            try:
                import redis.asyncio
            except ImportError:
                raise ValueError("sessions in Redis need redis: pip install 'fastmq[redis]'") from None
            self._redis = redis.asyncio.Redis.from_url(
                str(settings.session_url), socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s, decode_responses=True,
            )  # fmt: skip

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        given = credentials.cookies.get(self._settings.cookie)
        if given is None:
            return None
        value = unsigned(self._settings, unquote(given)) if len(given) <= COOKIE_MAX else None
        if value is None:
            return _refused("its cookie is not signed by us")
        if self._redis is None:
            return _named(value)
        found = await self._redis.get(self._settings.session_key.replace("${session}", value))
        if found is None:
            return _refused("there is no such session")
        if len(found) > SESSION_MAX_BYTES:
            raise ValueError("the session is too large")
        session: Any = json.loads(found)
        for part in self._settings.session_user.split("."):
            session = session.get(part) if isinstance(session, dict) else None
        if not isinstance(session, str):
            return _refused(f"its session has no {self._settings.session_user}: nobody is logged in")
        return _named(session)

    async def close(self) -> None:
        """Gives the connections back."""
        if self._redis is not None:
            await self._redis.aclose()


def unsigned(settings: SignedCookie, cookie: str) -> str | None:
    """The value of a signed cookie; None: its signature is not ours."""
    if not cookie.startswith(settings.prefix):
        return None
    value, dot, signature = cookie.removeprefix(settings.prefix).rpartition(".")
    made = hmac.digest(settings.secret.encode(), value.encode(errors="replace"), getattr(hashlib, settings.digest))
    try:
        given = _decoded(signature, settings.encoding)
    except (binascii.Error, ValueError):
        return None
    return value if dot and value and hmac.compare_digest(given, made) else None


def _decoded(text: str, encoding: str) -> bytes:
    if encoding == "hex":
        return bytes.fromhex(text)
    padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    return base64.b64decode(padded, b"-_" if encoding == "base64url" else b"+/", validate=True)


def _named(username: str) -> Authentication:
    if not username or "\0" in username or len(username.encode(errors="replace")) > 65_535:
        return _refused("its cookie has no user name")
    return Authentication(username=username, why="its cookie")


def _refused(why: str) -> Authentication:
    return Authentication(reason=Reason.NOT_AUTHORIZED, why=why)
