"""Bans as they stand: of the settings and of the store. Who is banned while it is connected is disconnected."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from fastmq import logs
from fastmq._hub import Hub
from fastmq.broker.bans import PREFIX, Bans, ban_of, stored
from fastmq.broker.facts import Facts
from fastmq.config.schema import BanSettings
from fastmq.errors import StoreError
from fastmq.reasons import Reason

SLICE: Final = 200
"""So many connections are looked at before others have a turn."""
TIDY_S: Final = 60.0
"""How often bans that have ended are removed from the store."""

log = logs.get("broker")


class Banning:
    """Those of one worker."""

    def __init__(self, hub: Hub, settings: BanSettings, facts: Facts, clock: Callable[[], float] = time.time) -> None:
        self._hub = hub
        self._settings = settings
        self._facts = facts
        self._clock = clock
        self._tidied_at = clock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.bans = Bans(settings, stored(facts.under(PREFIX)), clock=clock)
        """As they are now."""
        facts.watch(self._changed)

    def reload(self, settings: BanSettings) -> None:
        """Other settings."""
        self._settings = settings
        self._changed()

    def tick(self) -> None:
        """Called by the worker, several times a second."""
        if self._clock() - self._tidied_at >= TIDY_S:
            self._tidied_at = self._clock()
            if ended := [
                f"{PREFIX}{name}" for name, value in self._facts.under(PREFIX).items() if self._is_over(name, value)
            ]:
                self._start(self._remove(ended))

    async def close(self) -> None:
        """Looks no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_over(self, name: str, value: bytes) -> bool:
        try:
            return ban_of(name, value).ends_at() <= self._clock()
        except ValueError:
            return False

    def _changed(self) -> None:
        self.bans = self.bans.renewed(self._settings, stored(self._facts.under(PREFIX)))
        if self.bans.any_rules:
            try:
                self._start(self._expel())
            except RuntimeError:  # no loop runs yet, so nobody is connected
                return

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove(self, keys: list[str]) -> None:
        try:
            await self._facts.put(dict.fromkeys(keys))
        except StoreError as error:
            log.rarely("warning", "bans", "bans that have ended stay in the store for now", reason=error)

    async def _expel(self) -> None:
        for at, (conn, client_id, username) in enumerate(self._hub.connected()):
            name = username.decode() if username is not None else None
            address = self._hub.peer(conn).rpartition(":")[0].strip("[]")
            if why := self.bans.banned(client_id.decode(), name, address):
                self._hub.close_connection(conn, Reason.ADMINISTRATIVE_ACTION)  # 0x8A is for CONNACK only
                log.info("a connected client is banned", client=client_id.decode(), detail=why)
            if at % SLICE == SLICE - 1:
                await asyncio.sleep(0)
