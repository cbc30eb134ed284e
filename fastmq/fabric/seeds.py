"""Where nodes are looked for that no multicast reaches: `cluster.join`, and what a name in the DNS stands for."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Final

from fastmq import logs
from fastmq.config.cluster import PORT, ClusterSettings, endpoint

AGAIN_S: Final = 10.0

log = logs.get("cluster")


class Seeds:
    """The addresses to begin with, as HOST:PORT."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings

    async def find(self) -> list[str]:
        """Those of now. A name that stands for nothing yet is no error: its nodes may start later."""
        found = [_joined(*endpoint(each)) for each in self._settings.join]
        name = self._settings.dns
        if name:
            try:
                found += await (_services(name) if name.startswith("_") else _addresses(name, PORT))
            except OSError as error:
                log.rarely("warning", "dns", "a name of the cluster stands for nothing", name=name, reason=error)
        return sorted(set(found))

    async def changes(self, known: list[str]) -> AsyncIterator[list[str]]:
        """The addresses, whenever they are others."""
        while True:
            await asyncio.sleep(AGAIN_S)
            found = await self.find()
            if found and found != known:
                known = found
                yield found


async def _addresses(name: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [_joined(str(address[0]), port) for *_, address in found]


async def _services(name: str) -> list[str]:
    """What SRV records name, each with its own port."""
    from dns.asyncresolver import resolve
    from dns.exception import DNSException

    try:
        records = await resolve(name, "SRV")
    except DNSException as error:
        raise OSError(str(error)) from None
    found: list[str] = []
    for record in records:
        found += await _addresses(record.target.to_text(omit_final_dot=True), record.port)
    return found


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
