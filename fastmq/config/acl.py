"""Rules of access control, a table each: `[[acl.rules]]` with `permission = "allow"` or `"deny"`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fastmq import topics
from fastmq.config import networks, patterns, placeholders
from fastmq.config.setting import setting
from fastmq.errors import TopicFilterInvalid

LITERAL = "eq "
"""Before a filter that is meant as a text, as EMQX has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    topics: tuple[str, ...] = setting(
        (),
        item="devices/${clientid}/#",
        not_empty=True,
        help="Topic filters; `${clientid}`, `${username}`, `${peerhost}`, `${listener}` are filled in; `eq #` is the "
        "filter `#` itself, not what it matches.",
    )
    action: Literal["all", "publish", "subscribe"] = setting(
        "all", choices=("all", "publish", "subscribe"), help="To subscribe is also to be sent what was published."
    )
    qos: tuple[int, ...] = setting((), item=0, choices=(0, 1, 2), help="Only with these QoS; empty: with any.")
    retain: Literal["", "yes", "no"] = setting(
        "", choices=("", "yes", "no"), help="Only publishes with the retain flag, or without it; empty: all."
    )
    usernames: tuple[str, ...] = setting(
        (), item="alice", help='Only for these users, `""` being a client without a user name; empty: for all.'
    )
    username_regex: str = setting("", help="Only for users whose whole name this regular expression matches.")
    client_ids: tuple[str, ...] = setting((), item="sensor-1", help="Only for these client identifiers.")
    client_id_regex: str = setting("", help="Only for those whose whole identifier this regular expression matches.")
    addresses: tuple[str, ...] = setting(
        (), item="10.0.0.0/8", help="Only for clients that come from these IP addresses or networks."
    )
    groups: tuple[str, ...] = setting(
        (), item="operators", help="Only for clients with one of these groups, as a token or a service says."
    )
    certificate_regex: str = setting(
        "", help="Only for clients whose certificate has a subject, `CN=a,O=b`, that this matches as a whole."
    )
    listeners: tuple[str, ...] = setting(
        (), item="devices", help="Only for clients of these listeners, by their names."
    )

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        for text in self.topics:
            if message := filter_problem(text):
                return "topics", f"{text!r}: {message}"
        for key in ("username_regex", "client_id_regex", "certificate_regex"):
            if message := patterns.problem(getattr(self, key)):
                return key, message
        try:
            networks.parse(self.addresses)
        except ValueError as error:
            return "addresses", str(error)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow(_Rule):
    """What may be done. The first rule that fits decides."""

    told: ClassVar[tuple[str, str]] = ("permission", "allow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny(_Rule):
    """What may not be done, unless an earlier rule allows it."""

    told: ClassVar[tuple[str, str]] = ("permission", "deny")


Rule = Allow | Deny
"""Any of them."""

KINDS = (Allow, Deny)


def filter_problem(text: str) -> str:
    """What is wrong with the filter of a rule, which may have places and `eq ` before it; empty: nothing."""
    if message := placeholders.problem(text):
        return message
    if text.startswith(LITERAL):
        return "" if len(text) > len(LITERAL) else "after `eq ` there must be a filter"
    try:
        topics.validate_filter(placeholders.fill(text, dict.fromkeys(placeholders.NAMES, "x")) or "")
    except TopicFilterInvalid as error:
        return str(error)
    return ""
