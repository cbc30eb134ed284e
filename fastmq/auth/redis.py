"""Users in Redis, a hash for each."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastmq.auth.lookup import User, rule_of, user_of
from fastmq.config import placeholders
from fastmq.config.databases import Redis
from fastmq.contracts import AccessRule

RULES_MAX: Final = 1000


class RedisUsers:
    """Implements `lookup.Source`."""

    def __init__(self, settings: Redis) -> None:
        try:
            import redis.asyncio
        except ImportError:
            raise ValueError("method redis needs redis: pip install 'fastmq[redis]'") from None
        self._settings = settings
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            str(settings.url), max_connections=settings.pool_size, timeout=settings.timeout_s,
            socket_timeout=settings.timeout_s, socket_connect_timeout=settings.timeout_s, decode_responses=True,
        )  # fmt: skip
        self._redis: Any = redis.asyncio.Redis(connection_pool=pool)
        self._pool: Any = pool

    async def user(self, values: Mapping[str, str | None]) -> User | None:
        key = placeholders.fill(self._settings.key, values)
        if key is None:
            return None
        names = ("password_hash", "salt", "is_superuser")
        found = dict(zip(names, await self._redis.hmget(key, names), strict=True))
        return user_of(found) if found["password_hash"] is not None else None

    async def rules(self, values: Mapping[str, str | None]) -> Sequence[AccessRule]:
        key = placeholders.fill(self._settings.acl_key, values) if self._settings.acl_key else None
        if key is None:
            return ()
        found: dict[str, str] = await self._redis.hgetall(key)
        if len(found) > RULES_MAX:
            raise ValueError(f"{key} has more than {RULES_MAX} fields")
        return [rule for topic, text in found.items() for rule in _rule(topic, text)]

    async def close(self) -> None:
        """Gives the connections back."""
        await self._redis.aclose()
        await self._pool.disconnect()


def _rule(topic: str, text: str) -> Sequence[AccessRule]:
    if not text.lstrip().startswith("{"):
        return rule_of({"topic": topic, "action": text.strip()})
    given = json.loads(text)
    qos = given.get("qos")
    levels = ",".join(str(each) for each in qos) if isinstance(qos, list) else qos
    return rule_of({"topic": topic, "action": given.get("action", "all"), "qos": levels, "retain": given.get("retain")})
