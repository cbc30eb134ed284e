"""Rules of access control: whom each is for, and what it becomes for one client."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fastmq.config import acl, networks, placeholders
from fastmq.contracts import AccessRule, Client

PUBLISH: Final = 1
SUBSCRIBE: Final = 2
ANY_QOS: Final = 7
ANY_RETAIN: Final = 3

ACTIONS: Final = {"publish": PUBLISH, "subscribe": SUBSCRIBE, "all": PUBLISH | SUBSCRIBE}

Line = tuple[bytes, bool, int, int, int, bool]
"""As `fastmq._access.Access` takes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One filter of a rule."""

    filter: str
    """With its places."""
    allow: bool
    place: str
    """Where it was written, for whoever is denied something by it."""
    actions: int = PUBLISH | SUBSCRIBE
    qos: int = ANY_QOS
    retain: int = ANY_RETAIN
    literal: bool = False
    is_for: Callable[[Client], bool] | None = None
    """None: for everybody."""

    def line(self, client: Client) -> Line | None:
        """What it means for this client; None: nothing."""
        if self.is_for is not None and not self.is_for(client):
            return None
        filter = filled(self.filter, client, self.allow) if placeholders.has_places(self.filter) else self.filter
        if not filter:
            return None
        return filter.encode(), self.allow, self.actions, self.qos, self.retain, self.literal


def filled(filter: str, client: Client, allow: bool) -> str | None:
    """The filter, filled; None: it says nothing about this client.

    A value with a wildcard would make of a rule for one client a rule for many: such a client is not allowed what the
    rule allows, and denied all below the place of what it denies.
    """
    levels: list[str] = []
    for level in filter.split("/"):
        value = placeholders.fill(level, client.values)
        if value is None:
            return None
        if value != level and any(sign in value for sign in "+#"):
            if allow:
                return None
            return "/".join([*levels, "#"])
        levels.append(value)
    return "/".join(levels)


def from_settings(rules: Iterable[acl.Rule]) -> Iterator[Rule]:
    """The rules of `[[acl.rules]]`, in their order."""
    for at, rule in enumerate(rules):
        for text in rule.topics:
            literal = text.startswith(acl.LITERAL)
            yield Rule(
                text.removeprefix(acl.LITERAL),
                isinstance(rule, acl.Allow),
                f"acl.rules[{at}]",
                ACTIONS[rule.action],
                sum(1 << qos for qos in rule.qos) or ANY_QOS,
                {"no": 1, "yes": 2, "": ANY_RETAIN}[rule.retain],
                literal,
                _condition(rule),
            )


def from_authentication(rules: Iterable[AccessRule]) -> Iterator[Rule]:
    """What came along with a client's authentication."""
    for at, rule in enumerate(rules):
        yield Rule(
            rule.topic.removeprefix(acl.LITERAL),
            rule.allow,
            f"acl[{at}] of its authentication",
            ACTIONS[rule.action],
            sum(1 << qos for qos in rule.qos) or ANY_QOS,
            {False: 1, True: 2, None: ANY_RETAIN}[rule.retain],
            rule.topic.startswith(acl.LITERAL),
        )


def _condition(rule: acl.Rule) -> Callable[[Client], bool] | None:
    tests: list[Callable[[Client], bool]] = []
    if rule.usernames:
        names = frozenset(rule.usernames)
        tests.append(lambda client: (client.username or "") in names)
    if rule.username_regex:
        user = re.compile(rule.username_regex)
        tests.append(lambda client: client.username is not None and user.fullmatch(client.username) is not None)
    if rule.client_ids:
        ids = frozenset(rule.client_ids)
        tests.append(lambda client: client.client_id in ids)
    if rule.client_id_regex:
        pattern = re.compile(rule.client_id_regex)
        tests.append(lambda client: pattern.fullmatch(client.client_id) is not None)
    if rule.addresses:
        allowed = networks.parse(rule.addresses)
        tests.append(lambda client: networks.is_within(client.address, allowed))
    if rule.groups:
        groups = frozenset(rule.groups)
        tests.append(lambda client: not groups.isdisjoint(client.groups))
    if rule.certificate_regex:
        subject = re.compile(rule.certificate_regex)
        tests.append(lambda client: bool(client.certificate) and subject.fullmatch(client.certificate) is not None)
    if rule.listeners:
        listeners = frozenset(rule.listeners)
        tests.append(lambda client: client.listener in listeners)
    if not tests:
        return None
    return lambda client: all(test(client) for test in tests)
