"""Connections between the workers of a host, over Unix sockets; what goes over them is the engine's (`_fabric.pyx`).

Each worker connects to each other one, and again whenever that connection ends: the other has been killed, and starts
anew. The connector says its number and instance, the other answers with its instance; then the engine has the socket.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from fastmq import logs
from fastmq._hub import Hub
from fastmq.config.place import Place
from fastmq.errors import StartError

HELLO: Final = struct.Struct("!4sIQ")
"""Magic, number, instance."""
MAGIC: Final = b"fmq1"
ANSWER: Final = struct.Struct("!Q")
RETRY_S: Final = 0.02
RETRY_MAX_S: Final = 0.5
HELLO_S: Final = 5.0
"""Who takes a connection, and says nothing for so long, hangs."""
READY_S: Final = 120.0
"""So long a worker that starts waits for others that start as well: they may have much to load."""

log = logs.get("fabric")


class Local:
    """This worker's connections to the others; all methods belong to the loop's thread."""

    def __init__(self, hub: Hub, place: Place) -> None:
        self._hub = hub
        self._place = place
        self._instance = secrets.randbits(64) | 1
        self._others = [index for index in range(place.count) if index != place.index]
        self._lost = {index: asyncio.Event() for index in self._others}
        self._unready = set(self._others)
        self._hang: set[int] = set()
        self._all_ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None
        self._hears: dict[str, Callable[[int, Any], None]] = {}
        hub.remotes.on_lost = self._on_lost
        hub.remotes.on_ready = self._on_ready
        hub.remotes.on_told = self._on_told

    def path(self, index: int) -> str:
        """Where a worker listens."""
        return str(Path(self._place.folder) / f"worker-{index}.sock")

    async def start(self) -> None:
        """Listens for the others and connects to them.

        :raises StartError: the socket cannot be made.
        """
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = self.path(self._place.index)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of the process that this one replaces
            listening.bind(path)
            listening.listen(2 * self._place.count)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise StartError(f"{path}: the other workers cannot be heard: {error}") from error
        self._listening = listening
        self._start(self._accept(listening))
        for index in self._others:
            self._start(self._connect(index))

    async def ready(self) -> None:
        """Returns when every other worker has said what its clients want; those that hang are left out.

        What clients publish before that would not reach all that want it.
        """
        if not self._others:
            return
        try:
            async with asyncio.timeout(READY_S):
                await self._all_ready.wait()
        except TimeoutError:
            pass
        if self._unready:
            log.warning("starting without some of the other workers", workers=",".join(map(str, sorted(self._unready))))

    def tell(self, index: int, kind: str, value: Any) -> bool:
        """Says something to another worker's program; False: it is not connected, and will not hear it."""
        return self._hub.remotes.tell(index, orjson.dumps((kind, value)))

    def hear(self, kind: str, call: Callable[[int, Any], None]) -> None:
        """Calls with what other workers say of this kind: who, and what."""
        self._hears[kind] = call

    async def close(self) -> None:
        """Connects no more; the connections are the hub's."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    # -- the engine's side ---------------------------------------------------------------------------------------------

    def _on_lost(self, index: int) -> None:
        self._lost[index].set()

    def _on_ready(self, index: int) -> None:
        self._unready.discard(index)
        self._look()

    def _look(self) -> None:
        if self._unready <= self._hang:
            self._all_ready.set()

    def _on_told(self, index: int, body: bytes) -> None:
        kind, value = orjson.loads(body)
        call = self._hears.get(kind)
        if call is not None:
            call(index, value)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                found, _ = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors, most likely
                log.rarely("warning", "accept", "another worker could not be heard", reason=error)
                await asyncio.sleep(RETRY_MAX_S)
                continue
            found.setblocking(False)
            self._start(self._hear(found))

    async def _hear(self, found: socket.socket) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                magic, index, instance = HELLO.unpack(await _receive(found, HELLO.size))
                if magic != MAGIC or index not in self._lost:
                    raise ValueError("it is no worker of this broker")
                await asyncio.get_running_loop().sock_sendall(found, ANSWER.pack(self._instance))
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("a connection of another worker failed", reason=error)
            found.close()
            return
        self._hub.remotes.hear(index, found.detach(), instance)

    async def _connect(self, index: int) -> None:
        wait_s = RETRY_S
        while True:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.setblocking(False)
            try:
                async with asyncio.timeout(HELLO_S):
                    instance = await self._greet(made, index)
            except (OSError, TimeoutError) as error:
                made.close()
                if isinstance(error, TimeoutError):
                    self._hang.add(index)
                    self._look()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 1.5, RETRY_MAX_S)
                continue
            except BaseException:
                made.close()
                raise
            wait_s = RETRY_S
            self._hang.discard(index)
            self._lost[index].clear()
            self._hub.remotes.speak(index, made.detach(), instance)
            log.debug("connected to another worker", to=index)
            await self._lost[index].wait()
            log.debug("another worker is gone", to=index)

    async def _greet(self, made: socket.socket, index: int) -> int:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(made, self.path(index))
        await loop.sock_sendall(made, HELLO.pack(MAGIC, self._place.index, self._instance))
        (instance,) = ANSWER.unpack(await _receive(made, ANSWER.size))
        return int(instance)


async def _receive(found: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(found, size - len(data))
        if not more:
            raise ConnectionResetError("it has gone again")
        data += more
    return data
