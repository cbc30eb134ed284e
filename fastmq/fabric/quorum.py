"""Whether enough nodes are in sight to go on: a part of a cluster that is cut off may be told to refuse its clients."""

from typing import Final

from fastmq import logs
from fastmq._hub import Hub
from fastmq.fabric.cluster import Cluster, Member
from fastmq.reasons import Reason

log: Final = logs.get("cluster")


class Quorum:
    """Of one worker; all methods belong to the loop's thread."""

    def __init__(self, hub: Hub, cluster: Cluster, needed: int) -> None:
        """`needed`: so many nodes, this one among them; 0: it goes on alone."""
        self._hub = hub
        self._cluster = cluster
        self._needed = needed
        self._was_there = self.is_there
        cluster.on_up.append(self._look)
        cluster.on_gone.append(self._look)

    @property
    def is_there(self) -> bool:
        """Whether this node may serve clients."""
        return self._needed <= 1 or self._count() >= self._needed

    def _count(self) -> int:
        # Hosts, not names: who stands in for a node is one more process of a host that is there.
        return len({each.peer.at for each in self._cluster.members()} | {self._cluster.me.at})

    def _look(self, _member: Member) -> None:
        is_there = self.is_there
        if is_there == self._was_there:
            return
        self._was_there = is_there
        if is_there:
            log.info("enough nodes are in sight; clients are served", nodes=self._count(), quorum=self._needed)
            return
        ended = self._hub.close_all(Reason.USE_ANOTHER_SERVER)
        log.error(
            "too few nodes are in sight; clients are refused",
            nodes=self._count(),
            quorum=self._needed,
            disconnected=ended,
        )
