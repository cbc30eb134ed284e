"""What clients may send: the rates that each connection is held to."""

from fastmq._hub import Hub
from fastmq._meter import Rates
from fastmq.config.schema import Config


class Limits:
    """Those of one worker."""

    def __init__(self, hub: Hub, config: Config) -> None:
        self._hub = hub
        self._limits = limits = config.limits
        self._own = bool(limits.messages_per_s or limits.bytes_per_s)
        self._by_user = bool(limits.user_messages_per_s or limits.user_bytes_per_s)
        self._users: dict[str, Rates] = {}
        self._swept_at = 64
        self._listeners = [
            Rates(each.messages_per_s, each.bytes_per_s, limits.burst_s)
            if each.messages_per_s or each.bytes_per_s
            else None
            for each in config.listen
        ]

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
