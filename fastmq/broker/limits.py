"""What clients may send: the rates that each connection is held to."""

from collections import OrderedDict
from typing import Final

from fastmq._hub import Hub
from fastmq._meter import Rates
from fastmq.config.schema import Config

ADDRESSES_MAX: Final = 10_000
"""Whose connects are counted; then the one that was heard of longest ago is forgotten."""


class Limits:
    """Those of one worker."""

    def __init__(self, hub: Hub, config: Config) -> None:
        self._hub = hub
        self._limits = limits = config.limits
        self._own = bool(limits.messages_per_s or limits.bytes_per_s)
        self._by_user = bool(limits.user_messages_per_s or limits.user_bytes_per_s)
        self._users: dict[str, Rates] = {}
        self._swept_at = 64
        self._connects = [Rates(limits.connects_per_s, 0, limits.burst_s) for _ in config.listen]
        self._addresses: OrderedDict[str, Rates] = OrderedDict()
        self.on_connects = bool(limits.connects_per_s or limits.address_connects_per_s)
        self._listeners = [
            Rates(each.messages_per_s, each.bytes_per_s, limits.burst_s)
            if each.messages_per_s or each.bytes_per_s
            else None
            for each in config.listen
        ]

    def may_connect(self, listener: int, address: str) -> bool:
        """Whether one more client may connect now; counts it."""
        now = self._hub.now_ms
        limits = self._limits
        if limits.connects_per_s and not self._connects[listener].take(now):
            return False
        if limits.address_connects_per_s and address:
            found = self._addresses.get(address)
            if found is None:
                found = self._addresses[address] = Rates(limits.address_connects_per_s, 0, limits.burst_s)
                if len(self._addresses) > ADDRESSES_MAX:
                    self._addresses.popitem(last=False)
            self._addresses.move_to_end(address)
            return found.take(now)
        return True

    def hold(self, conn: int, username: str | None) -> None:
        """Holds a connection to its own rates, its user's and its listener's."""
        limits = self._limits
        rates: list[Rates] = []
        if self._own:
            rates.append(Rates(limits.messages_per_s, limits.bytes_per_s, limits.burst_s))
        if self._by_user and username is not None:
            rates.append(self._user(username))
        if (listener := self._listeners[self._hub.listener(conn)]) is not None:
            rates.append(listener)
        if rates:
            self._hub.limit(conn, rates)

    def _user(self, username: str) -> Rates:
        found = self._users.get(username)
        if found is None:
            if len(self._users) >= self._swept_at:
                self._users = {name: each for name, each in self._users.items() if each.is_used}
                self._swept_at = max(64, 2 * len(self._users))
            limits = self._limits
            found = Rates(limits.user_messages_per_s, limits.user_bytes_per_s, limits.burst_s)
            self._users[username] = found
        return found
