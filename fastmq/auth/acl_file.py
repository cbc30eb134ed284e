"""Access control files as Mosquitto's `acl_file`: `user`, `topic` and `pattern` lines; `#` begins a comment.

`topic` lines before the first `user` are for clients without a user name, those after it for that user; `pattern` lines
are for everybody, with `%c` and `%u` as client identifier and user name. What is denied goes before what is allowed,
and topics go before patterns; the order of the lines does not count.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastmq import topics
from fastmq.auth.rules import PUBLISH, SUBSCRIBE, Rule
from fastmq.auth.text_file import TextFileError, read_text
from fastmq.contracts import Client
from fastmq.errors import TopicFilterInvalid

ACCESS: Final = {
    "read": (True, SUBSCRIBE),
    "write": (True, PUBLISH),
    "readwrite": (True, PUBLISH | SUBSCRIBE),
    "deny": (False, PUBLISH | SUBSCRIBE),
}

_PLACES: Final = {"%c": "${clientid}", "%u": "${username}"}


@dataclass(slots=True)
class AclFile:
    """What such a file says."""

    topics: dict[str | None, list[Rule]] = field(default_factory=dict)
    """By user name; None: clients without one."""
    patterns: list[Rule] = field(default_factory=list)

    def rules(self, client: Client) -> list[Rule]:
        """Those that are for this client, in the order in which they are asked."""
        mine = sorted(self.topics.get(client.username, ()), key=lambda rule: rule.allow)
        return mine + sorted(self.patterns, key=lambda rule: rule.allow)


def read(path: Path) -> AclFile:
    """:raises TextFileError: it cannot be read, or a line is wrong."""
    return parse(read_text(path), str(path))


def parse(text: str, where: str) -> AclFile:
    """:raises TextFileError: a line is wrong."""
    found = AclFile()
    user: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{where}:{number}"
        word, _, rest = line.strip().partition(" ")
        rest = rest.lstrip(" ")
        if word == "user":
            if not rest or "\0" in rest:
                raise TextFileError(f"{place}: after `user` there must be a user name")
            user = rest
        elif word in ("topic", "pattern"):
            rule = _rule(rest, word == "pattern", place)
            (found.patterns if word == "pattern" else found.topics.setdefault(user, [])).append(rule)
        else:
            raise TextFileError(f"{place}: must begin with user, topic or pattern, not {word!r}")
    return found


def _rule(text: str, is_pattern: bool, place: str) -> Rule:
    word, space, rest = text.partition(" ")
    filter = rest.lstrip(" ")
    if not space:
        word, filter = "readwrite", text
    elif word not in ACCESS:
        raise TextFileError(f"{place}: must be read, write, readwrite or deny, and then the topic, not {word!r}")
    filter = filter.replace("${", "${$}{")
    if is_pattern:
        filter = re.sub("%[cu]", lambda found: _PLACES[found[0]], filter)
    allow, actions = ACCESS[word]
    try:
        topics.validate_filter(re.sub(r"\$\{\w+\}", "x", filter).replace("${$}", "$"))
    except TopicFilterInvalid as error:
        raise TextFileError(f"{place}: {text!r}: {error}") from None
    return Rule(filter, allow, place, actions)
