"""Which access control list each connection is held to, and what is told of denials."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from fastmq import logs
from fastmq._access import Access
from fastmq._hub import Hub
from fastmq.contracts import Authorizer, Client

LOOK_S: Final = 1.0
"""How often it is looked whether the rules have changed."""
SLICE: Final = 200
"""So many clients get their new lists before others have a turn."""

ACTIONS: Final = {1: "publish", 2: "subscribe"}

log = logs.get("acl")


class Guards:
    """Those of one worker."""

    def __init__(self, hub: Hub, authorizer: Authorizer, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._authorizer = authorizer
        self._clock = clock
        self._clients: dict[int, Client] = {}
        self._swept_at = 64
        self._looked_at = clock()
        self._renewed = False
        self._refreshing: asyncio.Task[None] | None = None
        hub.on_denied = self.on_denied

    async def admit(self, conn: int, client: Client) -> Access | None:
        """Holds the connection of a client to what this client may do, from now on and when the rules change."""
        self._sweep()
        self._clients[conn] = client  # first: the rules may change while the list is made
        try:
            access = await self._authorizer.access(client)
        except BaseException:
            self._clients.pop(conn, None)
            raise
        self._hub.allow(conn, access)
        return access

    def reload(self, authorizer: Authorizer) -> None:
        """Other rules, for connected clients too."""
        self._authorizer = authorizer
        self._renewed = True
        self._looked_at = float("-inf")

    def why(self, access: Access, rule: int) -> str:
        """Where the rule is written that decided."""
        return self._authorizer.place(access.serial, rule)

    def tick(self) -> None:
        """Called by the worker, several times a second."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S and (self._refreshing is None or self._refreshing.done()):
            self._looked_at = now
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def close(self) -> None:
        """Looks no more."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def on_denied(self, client_id: bytes, action: int, topic: bytes, serial: int, rule: int) -> None:
        """Called by the hub. Long identifiers and topics come cut short."""
        client, name = client_id.decode(errors="replace"), topic.decode(errors="replace")
        place = self._authorizer.place(serial, rule)
        what = ACTIONS[action]
        log.rarely("warning", f"{client} {what} {place}", "denied", client=client, action=what, topic=name, rule=place)

    async def _refresh(self) -> None:
        try:
            if not await self._authorizer.refresh() and not self._renewed:
                return
            self._renewed = False
            self._sweep(at_once=True)
            for at, (conn, client) in enumerate(list(self._clients.items())):
                self._hub.allow(conn, await self._authorizer.access(client))
                if at % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
        except Exception:
            log.exception("the rules could not be renewed; connected clients keep those they have")

    def _sweep(self, at_once: bool = False) -> None:
        """Forgets connections that have gone."""
        if at_once or len(self._clients) >= self._swept_at:
            self._clients = {conn: each for conn, each in self._clients.items() if self._hub.is_open(conn)}
            self._swept_at = max(64, 2 * len(self._clients))
