"""Connections on their way to their clients' home workers.

The worker that a client's connection came to reads its CONNECT, and gives both to the client's home. A plain socket
goes as it is. One with TLS, WebSocket or a proxy in front of it stays, and is relayed: the home gets one end of a pair
of sockets, and what is known of the client.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from fastmq import logs
from fastmq._hub import Hub
from fastmq.config.place import Place
from fastmq.contracts import Certificate
from fastmq.errors import StartError
from fastmq.fabric.relay import Relay

RETRY_S: Final = 0.05
LAST_WORDS_MS: Final = 1000
PIECE: Final = 65_536
"""Bytes of one message between workers."""
DATA_MAX: Final = 1 << 29
"""More than the largest packet and what a transport reads ahead behind it, which the giver had in memory."""
TAKEN: Final = b"+"
HEAD_MAX: Final = 1 << 17
"""A certificate and the cookies of a browser."""

log = logs.get("fabric")


class Known:
    """What the worker knew that has read a client's CONNECT; in the place of a sink."""

    __slots__ = ("certificate", "client_id", "cookies", "hops", "peer")

    def __init__(self, told: dict[str, Any]) -> None:
        certificate = told["certificate"]
        self.peer: str = told["peer"]
        self.cookies: dict[str, str] = told["cookies"]
        self.hops: int = told["hops"]
        """How many nodes it has come through."""
        self.client_id: str | None = told["client_id"]
        """What an authenticator made of the client's own identifier."""
        self.certificate = (
            Certificate(**certificate | {"alternative_names": tuple(certificate["alternative_names"])})
            if certificate is not None
            else None
        )

    def end(self) -> None:
        """Its connection has a socket of its own."""


class Given(NamedTuple):
    """A connection on its way: the home's end of it, what is known of it, and what its client has said."""

    descriptor: int
    head: bytes
    data: bytes


async def release(
    hub: Hub, conn: int, relays: set[Relay], packet: bytes, client_id: str | None, *, is_far: bool = False
) -> Given | None:
    """Takes a connection from the hub; None: it has ended. `is_far`: it is for another host, which sees no sockets."""
    sinks = hub.sinks
    listener, known = hub.listener(conn), sinks.sink(conn)
    peer, certificate = hub.peer(conn), getattr(known, "certificate", None)
    released = sinks.release(conn)
    if released is None:
        return None
    there, rest = released
    if isinstance(there, int):
        descriptor, data = there, packet + rest
    else:  # what follows its CONNECT may be as large as any packet
        descriptor, data = await Relay(there, relays, rest).start(), packet
    head = orjson.dumps({
        "listener": listener,
        "size": len(data),
        "known": None if known is None and client_id is None and not is_far else {
            "peer": peer,
            "certificate": None if certificate is None else {
                "subject": certificate.subject,
                "common_name": certificate.common_name,
                "alternative_names": certificate.alternative_names,
            },
            "cookies": getattr(known, "cookies", {}),
            "client_id": client_id or getattr(known, "client_id", None),
            "hops": getattr(known, "hops", 0) + is_far,
        },
    })  # fmt: skip
    return Given(descriptor, head, data)


class Way:
    """A connection to another worker, and what that has not taken yet, oldest first."""

    __slots__ = ("is_open", "socket", "under_way")

    def __init__(self, to: socket.socket) -> None:
        self.socket = to
        self.is_open = True
        self.under_way: deque[asyncio.Future[bool]] = deque()

    async def send(self, given: Given) -> "asyncio.Future[bool]":
        """Sends a connection; what is returned becomes true when it is taken, false when it never will be.

        Raises OSError when the other worker has gone; it has not taken it then.
        """
        try:
            await _send(self.socket, given.head, given.descriptor)
            for at in range(0, len(given.data), PIECE):
                await _send(self.socket, given.data[at : at + PIECE])
        except BaseException:
            self.is_open = False
            with contextlib.suppress(OSError):  # half of it may have been sent; what came before is still taken
                self.socket.shutdown(socket.SHUT_WR)
            raise
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.under_way.append(taken)
        return taken

    async def watch(self) -> None:
        """Hears what is taken, until the other worker is gone."""
        with self.socket:
            try:
                while True:
                    try:
                        if not self.socket.recv(1):
                            break
                    except BlockingIOError:
                        await _ready(self.socket, writing=False)
                    except ConnectionResetError:  # it left something unread; what it said before that comes after this
                        continue
                    else:
                        self._settle(True)
            finally:
                self.is_open = False
                while self.under_way:
                    self._settle(False)

    def _settle(self, taken: bool) -> None:
        if self.under_way and not (first := self.under_way.popleft()).done():
            first.set_result(taken)


class Handover:
    """Gives connections away, and takes those of others; all methods belong to the loop's thread. Times are seconds."""

    def __init__(self, hub: Hub, place: Place, *, timeout_s: float) -> None:
        self._hub = hub
        self._place = place
        self._timeout_s = timeout_s
        self._listening: socket.socket | None = None
        self._is_closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ways: dict[int, Way] = {}
        self._locks = {index: asyncio.Lock() for index in range(place.count)}
        self._relays: set[Relay] = set()

    def path(self, index: int) -> str:
        """Where a worker takes connections."""
        return str(Path(self._place.folder) / f"handover-{index}.sock")

    async def start(self) -> None:
        """Takes connections from now on.

        :raises StartError: the socket cannot be made.
        """
        path = self.path(self._place.index)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listening.bind(path)
            listening.listen(2 * self._place.count)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise StartError(f"{path}: connections of other workers cannot be taken: {error}") from error
        self._listening = listening
        self._start(self._accept(listening))

    async def close(self) -> None:
        """Takes and gives no more. Relays end when the homes of their clients have said their last words."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(LAST_WORDS_MS // 10):
            if not self._relays:
                break
            await asyncio.sleep(0.01)
        for relay in list(self._relays):
            relay.close()
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    # -- giving --------------------------------------------------------------------------------------------------------

    def is_here(self, conn: int, client_id: str) -> bool:
        """Whether a client's session is this worker's affair: its connection need not be handed over, or has been."""
        known = self._hub.sinks.sink(conn)
        if isinstance(known, Known) and known.client_id is not None:
            return True
        return self._place.is_home(client_id.encode())

    async def hand_over(self, conn: int, packet: bytes, client_id: str, *, became: bool) -> bool:
        """Gives a connection and its CONNECT to the client's home worker; False: that is not there.

        `became`: an authenticator has found the client identifier, and the home is to know it from the start.
        """
        home = self._place.home(client_id.encode())
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        given: Given | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while not self._is_closing:
                    async with self._locks[home]:
                        way = await self._way(home)
                        if given is None:
                            if not self._hub.is_open(conn):
                                return True
                            given = await release(self._hub, conn, self._relays, packet, client_id if became else None)
                            if given is None:
                                return True  # the client has gone
                        try:
                            taken = await way.send(given)
                        except OSError:
                            continue
                    if await taken:
                        break
                return True
        except TimeoutError:
            if given is None:
                return False
            # Its worker stands still, and may yet take it, or has gone for longer than it may.
            log.rarely("warning", "handover", "a client's worker has not taken it", to=home)
            return True
        finally:
            if given is not None:
                os.close(given.descriptor)

    async def _way(self, home: int) -> Way:
        """The connection to another worker; it is waited for."""
        while True:
            way = self._ways.get(home)
            if way is not None and way.is_open:
                return way
            to = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            to.setblocking(False)
            try:
                to.connect(self.path(home))
            except OSError:  # it is being started, or its backlog is full
                to.close()
                await asyncio.sleep(RETRY_S)
                continue
            way = self._ways[home] = Way(to)
            self._start(way.watch())

    # -- taking --------------------------------------------------------------------------------------------------------

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            await _ready(listening, writing=False)
            try:
                found, _ = listening.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                log.rarely("warning", "accept", "another worker could not be heard", reason=error)
                await asyncio.sleep(RETRY_S)
                continue
            found.setblocking(False)
            self._start(self._take_all(found))

    async def _take_all(self, way: socket.socket) -> None:
        """Takes connections of one worker, one after the other, until it is gone."""
        with way:
            while True:
                head, descriptor = await _receive(way, HEAD_MAX)
                if descriptor is None:
                    return
                try:
                    told = orjson.loads(head)
                    size, data = told["size"], bytearray()
                    if size > DATA_MAX:
                        raise ValueError("it is too large")
                    while len(data) < size:
                        piece, _ = await _receive(way, PIECE)
                        if not piece:
                            raise ConnectionResetError("it has gone in the middle")
                        data += piece
                    with contextlib.suppress(OSError):  # it has gone since
                        way.send(TAKEN)  # from here on, it is ours: if we die, its client is told nothing more
                    known = Known(told["known"]) if told["known"] is not None else None
                    if self._hub.sinks.adopt(descriptor, told["listener"], data, known) >= 0:
                        descriptor = None
                except (OSError, ValueError) as error:
                    log.warning("a connection of another worker was not taken", reason=error)
                    return
                finally:
                    if descriptor is not None:
                        os.close(descriptor)


async def _ready(waited: socket.socket, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    number = waited.fileno()
    if writing:
        loop.add_writer(number, ready.set)
    else:
        loop.add_reader(number, ready.set)
    try:
        await ready.wait()
    finally:
        if writing:
            loop.remove_writer(number)
        else:
            loop.remove_reader(number)


async def _send(way: socket.socket, data: bytes, descriptor: int | None = None) -> None:
    while True:
        try:
            if descriptor is None:
                way.send(data)
            else:
                socket.send_fds(way, [data], [descriptor])
            return
        except BlockingIOError:
            await _ready(way, writing=True)


async def _receive(way: socket.socket, most: int) -> tuple[bytes, int | None]:
    """One message and the descriptor that came with it; empty when the other end is gone."""
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(way, most, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _ready(way, writing=False)
            continue
        except OSError:
            return b"", None
        return data, descriptors[0] if descriptors else None
