"""Users in PostgreSQL, MySQL and MariaDB. What clients say reaches the server as parameters, never as SQL."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from fastmq.auth.lookup import User, rule_of, user_of
from fastmq.config.databases import MySql, PostgreSql
from fastmq.contracts import AccessRule

RULES_MAX: Final = 1000
_PLACE: Final = re.compile(r"\$\{([^{}]*)\}")


def prepared(query: str, marks: str) -> tuple[str, list[str]]:
    """The query with the database's marks instead of places, and the places' names; `marks` is `$` or `%s`."""
    names: list[str] = []

    def mark(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        names.append(found[1])
        return f"${len(names)}" if marks == "$" else marks

    text = query.replace("%", "%%") if marks == "%s" else query
    return _PLACE.sub(mark, text), names


class PostgreSqlUsers:
    """Implements `lookup.Source`."""

    def __init__(self, settings: PostgreSql) -> None:
        try:
            import asyncpg
        except ImportError:
            raise ValueError("method postgresql needs asyncpg: pip install 'fastmq[postgresql]'") from None
        self._asyncpg = asyncpg
        self._settings = settings
        self._query, self._names = prepared(settings.query, "$")
        self._acl_query, self._acl_names = prepared(settings.acl_query, "$")
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def user(self, values: Mapping[str, str | None]) -> User | None:
        row = await (await self._open()).fetchrow(self._query, *(values.get(name) for name in self._names))
        return user_of(dict(row)) if row is not None else None

    async def rules(self, values: Mapping[str, str | None]) -> Sequence[AccessRule]:
        if not self._acl_query:
            return ()
        rows = await (await self._open()).fetch(self._acl_query, *(values.get(name) for name in self._acl_names))
        return _rules([dict(row) for row in rows])

    async def _open(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._asyncpg.create_pool(
                    str(self._settings.url), min_size=0, max_size=self._settings.pool_size,
                    timeout=self._settings.timeout_s, command_timeout=self._settings.timeout_s,
                )  # fmt: skip
        return self._pool

    async def close(self) -> None:
        """Gives the connections back."""
        if self._pool is not None:
            self._pool.terminate()


class MySqlUsers:
    """Implements `lookup.Source`."""

    def __init__(self, settings: MySql) -> None:
        try:
            import asyncmy
            import asyncmy.cursors
        except ImportError:
            raise ValueError("method mysql needs asyncmy: pip install 'fastmq[mysql]'") from None
        self._asyncmy = asyncmy
        self._settings = settings
        self._query, self._names = prepared(settings.query, "%s")
        self._acl_query, self._acl_names = prepared(settings.acl_query, "%s")
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def user(self, values: Mapping[str, str | None]) -> User | None:
        rows = await self._fetch(self._query, [values.get(name) for name in self._names], 1)
        return user_of(rows[0]) if rows else None

    async def rules(self, values: Mapping[str, str | None]) -> Sequence[AccessRule]:
        if not self._acl_query:
            return ()
        names = self._acl_names
        return _rules(await self._fetch(self._acl_query, [values.get(name) for name in names], RULES_MAX + 1))

    async def _fetch(self, query: str, parameters: list[str | None], most: int) -> list[Mapping[str, Any]]:
        pool = await self._open()
        dicts = self._asyncmy.cursors.DictCursor
        async with pool.acquire() as connection, connection.cursor(cursor=dicts) as cursor:
            await cursor.execute(query, parameters)
            found: list[Mapping[str, Any]] = list(await cursor.fetchmany(most))
        return found

    async def _open(self) -> Any:
        async with self._opening:
            if self._pool is None:
                split = urlsplit(self._settings.url)
                self._pool = await self._asyncmy.create_pool(
                    host=split.hostname, port=split.port or 3306, user=unquote(split.username or ""),
                    password=unquote(split.password or ""), database=unquote(split.path.lstrip("/")),
                    minsize=0, maxsize=self._settings.pool_size, autocommit=True, pool_recycle=300,
                    connect_timeout=self._settings.timeout_s, charset="utf8mb4",
                )  # fmt: skip
        return self._pool

    async def close(self) -> None:
        """Gives the connections back."""
        if self._pool is not None:
            self._pool.terminate()
            await self._pool.wait_closed()


def _rules(rows: Sequence[Mapping[str, Any]]) -> Sequence[AccessRule]:
    if len(rows) > RULES_MAX:
        raise ValueError(f"acl_query has more than {RULES_MAX} rows")
    return [rule for row in rows for rule in rule_of(row)]
