"""Who may not connect: the settings' list, and clients that connect too often."""

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import orjson

from fastmq import logs
from fastmq.config import bans, networks
from fastmq.config.networks import Network
from fastmq.config.schema import BanSettings

CLIENTS_MAX: Final = 10_000
"""Client identifiers whose connects are remembered; then the one that was heard of longest ago is forgotten."""

log = logs.get("broker")


PREFIX: Final = "ban/"
"""Of the facts that are bans: `ban/client_id/sensor-7`, and JSON with `until` and `reason`."""
KINDS: Final = {kind.told[1]: kind for kind in bans.KINDS}


def fact_of(ban: bans.Ban) -> tuple[str, bytes]:
    """A ban as a fact."""
    return f"{PREFIX}{ban.told[1]}/{ban.value}", orjson.dumps({"until": ban.until, "reason": ban.reason})


def ban_of(name: str, value: bytes) -> bans.Ban:
    """A ban from a fact; `name` is its key without the prefix.

    :raises ValueError: it is none.
    """
    by, _, who = name.partition("/")
    told = orjson.loads(value)
    if (
        by not in KINDS
        or not who
        or not isinstance(told, dict)
        or not all(isinstance(each, str) for each in told.values())
    ):
        raise ValueError(f"{name!r:.100} is no ban")
    ban = KINDS[by](value=who, until=told.get("until", ""), reason=told.get("reason", ""))
    if wrong := ban.wrong():
        raise ValueError(f"{name!r:.100}: {wrong[0]} {wrong[1]}")
    return ban


def stored(facts: Mapping[str, bytes]) -> list[bans.Ban]:
    """The bans among facts, their keys without the prefix. What is none is told, and left out."""
    found = []
    for name, value in facts.items():
        try:
            found.append(ban_of(name, value))
        except ValueError as error:
            log.rarely("error", "bans", "a ban in the store cannot be used", reason=error)
    return found


class Bans:
    """Those of one worker: of the settings, and `more` of them."""

    def __init__(
        self, settings: BanSettings, more: Iterable[bans.Ban] = (), *, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._ids: dict[str, list[bans.Ban]] = {}
        self._names: dict[str, list[bans.Ban]] = {}
        self._networks: list[tuple[Network, bans.Ban]] = []
        self._patterns: list[tuple[re.Pattern[str], bool, bans.Ban]] = []
        for rule in (*more, *settings.rules):
            if isinstance(rule, bans.ClientId):
                self._ids.setdefault(rule.value, []).append(rule)
            elif isinstance(rule, bans.Username):
                self._names.setdefault(rule.value, []).append(rule)
            elif isinstance(rule, bans.Address):
                self._networks.append((networks.parse((rule.value,))[0], rule))
            else:
                self._patterns.append((re.compile(rule.value), isinstance(rule, bans.ClientIdRegex), rule))
        self._connects: OrderedDict[str, deque[float]] = OrderedDict()
        self._flapping: OrderedDict[str, float] = OrderedDict()
        self.any_rules = bool(self._ids or self._names or self._networks or self._patterns)
        self.any = self.any_rules or settings.flapping

    def renewed(self, settings: BanSettings, more: Iterable[bans.Ban]) -> "Bans":
        """With other rules, and what is known of clients that connect too often."""
        made = Bans(settings, more, clock=self._clock)
        made._flapping = self._flapping
        if settings.flapping_connects == self._settings.flapping_connects:
            made._connects = self._connects
        return made

    def why(self, client_id: str, username: str | None, address: str) -> str:
        """Why this client may not connect; empty: it may. Counts it."""
        if why := self.banned(client_id, username, address):
            return why
        return self._flaps(client_id, self._clock()) if self._settings.flapping and client_id else ""

    def banned(self, client_id: str, username: str | None, address: str) -> str:
        """Why this client may not be here; empty: it may."""
        now = self._clock()
        for rule in self._rules(client_id, username, address):
            if now < rule.ends_at():
                return f"banned by its {rule.told[1]}" + (f": {rule.reason}" if rule.reason else "")
        return ""

    def _rules(self, client_id: str, username: str | None, address: str) -> list[bans.Ban]:
        found = [*self._ids.get(client_id, ()), *(self._names.get(username, ()) if username is not None else ())]
        found += [rule for network, rule in self._networks if networks.is_within(address, [network])]
        for pattern, is_id, rule in self._patterns:
            text = client_id if is_id else username
            if text is not None and pattern.fullmatch(text):
                found.append(rule)
        return found

    def _flaps(self, client_id: str, now: float) -> str:
        until = self._flapping.get(client_id)
        if until is not None:
            if now < until:
                return "it connects too often"
            del self._flapping[client_id]
        settings = self._settings
        times = self._connects.setdefault(client_id, deque(maxlen=settings.flapping_connects))
        self._connects.move_to_end(client_id)
        times.append(now)
        if len(self._connects) > CLIENTS_MAX:
            self._connects.popitem(last=False)
        if len(times) < settings.flapping_connects or now - times[0] > settings.flapping_window_s:
            return ""
        del self._connects[client_id]
        self._flapping[client_id] = now + settings.flapping_ban_s
        if len(self._flapping) > CLIENTS_MAX:
            self._flapping.popitem(last=False)
        log.warning("a client connects too often and is banned", client=client_id, seconds=settings.flapping_ban_s)
        return "it connects too often"
