"""Listening sockets: bound here, accepted by the hub."""

import errno
import os
import socket

from fastmq._hub import Hub
from fastmq.config.listener import Listener
from fastmq.errors import StartError

BACKLOG = 4096


class Listeners:
    """The open listeners of one worker."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sockets: list[tuple[Listener, socket.socket]] = []

    def open(self, listener: Listener) -> Listener:
        """Binds and listens; returns the listener with its real port.

        :raises StartError: the address cannot be bound; the message names it and says why.
        """
        bound = _bind(listener)
        self._sockets.append((listener, bound))
        self._hub.listen(bound.fileno(), len(self._sockets) - 1)
        return Listener(listener.scheme, listener.host, bound.getsockname()[1])

    def close(self) -> None:
        """Accepts no more."""
        for _, bound in self._sockets:
            self._hub.unlisten(bound.fileno())
            bound.close()
        self._sockets.clear()


def _bind(listener: Listener) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise StartError(f"{listener}: the host name is not known here ({error.strerror})") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise StartError(f"{listener}: {_why(error)}") from None
    return bound


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop what uses it, or choose another with --listen"
    if error.errno == errno.EACCES:
        return "ports below 1024 need the right to bind them; choose a higher one, or give CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return os.strerror(error.errno or 0)
