"""Which worker a client's connection belongs to, and how it gets there."""

from fastmq._hub import Hub
from fastmq.broker.connack import packet_of
from fastmq.broker.refusal import Refusal
from fastmq.config.listener import Listener
from fastmq.contracts import Certificate, Homes, Nodes
from fastmq.errors import Unavailable
from fastmq.packets import Connect
from fastmq.reasons import Reason


def identity(certificate: Certificate, which: str) -> str:
    """The name in a certificate: `cn`, `dn` or `san`; empty: it has none."""
    if which == "san":
        return next(iter(certificate.alternative_names), "")
    return {"cn": certificate.common_name, "dn": certificate.subject}.get(which, "")


class Homing:
    """Of one worker among several, of this host or of other nodes."""

    def __init__(self, hub: Hub, homes: Homes | None) -> None:
        self._hub = hub
        self._homes = homes
        self._nodes: Nodes | None = None

    def join(self, nodes: Nodes) -> None:
        """There are other nodes, too."""
        self._nodes = nodes

    def has(self, conn: int, client_id: str) -> bool:
        """Whether the session of this client identifier is this worker's, of those of this host."""
        return self._homes is None or self._homes.is_here(conn, client_id)

    def is_here(self, conn: int, connect: Connect, listener: Listener) -> bool:
        """Whether the client's session is here for sure, as far as is known before it has shown who it is."""
        certificate = getattr(self._hub.sinks.sink(conn), "certificate", None)
        if listener.client_id_from and certificate is not None:
            connect.client_id = identity(certificate, listener.client_id_from) or connect.client_id
        name = connect.client_id
        return not name or (self.has(conn, name) and (self._nodes is None or self._nodes.is_here(conn, name)))

    async def stays(self, conn: int, connect: Connect, body: bytes, *, became: bool = False) -> bool:
        """Whether the session is here, or begins here.

        Else the worker of the client's session gets the connection, and decides as if it had come there. Raises Refusal
        when that worker, or a node that may have the session, is not there.
        """
        name, packet = connect.client_id, packet_of(body)
        if self._homes is not None and not self.has(conn, name):
            if not await self._homes.hand_over(conn, packet, name, became=became):
                raise Refusal(Reason.SERVER_UNAVAILABLE, "the worker that has its session is not there")
            return False
        try:
            return self._nodes is None or await self._nodes.settle(
                conn, packet, name, became=became, clean=connect.clean_start
            )
        except Unavailable as error:
            raise Refusal(Reason.SERVER_UNAVAILABLE, str(error)) from error
