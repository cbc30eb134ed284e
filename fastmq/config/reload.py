"""Settings that change while a broker runs: which of them can, and which wait for a restart."""

from dataclasses import replace
from typing import Any, Final, NamedTuple

from fastmq.config.auth import TELL_RULES
from fastmq.config.listener import Listener
from fastmq.config.schema import Config, declared, sections

HOT: Final = frozenset(
    {
        *(f"limits.{key}" for key in (
            "connects_per_s", "address_connects_per_s", "messages_per_s", "bytes_per_s", "user_messages_per_s",
            "user_bytes_per_s", "messages_out_per_s", "bytes_out_per_s", "user_messages_out_per_s",
            "user_bytes_out_per_s", "burst_s", "sessions_max", "user_sessions_max",
            "connections_max", "subscriptions_max", "user_subscriptions_max", "user_retained_max", "slow_after_ms",
            "pause_max_s", "connect_max_bytes", "tls_handshakes_max",
        )),
        "mqtt.connect_timeout_s", "mqtt.keepalive_min_s", "mqtt.keepalive_max_s", "mqtt.keepalive_multiplier",
        "auth.allow_anonymous", "auth.chain",
        "acl.rules", "acl.file", "acl.no_match", "acl.check_delivery",
        "log.level",
    }
)  # fmt: skip
"""Besides all of `bans`, and of `listen` what `HOT_OF_LISTENERS` says."""

HOT_OF_LISTENERS: Final = (
    "name", "auth", "allow_anonymous", "username_from", "client_id_from", "connections_max", "messages_per_s",
    "bytes_per_s", "messages_out_per_s", "bytes_out_per_s",
)  # fmt: skip


class Merged(NamedTuple):
    """What becomes of a new Config."""

    config: Config
    """The old one, with what can change."""
    changed: list[str]
    """The keys that did."""
    waiting: list[str]
    """The keys that need a restart."""


def merged(old: Config, new: Config) -> Merged:
    """Takes from the new settings what can change while the broker runs."""
    changed: list[str] = []
    waiting: list[str] = []
    # Who was let in without rules is not known well enough to be held to some.
    begins_or_ends = is_guarded(old) != is_guarded(new)
    changes: dict[str, dict[str, Any]] = {section: {} for section in sections()}
    for key, each in declared().items():
        if each.section and _value(old, key) != (value := _value(new, key)):
            is_hot = key in HOT or each.section == "bans"
            is_hot = is_hot and not (each.section in ("auth", "acl") and begins_or_ends)
            (changed if is_hot else waiting).append(key)
            if is_hot:
                changes[each.section][each.name] = value
    listen = old.listen
    if new.listen != old.listen:
        if _same_sockets(old.listen, new.listen):
            changed.append("listen")
            listen = new.listen
        else:
            waiting.append("listen")
    found = {name: replace(getattr(old, name), **changes[name]) for name in changes if changes[name]}
    return Merged(replace(old, listen=listen, **found), changed, waiting)


def _value(config: Config, key: str) -> object:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section), name)


def is_guarded(config: Config) -> bool:
    """Whether clients are held to access rules, of the settings or of those who authenticate."""
    return bool(config.acl.rules or config.acl.file) or any(isinstance(step, TELL_RULES) for step in config.auth.chain)


def _same_sockets(old: tuple[Listener, ...], new: tuple[Listener, ...]) -> bool:
    if len(old) != len(new):
        return False
    return all(
        replace(b, **{name: getattr(a, name) for name in HOT_OF_LISTENERS}) == a for a, b in zip(old, new, strict=True)
    )
