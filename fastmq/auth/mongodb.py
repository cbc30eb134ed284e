"""Users in MongoDB, a document each."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from fastmq.auth.lookup import User, rule_of, user_of
from fastmq.config import placeholders
from fastmq.config.databases import MongoDb
from fastmq.contracts import AccessRule

RULES_MAX: Final = 1000


class MongoDbUsers:
    """Implements `lookup.Source`."""

    def __init__(self, settings: MongoDb) -> None:
        try:
            import pymongo
        except ImportError:
            raise ValueError("method mongodb needs pymongo: pip install 'fastmq[mongodb]'") from None
        timeout_ms = round(settings.timeout_s * 1000)
        try:
            self._client: Any = pymongo.AsyncMongoClient(
                str(settings.url), maxPoolSize=settings.pool_size, connect=False, tz_aware=True,
                serverSelectionTimeoutMS=timeout_ms, connectTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms,
            )  # fmt: skip
            database = self._client.get_default_database()
        except Exception:  # what it says has the address, and so perhaps a password
            raise ValueError("url is no address of a MongoDB database") from None
        self._users: Any = database[settings.collection]
        self._rules: Any = database[settings.acl_collection] if settings.acl_collection else None
        self._filter = orjson.loads(settings.filter)
        self._acl_filter = orjson.loads(settings.acl_filter)

    async def user(self, values: Mapping[str, str | None]) -> User | None:
        query = filled(self._filter, values)
        found = await self._users.find_one(query) if query is not None else None
        return user_of(found) if found is not None else None

    async def rules(self, values: Mapping[str, str | None]) -> Sequence[AccessRule]:
        query = filled(self._acl_filter, values) if self._rules is not None else None
        if query is None:
            return ()
        found = await self._rules.find(query).limit(RULES_MAX + 1).to_list()
        rules = [rule for document in found for rule in _rules_of(document)]
        if len(rules) > RULES_MAX:
            raise ValueError(f"there are more than {RULES_MAX} rules")
        return rules

    async def close(self) -> None:
        """Gives the connections back."""
        await self._client.close()


def filled(query: Any, values: Mapping[str, str | None]) -> Any:
    """The query with its places filled, in values only, and those always texts: a client can put no operator into it.

    None: one of the values is not known.
    """
    if isinstance(query, str):
        return placeholders.fill(query, values)
    if isinstance(query, list):
        parts = [filled(each, values) for each in query]
        return None if any(new is None and old is not None for new, old in zip(parts, query, strict=True)) else parts
    if isinstance(query, dict):
        found = {key: filled(each, values) for key, each in query.items()}
        return None if any(found[key] is None and query[key] is not None for key in query) else found
    return query


def _rules_of(document: Mapping[str, Any]) -> list[AccessRule]:
    """One document has one rule, or one for each of its `topics`."""
    topics = document.get("topics")
    if not isinstance(topics, list):
        topics = [document.get("topic")]
    qos = document.get("qos")
    levels = ",".join(str(each) for each in qos) if isinstance(qos, list) else qos
    return [rule for topic in topics for rule in rule_of({**document, "qos": levels, "topic": topic})]
