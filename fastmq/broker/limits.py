"""What clients may send and be sent: the rates that each connection is held to."""

from collections import OrderedDict
from typing import Final, NamedTuple

from fastmq._hub import Hub
from fastmq._meter import Rates
from fastmq.config.schema import Config

ADDRESSES_MAX: Final = 10_000
"""Whose connects are counted; then the one that was heard of longest ago is forgotten."""


class Pair(NamedTuple):
    """Rates of one connection, or shared by several; None: no limit."""

    sent: Rates | None
    """What clients send."""
    received: Rates | None
    """What they are sent."""

    @property
    def is_used(self) -> bool:
        """Whether a connection is held to it."""
        return any(each is not None and each.is_used for each in self)


class Limits:
    """Those of one worker."""

    def __init__(self, hub: Hub, config: Config) -> None:
        self._hub = hub
        self._limits = limits = config.limits
        self._users: dict[str, Pair] = {}
        self._swept_at = 64
        self._connects = [Rates(limits.connects_per_s, 0, limits.burst_s) for _ in config.listen]
        self._addresses: OrderedDict[str, Rates] = OrderedDict()
        self.on_connects = bool(limits.connects_per_s or limits.address_connects_per_s)
        self._listeners = [
            Pair(
                self._rates(each.messages_per_s, each.bytes_per_s),
                self._rates(each.messages_out_per_s, each.bytes_out_per_s),
            )
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

    def may_have_session(self, username: str | None) -> bool:
        """Whether this user may have one session more."""
        most = self._limits.user_sessions_max
        return not most or username is None or self._hub.sessions_of(username.encode()) < most

    def hold(self, conn: int, username: str | None) -> None:
        """Holds a connection to its own rates, its user's and its listener's."""
        limits = self._limits
        pairs = [
            Pair(
                self._rates(limits.messages_per_s, limits.bytes_per_s),
                self._rates(limits.messages_out_per_s, limits.bytes_out_per_s),
            ),
            self._listeners[self._hub.listener(conn)],
        ]
        if username is not None:
            pairs.append(self._user(username))
        sent = [each.sent for each in pairs if each.sent is not None]
        received = [each.received for each in pairs if each.received is not None]
        if sent or received:
            self._hub.limit(conn, sent, received)

    def _rates(self, messages_per_s: int, bytes_per_s: int) -> Rates | None:
        return Rates(messages_per_s, bytes_per_s, self._limits.burst_s) if messages_per_s or bytes_per_s else None

    def _user(self, username: str) -> Pair:
        found = self._users.get(username)
        if found is None:
            limits = self._limits
            found = Pair(
                self._rates(limits.user_messages_per_s, limits.user_bytes_per_s),
                self._rates(limits.user_messages_out_per_s, limits.user_bytes_out_per_s),
            )
            if found.sent is None and found.received is None:
                return found
            if len(self._users) >= self._swept_at:
                self._users = {name: each for name, each in self._users.items() if each.is_used}
                self._swept_at = max(64, 2 * len(self._users))
            self._users[username] = found
        return found
