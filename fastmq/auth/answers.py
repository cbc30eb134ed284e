"""Access rules in answers and tokens, as EMQX has them: a list of rules, or an object of filters by action."""

from collections.abc import Iterator
from typing import Any, Final

from fastmq.config.acl import filter_problem
from fastmq.contracts import AccessRule

RULES_MAX: Final = 1000
_BY_ACTION: Final = {"pub": "publish", "sub": "subscribe", "all": "all"}


def access_rules(given: object) -> tuple[AccessRule, ...]:
    """The rules that an answer has.

    :raises ValueError: they are malformed.
    """
    if given is None:
        return ()
    if isinstance(given, dict):
        found = list(_by_action(given))
    elif isinstance(given, list):
        found = [rule for each in given for rule in _rules(each)]
    else:
        raise ValueError("acl must be a list of rules, or an object with pub, sub and all")
    if len(found) > RULES_MAX:
        raise ValueError(f"acl has more than {RULES_MAX} rules")
    return tuple(found)


def groups(given: object) -> tuple[str, ...]:
    """The groups that an answer has: a list of texts, or one with spaces between them, as `scope` of OAuth.

    :raises ValueError: they are malformed.
    """
    found = given.split() if isinstance(given, str) else [] if given is None else given
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found) or len(found) > RULES_MAX:
        raise ValueError("groups must be a list of texts")
    return tuple(found)


def _by_action(given: dict[str, Any]) -> Iterator[AccessRule]:
    for key, topics in given.items():
        if key not in _BY_ACTION:
            raise ValueError(f"acl.{key} is none of pub, sub, all")
        if not isinstance(topics, list):
            raise ValueError(f"acl.{key} must be a list of topic filters")
        for topic in topics:
            yield AccessRule(topic=_filter(topic), action=_BY_ACTION[key])


def _rules(given: object) -> Iterator[AccessRule]:
    if not isinstance(given, dict):
        raise ValueError("a rule of acl must be an object")
    permission, action = given.get("permission"), given.get("action", "all")
    if permission not in ("allow", "deny"):
        raise ValueError("permission of a rule must be allow or deny")
    if action not in ("publish", "subscribe", "all"):
        raise ValueError("action of a rule must be publish, subscribe or all")
    topics = given["topics"] if "topics" in given else [given.get("topic")]
    if not isinstance(topics, list):
        raise ValueError("topics of a rule must be a list")
    qos = given.get("qos", [])
    levels = qos if isinstance(qos, list) else [qos]
    if not all(type(each) is int and 0 <= each <= 2 for each in levels):
        raise ValueError("qos of a rule must be 0, 1, 2 or a list of them")
    retain = given.get("retain", "all")
    if retain not in (True, False, "all", None) or type(retain) is int:
        raise ValueError("retain of a rule must be true, false or all")
    for topic in topics:
        yield AccessRule(
            topic=_filter(topic),
            allow=permission == "allow",
            action=action,
            qos=tuple(levels),
            retain=retain if isinstance(retain, bool) else None,
        )


def _filter(given: object) -> str:
    if not isinstance(given, str):
        raise ValueError("a topic of a rule must be a text")
    if message := filter_problem(given):
        raise ValueError(f"{given!r}: {message}")
    return given
