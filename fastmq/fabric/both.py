"""The workers of this host and the other nodes, as one fabric."""

from collections.abc import Callable
from typing import Any

from fastmq.contracts import Fabric
from fastmq.fabric.claims import Claims
from fastmq.fabric.cluster import Cluster
from fastmq.fabric.elsewhere import Elsewhere
from fastmq.fabric.facts import SharedFacts
from fastmq.fabric.standins import StandIns


class Both:
    """Starts and ends them together; what is told goes to workers of this host."""

    def __init__(
        self,
        near: Fabric | None,
        cluster: Cluster,
        elsewhere: Elsewhere,
        claims: Claims,
        stand_ins: StandIns | None = None,
        facts: SharedFacts | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._claims = claims
        self._near = near
        self._cluster = cluster
        self._stand_ins = stand_ins
        self._facts = facts

    async def start(self) -> None:
        """Connects.

        :raises StartError: it cannot.
        """
        if self._near is not None:
            await self._near.start()
        if self._facts is not None:
            self._facts.start()
        await self._cluster.start()

    async def ready(self) -> None:
        """Returns when all that are there have said what their clients want."""
        if self._near is not None:
            await self._near.ready()
        await self._cluster.ready()

    def tell(self, index: int, kind: str, value: Any) -> bool:
        """See `Local.tell`."""
        return self._near is not None and self._near.tell(index, kind, value)

    def hear(self, kind: str, call: Callable[[int, Any], None]) -> None:
        """See `Local.hear`."""
        if self._near is not None:
            self._near.hear(kind, call)

    async def close(self) -> None:
        """Leaves the cluster, then the host."""
        if self._stand_ins is not None:
            await self._stand_ins.close()
        if self._facts is not None:
            await self._facts.close()
        await self._claims.close()
        await self._elsewhere.close()
        await self._cluster.close()
        if self._near is not None:
            await self._near.close()
