"""Listening sockets: bound here. The hub accepts from those of TCP and Unix, the event loop from TLS and WebSocket."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from dataclasses import replace
from typing import Any, Final

from fastmq import logs
from fastmq._hub import Hub
from fastmq.broker import proxy, tls
from fastmq.broker.streams import BUFFER_BYTES, END_S, Stream
from fastmq.config import networks
from fastmq.config.listener import SECURE, WEB, Listener
from fastmq.errors import StartError

BACKLOG: Final = 4096
HEADERS_MAX: Final = 500
"""PROXY headers of one listener that are awaited at a time."""
ACCEPT_PAUSE_S: Final = 0.25

log = logs.get("broker")


class Listeners:
    """The open listeners of one worker. Times are seconds, sizes bytes."""

    def __init__(self, hub: Hub, *, connect_timeout_s: float, packet_max: int) -> None:
        self._hub = hub
        self._connect_timeout_s = connect_timeout_s
        self._packet_max = packet_max
        self._sockets: list[tuple[Listener, socket.socket]] = []
        self._servers: list[asyncio.AbstractServer] = []
        self._contexts: list[tls.Contexts] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._looked_at = 0.0

    async def open(self, listener: Listener) -> Listener:
        """Binds and listens; returns the listener with its real port.

        :raises StartError: the address cannot be bound; the message names it and says why.
        """
        number = len(self._sockets)
        contexts = None
        if listener.scheme in SECURE:
            contexts = tls.Contexts(listener, tls.WEB_PROTOCOLS if listener.scheme in WEB else tls.PROTOCOLS)
            self._contexts.append(contexts)
        bound = _bind_unix(listener) if listener.scheme == "unix" else _bind(listener)
        self._sockets.append((listener, bound))
        try:
            self._hub.allow_connections(number, listener.connections_max)
        except ValueError as error:
            raise StartError(f"{listener}: {error}") from None
        if listener.proxy_protocol:
            self._tasks.append(asyncio.create_task(self._accept_from_proxies(listener, number, bound, contexts)))
        elif contexts is None and listener.scheme not in WEB:
            self._hub.listen(bound.fileno(), number)
        else:
            # The server closes its socket; ours stays, so that both ways of listening are closed alike.
            self._servers.append(await self._serve(listener, number, bound.dup(), contexts))
        if listener.scheme == "unix":
            return listener
        return replace(listener, port=bound.getsockname()[1])

    async def _serve(
        self, listener: Listener, number: int, bound: socket.socket, contexts: tls.Contexts | None
    ) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"sock": bound, "backlog": BACKLOG}
        if contexts is not None:
            options |= {
                "ssl": contexts.context,
                "ssl_handshake_timeout": self._connect_timeout_s,
                "ssl_shutdown_timeout": END_S,
            }
        if listener.scheme in WEB:
            from fastmq.broker import websocket  # here: it needs picows, which not every machine has

            return await websocket.serve(
                listener, self._hub.sinks, number, self._packet_max, self._connect_timeout_s, **options
            )
        view = memoryview(bytearray(BUFFER_BYTES))
        return await loop.create_server(lambda: Stream(self._hub.sinks, number, view, loop), **options)

    async def _accept_from_proxies(
        self, listener: Listener, number: int, bound: socket.socket, contexts: tls.Contexts | None
    ) -> None:
        """Takes connections that begin with a PROXY header; a few at a time are read, the others wait in the kernel."""
        loop = asyncio.get_running_loop()
        trusted = networks.parse(listener.trusted_proxies)
        view = memoryview(bytearray(BUFFER_BYTES))
        introducing: set[asyncio.Task[None]] = set()
        reads = asyncio.Semaphore(HEADERS_MAX)

        async def introduce(connection: socket.socket) -> None:
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    origin = await proxy.read_header(connection)
            except (TimeoutError, proxy.ProxyError) as error:
                connection.close()
                why = str(error) or "no header in time"
                log.rarely("warning", listener.title, "refused a connection", listener=listener.title, reason=why)
                return
            finally:
                reads.release()
            with contextlib.suppress(OSError):  # its TLS may fail
                await loop.connect_accepted_socket(
                    lambda: Stream(self._hub.sinks, number, view, loop, origin),
                    connection,
                    ssl=contexts.context if contexts is not None else None,
                    ssl_handshake_timeout=self._connect_timeout_s if contexts is not None else None,
                    ssl_shutdown_timeout=END_S if contexts is not None else None,
                )

        try:
            while True:
                await reads.acquire()
                try:
                    connection, address = await loop.sock_accept(bound)
                except OSError as error:
                    reads.release()
                    log.rarely("error", "accept", "cannot accept a connection", error=error)
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                if not networks.is_within(address[0], trusted):
                    connection.close()
                    reads.release()
                    log.rarely(
                        "warning", f"{listener.title} {address[0]}", "refused one who is no proxy", peer=address[0]
                    )
                    continue
                task = loop.create_task(introduce(connection))
                introducing.add(task)
                task.add_done_callback(introducing.discard)
        finally:
            for task in introducing:
                task.cancel()

    def tick(self) -> None:
        """Called by the worker, several times a second: looks after certificates."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= tls.LOOK_S:
            self._looked_at = now
            for contexts in self._contexts:
                contexts.refresh()

    def close(self) -> None:
        """Accepts no more."""
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        for listener, bound in self._sockets:
            self._hub.unlisten(bound.fileno())
            bound.close()
            if listener.scheme == "unix":
                with contextlib.suppress(OSError):
                    os.unlink(listener.host)
        self._sockets.clear()
        self._servers.clear()


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
