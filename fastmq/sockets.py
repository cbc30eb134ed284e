"""Listening sockets: bound, shared by several processes or taken over from the one that did, and why one cannot be."""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import replace
from typing import Final

from fastmq.config.listener import Listener
from fastmq.errors import StartError

BACKLOG: Final = 4096


def bind(listener: Listener, *, port_is_shared: bool = False) -> socket.socket:
    """Binds and listens; does not block. With `port_is_shared` others may bind the same port, who ask for it, too.

    :raises StartError: the address cannot be bound; the message names the listener and says why.
    """
    if listener.scheme == "unix":
        return _bind_unix(listener)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise StartError(f"{listener}: the host name is not known here ({error.strerror})") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port_is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise StartError(f"{listener}: {_why(error)}") from None
    return bound


def ports_can_be_shared() -> bool:
    """Whether each of several sockets of one port gets its part of the connections here."""
    if not hasattr(socket, "SO_REUSEPORT"):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:  # a kernel that is older than what Python was built on
            return False
    return True


def inherited(descriptor: int) -> socket.socket:
    """The listening socket that the process which started this one has bound."""
    taken = socket.socket(fileno=descriptor)
    taken.set_inheritable(False)
    return taken


def with_port(listener: Listener, bound: socket.socket) -> Listener:
    """The listener with the port that was found for it."""
    return listener if listener.scheme == "unix" else replace(listener, port=bound.getsockname()[1])


def remove(listener: Listener) -> None:
    """Removes what a listener leaves in the file system."""
    if listener.scheme == "unix":
        with contextlib.suppress(OSError):
            os.unlink(listener.host)


def _bind_unix(listener: Listener) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_room(listener.host)
        before = os.umask(0o777)  # nobody connects before the rights are as they should be
        try:
            bound.bind(listener.host)
        finally:
            os.umask(before)
        os.chmod(listener.host, int(listener.mode, 8))
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise StartError(f"{listener}: {_why(error)}") from None
    return bound


def _make_room(path: str) -> None:
    """Removes the socket of a broker that is no more.

    :raises OSError: something else is there, or a socket that somebody listens on.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "exists")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "in use")


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop what uses it, or choose another with --listen"
    if error.errno == errno.EACCES:
        return "ports below 1024 need the right to bind them; choose a higher one, or give CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EEXIST:
        return "there is a file that is no socket; remove it, or choose another path"
    return os.strerror(error.errno) if error.errno else str(error)
