"""Who may not connect: the settings' list, and clients that connect too often."""

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from fastmq import logs
from fastmq.config import bans, networks
from fastmq.config.networks import Network
from fastmq.config.schema import BanSettings

CLIENTS_MAX: Final = 10_000
"""Client identifiers whose connects are remembered; then the one that was heard of longest ago is forgotten."""

log = logs.get("broker")


class Bans:
    """Those of one worker."""

    def __init__(self, settings: BanSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._ids: dict[str, bans.Ban] = {}
        self._names: dict[str, bans.Ban] = {}
        self._networks: list[tuple[Network, bans.Ban]] = []
        self._patterns: list[tuple[re.Pattern[str], bool, bans.Ban]] = []
        for rule in settings.rules:
            if isinstance(rule, bans.ClientId):
                self._ids[rule.value] = rule
            elif isinstance(rule, bans.Username):
                self._names[rule.value] = rule
            elif isinstance(rule, bans.Address):
                self._networks.append((networks.parse((rule.value,))[0], rule))
            else:
                self._patterns.append((re.compile(rule.value), isinstance(rule, bans.ClientIdRegex), rule))
        self._connects: OrderedDict[str, deque[float]] = OrderedDict()
        self._flapping: OrderedDict[str, float] = OrderedDict()
        self.any = bool(settings.rules) or settings.flapping

    def renewed(self, settings: BanSettings) -> "Bans":
        """With other settings, and what is known of clients that connect too often."""
        made = Bans(settings, self._clock)
        made._flapping = self._flapping
        return made

    def why(self, client_id: str, username: str | None, address: str) -> str:
        """Why this client may not connect; empty: it may."""
        now = self._clock()
        for rule in self._rules(client_id, username, address):
            if now < rule.ends_at():
                return f"banned by its {rule.told[1]}" + (f": {rule.reason}" if rule.reason else "")
        return self._flaps(client_id, now) if self._settings.flapping and client_id else ""

    def _rules(self, client_id: str, username: str | None, address: str) -> list[bans.Ban]:
        found = [self._ids.get(client_id), self._names.get(username) if username is not None else None]
        found += [rule for network, rule in self._networks if networks.is_within(address, [network])]
        for pattern, is_id, rule in self._patterns:
            text = client_id if is_id else username
            if text is not None and pattern.fullmatch(text):
                found.append(rule)
        return [rule for rule in found if rule is not None]

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
