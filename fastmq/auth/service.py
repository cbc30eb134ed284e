"""An HTTP service that is asked who clients are."""

import asyncio
import json
import ssl
from typing import Any, Final

from fastmq.auth.answers import access_rules, groups
from fastmq.config.auth import Http
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason

try:
    import aiohttp
except ImportError as error:
    raise ValueError("method http needs aiohttp: pip install 'fastmq[http]'") from error

ANSWER_MAX_BYTES: Final = 262_144


class ServiceError(Exception):
    """The service answered with something that is no answer."""


class Service:
    """Implements `contracts.Authenticator`.

    :raises ValueError: the file with the authorities cannot be used.
    """

    def __init__(self, settings: Http) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._headers = {"Accept": "application/json"}
        for header in settings.headers:
            name, _, value = header.partition(":")
            self._headers[name] = value.strip()
        if settings.authorization:
            self._headers["Authorization"] = str(settings.authorization)
        self._tls: ssl.SSLContext | bool = True
        if settings.ca:
            try:
                self._tls = ssl.create_default_context(cafile=settings.ca)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"{settings.ca}: {error.strerror or error}") from None

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        sent = {name: credentials.cookies[name] for name in self._settings.cookies if name in credentials.cookies}
        if self._settings.cookies and not sent:
            return None
        headers = {**self._headers, "Cookie": "; ".join(f"{name}={value}" for name, value in sent.items())}
        question = {
            "clientid": credentials.client_id,
            "username": credentials.username,
            "password": _text(credentials.password),
            "peerhost": credentials.address,
            "proto_ver": credentials.version,
            "listener": credentials.listener,
            "cert_subject": credentials.certificate.subject if credentials.certificate else None,
            "cert_common_name": credentials.certificate.common_name if credentials.certificate else None,
        }
        async with self._asking().post(
            self._settings.url,
            json=question,
            headers=headers if sent else self._headers,
            ssl=self._tls,
            allow_redirects=False,
        ) as answer:
            if answer.status == 204:
                return Authentication(why=self._settings.url)
            if answer.status in (401, 403):
                return Authentication(reason=Reason.NOT_AUTHORIZED, why=f"the service answered {answer.status}")
            if answer.status != 200:
                raise ServiceError(f"it answered {answer.status}")
            data = await answer.content.read(ANSWER_MAX_BYTES + 1)
            while len(data) <= ANSWER_MAX_BYTES and not answer.content.at_eof():
                data += await answer.content.read(ANSWER_MAX_BYTES + 1 - len(data))
        if len(data) > ANSWER_MAX_BYTES:
            raise ServiceError(f"its answer has more than {ANSWER_MAX_BYTES} bytes")
        return verdict(data)

    def _asking(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._settings.pool_size)
            timeout = aiohttp.ClientTimeout(total=None)  # the chain's is the one that counts
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def close(self) -> None:
        """Gives the connections back."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)


def verdict(data: bytes) -> Authentication | None:
    """What the body of an answer with status 200 says.

    :raises ServiceError: nothing.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ServiceError("its answer is no JSON") from None
    if not isinstance(found, dict):
        raise ServiceError("its answer is no JSON object")
    result = found.get("result")
    if result == "ignore":
        return None
    if result == "deny":
        return Authentication(reason=Reason.NOT_AUTHORIZED, why="the service said deny")
    if result != "allow":
        raise ServiceError("its `result` is none of allow, deny, ignore")
    try:
        return Authentication(
            superuser=_typed(found, "is_superuser", bool) or False,
            client_id=_name(found, "client_id"),
            username=_name(found, "username"),
            expires_at=_time(found.get("expire_at")),
            groups=groups(found.get("groups")),
            rules=access_rules(found.get("acl")),
            why="the service said allow",
        )
    except ValueError as error:
        raise ServiceError(f"its answer: {error}") from None


def _typed(found: dict[str, Any], name: str, kind: type) -> Any:
    value = found.get(name)
    if value is not None and type(value) is not kind:
        raise ValueError(f"{name} must be {kind.__name__}")
    return value


def _name(found: dict[str, Any], name: str) -> str | None:
    value: str | None = _typed(found, name, str)
    if value is not None and (not value or "\0" in value or len(value.encode(errors="replace")) > 65_535):
        raise ValueError(f"{name} cannot be a client's")
    return value


def _time(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise ValueError("expire_at must be a Unix time")
    return float(value)


def _text(password: bytes | None) -> str | None:
    """Passwords are binary in MQTT; JSON has texts only."""
    return (
        password.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
        if password is not None
        else None
    )
