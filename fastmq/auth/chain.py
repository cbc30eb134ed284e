"""The steps by which a client is authenticated, in their order, each kept from hurting the rest.

A step lets in, refuses, or leaves the client to the next one. One that fails, or takes too long, refuses: a back end
that is down must not open the door. After several failures in a row it is not even asked for a while.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fastmq import logs
from fastmq.auth.work import Busy
from fastmq.contracts import Authentication, Authenticator, Credentials
from fastmq.reasons import Reason

CACHE_MAX: Final = 10_000
"""Answers that one step remembers."""
ASKING_MAX: Final = 2000
"""Clients that wait for one step."""
FAILURES_MAX: Final = 5
"""In a row; then the step is not asked for PAUSE_S."""
PAUSE_S: Final = 5.0

log = logs.get("auth")


@dataclass(slots=True)
class Step:
    """One authenticator of a chain. Times are seconds."""

    name: str
    authenticator: Authenticator
    timeout_s: float = 5.0
    cache_ttl_s: float = 0.0
    """How long its answers are remembered; 0: not at all."""
    clock: Callable[[], float] = time.monotonic
    _cache: OrderedDict[bytes, tuple[float, Authentication | None]] = field(default_factory=OrderedDict)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _asking: int = 0
    _failures: int = 0
    _pause_until: float = 0.0

    async def ask(self, credentials: Credentials) -> Authentication | None:
        """The verdict of this step; None: it leaves the client to the next one."""
        key = self._key(credentials) if self.cache_ttl_s else b""
        if key and (found := self._cache.get(key)) is not None and found[0] > self.clock():
            return found[1]
        if self._failures >= FAILURES_MAX:
            if self.clock() < self._pause_until:
                return self._refused("it failed too often; it is asked again in a few seconds")
            self._pause_until = self.clock() + PAUSE_S  # this client tries it out, the others go on being refused
        if self._asking >= ASKING_MAX:
            return self._refused("too many clients wait for it", Reason.SERVER_BUSY)
        self._asking += 1
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self.authenticator.authenticate(credentials)
            if answer is not None and not isinstance(answer, Authentication):
                raise TypeError(f"it answered with a {type(answer).__name__}")
        except Busy:
            return self._refused("too many passwords wait to be checked", Reason.SERVER_BUSY)
        except Exception as error:
            self._failures += 1
            self._pause_until = self.clock() + PAUSE_S
            why = f"no answer within {self.timeout_s:g} s" if isinstance(error, TimeoutError) else _shown(error)
            return self._refused(why)
        finally:
            self._asking -= 1
        self._failures = 0
        if key:
            self._remember(key, answer)
        return answer

    def _refused(self, why: str, reason: Reason = Reason.SERVER_UNAVAILABLE) -> Authentication:
        log.rarely(
            "error", self.name, "a step of authentication failed; clients are refused", step=self.name, reason=why
        )
        return Authentication(reason=reason, why=f"{self.name}: {why}")

    def _key(self, credentials: Credentials) -> bytes:
        """Stands for the credentials, and for the version of what they were checked against."""
        digest = hashlib.blake2b(key=self._secret, digest_size=24)
        for part in (
            str(getattr(self.authenticator, "version", 0)),
            credentials.client_id,
            credentials.username,
            credentials.password,
            credentials.address,
            credentials.listener,
            credentials.certificate.subject if credentials.certificate is not None else None,
            repr(sorted(credentials.cookies.items())) if credentials.cookies else None,
        ):
            data = part.encode() if isinstance(part, str) else part
            digest.update(b"-" if data is None else len(data).to_bytes(4, "big") + data)
        return digest.digest()

    def _remember(self, key: bytes, answer: Authentication | None) -> None:
        self._cache[key] = (self.clock() + self.cache_ttl_s, answer)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_MAX:
            self._cache.popitem(last=False)


class Chain:
    """Implements `contracts.Authenticator`: asks its steps in turn, those that count for the listener."""

    def __init__(self, steps: Sequence[Step], listeners: Mapping[str, Sequence[str]] | None = None) -> None:
        self.steps = tuple(steps)
        self._of_listener = {
            listener: tuple(step for step in self.steps if step.name in names)
            for listener, names in (listeners or {}).items()
            if names
        }

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        for step in self._of_listener.get(credentials.listener, self.steps):
            answer = await step.ask(credentials)
            if answer is not None:
                return answer
        return None

    async def close(self) -> None:
        """Gives back what the steps hold: connections to their back ends."""
        for step in self.steps:
            if (close := getattr(step.authenticator, "close", None)) is not None:
                await close()


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
