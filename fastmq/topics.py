"""Topic names and topic filters: the rules of MQTT 5.0 sections 4.7 and 4.8.2, written to be read.

The engine has its own fast matcher; this is the oracle that it is tested against, and what slow paths use.
"""

from typing import Final, NamedTuple

from fastmq.errors import ProtocolError, TopicFilterInvalid, TopicNameInvalid

BYTES_MAX: Final = 65_535
LEVELS_MAX: Final = 128
QUEUE_GROUP: Final = "$queue"


class Subscription(NamedTuple):
    """What a client subscribes to: a filter, and the group that shares it."""

    filter: str
    group: str | None
    """None: not shared."""


def validate_name(topic: str, levels_max: int = LEVELS_MAX) -> None:
    """Return when `topic` may be published to.

    :raises TopicNameInvalid: it is empty, too long, too deep, not UTF-8, or has a wildcard. [MQTT-3.3.2-2]
    """
    _validate_text(topic, TopicNameInvalid)
    _validate_depth(topic, levels_max, TopicNameInvalid)
    if "+" in topic or "#" in topic:
        raise TopicNameInvalid("a topic name has no wildcards")


def validate_filter(filter: str, levels_max: int = LEVELS_MAX) -> None:
    """Return when `filter`, without any `$share/group/` before it, may be subscribed to.

    :raises TopicFilterInvalid: it is empty, too long, too deep, not UTF-8, or has a wildcard at a wrong place.
    """
    _validate_text(filter, TopicFilterInvalid)
    _validate_depth(filter, levels_max, TopicFilterInvalid)
    levels = filter.split("/")
    for level in levels[:-1]:
        if "#" in level:
            raise TopicFilterInvalid("'#' is allowed only as the last level")  # [MQTT-4.7.1-1]
    if "#" in levels[-1] and levels[-1] != "#":
        raise TopicFilterInvalid("'#' must fill its level")  # [MQTT-4.7.1-1]
    if any("+" in level and level != "+" for level in levels):
        raise TopicFilterInvalid("'+' must fill its level")  # [MQTT-4.7.1-2]


def parse_subscription(text: str, levels_max: int = LEVELS_MAX) -> Subscription:
    """Split `$share/group/filter` and `$queue/filter`, and validate both parts. `$queue` is a group of its own.

    :raises TopicFilterInvalid: the group's name or the filter breaks a rule.
    """
    _validate_text(text, TopicFilterInvalid)
    group: str | None
    if text.startswith("$share/"):
        group, slash, filter = text.removeprefix("$share/").partition("/")
        if not group or "+" in group or "#" in group:
            raise TopicFilterInvalid("the share name must have characters, and no wildcards")  # [MQTT-4.8.2-1, -2]
        if not slash:
            raise TopicFilterInvalid("the share name must be followed by '/' and a filter")  # [MQTT-4.8.2-2]
    elif text.startswith("$queue/"):
        group, filter = QUEUE_GROUP, text.removeprefix("$queue/")
    else:
        group, filter = None, text
    validate_filter(filter, levels_max)
    return Subscription(filter, group)


def matches(filter: str, topic: str) -> bool:
    """Whether a message to `topic` goes to a subscription to `filter`; both are valid, `filter` without its group."""
    wanted, given = filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    if wanted[-1] == "#":
        # "sport/#" also matches "sport": '#' includes the parent level. [MQTT-4.7.1-2, 4.7.1.2]
        wanted.pop()
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(want in ("+", have) for want, have in zip(wanted, given, strict=True))


def _validate_text(text: str, error: type[ProtocolError]) -> None:
    if not text:
        raise error("must have at least one character")  # [MQTT-4.7.3-1]
    if "\0" in text:
        raise error("must not have the null character")  # [MQTT-4.7.3-2]
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise error("is not UTF-8") from None  # [MQTT-1.5.4-1]
    if size > BYTES_MAX:
        raise error(f"must not be longer than {BYTES_MAX} bytes")  # [MQTT-4.7.3-3]


def _validate_depth(text: str, levels_max: int, error: type[ProtocolError]) -> None:
    if text.count("/") >= levels_max:
        raise error(f"must not have more than {levels_max} levels")
