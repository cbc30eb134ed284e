"""JSON Web Tokens (RFC 7519): their signature, their claims, and the keys for them."""

import asyncio
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fastmq import logs
from fastmq.auth.answers import access_rules, groups
from fastmq.auth.work import Work
from fastmq.config import placeholders
from fastmq.config.auth import Jwt
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason

try:
    from joserfc import jwt
    from joserfc.errors import InvalidKeyIdError, JoseError
    from joserfc.jwk import JWKRegistry, KeySet, OctKey
    from joserfc.jws import JWSRegistry
except ImportError as error:
    raise ValueError("method jwt needs joserfc: pip install 'fastmq[jwt]'") from error

TOKEN_MAX_BYTES: Final = 16_384
JWKS_MAX_BYTES: Final = 1_048_576
JWKS_AGAIN_S: Final = 10.0
"""Keys are not read more often than this, whatever tokens name."""
_KEYS_OF: Final = {"HS": "oct", "RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

log = logs.get("auth")


class Tokens:
    """Implements `contracts.Authenticator`.

    :raises ValueError: the key cannot be used.
    """

    def __init__(self, settings: Jwt, work: Work, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._work = work
        self._clock = clock
        self._keys: Any = None
        self._keys_until = 0.0
        self._asked_at = float("-inf")
        self._reading = asyncio.Lock()
        self._registry = JWSRegistry(algorithms=list(settings.algorithms))
        if settings.secret:
            self._keys = OctKey.import_key(settings.secret)
        elif settings.public_key:
            self._keys = _public_key(Path(settings.public_key), settings.algorithms)

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        token = self._token(credentials)
        if token is None:
            return None
        if self._settings.jwks_url:
            await self._refresh()
        try:
            claims = await self._work.do(lambda: self._decoded(token))
        except InvalidKeyIdError:
            await self._refresh(at_once=True)  # the keys may be new
            try:
                claims = await self._work.do(lambda: self._decoded(token))
            except JoseError as error:
                return _refused(error)
        except JoseError as error:
            return _refused(error)
        except ValueError as error:
            return _refused(error)
        try:
            return self._verdict(claims, credentials)
        except ValueError as error:
            return Authentication(reason=Reason.NOT_AUTHORIZED, why=f"its token: {error}")

    def _token(self, credentials: Credentials) -> str | None:
        """What looks like a token."""
        given: str | None = credentials.username
        if self._settings.token_in == "cookie":
            given = credentials.cookies.get(self._settings.cookie)
        if self._settings.token_in == "password":
            try:
                given = credentials.password.decode("ascii") if credentials.password is not None else None
            except UnicodeDecodeError:
                return None
        return given if given is not None and given.count(".") == 2 and len(given) <= TOKEN_MAX_BYTES else None

    def _decoded(self, token: str) -> Mapping[str, Any]:
        found = jwt.decode(token, self._keys, algorithms=list(self._settings.algorithms), registry=self._registry)
        if not isinstance(found.claims, dict):
            raise ValueError("has no claims")
        return found.claims

    def _verdict(self, claims: Mapping[str, Any], credentials: Credentials) -> Authentication:
        settings = self._settings
        now = self._clock()
        expires_at = _number(claims, "exp")
        not_before = _number(claims, "nbf")
        if expires_at is None and settings.must_expire:
            raise ValueError("has no exp")
        if expires_at is not None and expires_at + settings.leeway_s <= now:
            raise ValueError("has expired")
        if not_before is not None and not_before - settings.leeway_s > now:
            raise ValueError("is not valid yet")
        if settings.issuer and claims.get("iss") != settings.issuer:
            raise ValueError("comes from another issuer")
        audience = claims.get("aud", ())
        if settings.audience and settings.audience not in ([audience] if isinstance(audience, str) else audience):
            raise ValueError("is for another audience")
        values = credentials.values
        for text in settings.verify_claims:
            claim, _, wanted = text.partition("=")
            expected = placeholders.fill(wanted, values)
            if expected is None or _text(claims.get(claim)) != expected:
                raise ValueError(f"its {claim} is not as it must be")
        return Authentication(
            client_id=_named(claims, settings.client_id_from),
            username=_named(claims, settings.username_from),
            superuser=claims.get("is_superuser") is True,
            groups=groups(claims.get(settings.groups_from)) if settings.groups_from else (),
            rules=access_rules(claims.get(settings.acl_from)) if settings.acl_from else (),
            expires_at=expires_at + settings.leeway_s
            if expires_at is not None and settings.disconnect_at_expiry
            else None,
            why="its token",
        )

    async def _refresh(self, at_once: bool = False) -> None:
        """Reads the published keys when it is time; old ones are kept when new ones cannot be had.

        :raises OSError: there are none at all.
        """
        now = self._clock()
        if now < self._keys_until and not at_once:
            return
        async with self._reading:
            now = self._clock()
            if now - self._asked_at < JWKS_AGAIN_S and self._keys is not None:
                return
            self._asked_at = now
            url, timeout_s = self._settings.jwks_url, self._settings.timeout_s
            try:
                self._keys = await self._work.do(lambda: _fetch(url, timeout_s))
            except (OSError, ValueError, JoseError, ssl.SSLError) as error:
                log.rarely("error", url, "cannot read the keys for tokens", url=url, reason=error)
                if self._keys is None:
                    raise OSError(f"{url}: {error}") from None
                self._keys_until = now + JWKS_AGAIN_S
            else:
                self._keys_until = now + self._settings.jwks_refresh_s


def _refused(error: Exception) -> Authentication:
    return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why=f"its token: {error}")


def _public_key(path: Path, algorithms: tuple[str, ...]) -> Any:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or 'is no PEM'}") from None
    if "PRIVATE KEY" in text:
        raise ValueError(f"{path}: is a private key; give fastmq the public one only")
    problem: Exception | None = None
    for kind in dict.fromkeys(_KEYS_OF[each[:2]] for each in algorithms):
        try:
            return JWKRegistry.import_key(text, kind)
        except (ValueError, TypeError, JoseError) as error:
            problem = error
    raise ValueError(f"{path}: is no public key for {', '.join(algorithms)}: {problem}")


def _fetch(url: str, timeout_s: float) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # the settings allow http and https only
            data = answer.read(JWKS_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    if len(data) > JWKS_MAX_BYTES:
        raise ValueError(f"has more than {JWKS_MAX_BYTES} bytes")
    found = json.loads(data)
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list) or not found["keys"]:
        raise ValueError("is no JSON Web Key Set")
    return KeySet.import_key_set(found)  # type: ignore[arg-type]


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise ValueError(f"its {name} is no time")
    return float(value)


def _named(claims: Mapping[str, Any], name: str) -> str | None:
    if not name:
        return None
    value = claims.get(name)
    if not isinstance(value, str) or not value or "\0" in value or len(value.encode(errors="replace")) > 65_535:
        raise ValueError(f"has no {name}")
    return value


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)
