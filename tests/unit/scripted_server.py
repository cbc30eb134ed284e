"""A server that does what a test tells it, packet by packet, on a real socket: for what no broker does on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastmq._codec import Decoder, encode
from fastmq.client import Client
from fastmq.packets import Connack, Connect, Packet

__all__ = ["Run", "ScriptedServer", "Session", "scripted", "until"]

Wanted = TypeVar("Wanted")
Run = Callable[[Coroutine[Any, Any, None]], None]


class Session:
    """One accepted connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connect: Connect | None = None
        self.writer = writer
        self._reader = reader
        self._decoder = Decoder()
        self._packets: list[Packet] = []

    async def receive(self, kind: type[Wanted]) -> Wanted:
        """The next packet, which must be of this kind."""
        while not self._packets:
            data = await self._reader.read(65_536)
            assert data, f"the client closed instead of sending {kind.__name__}"
            self._packets += self._decoder.feed(data)
        packet = self._packets.pop(0)
        assert isinstance(packet, kind), packet
        return packet

    async def accept(self, connack: Connack | None = None) -> Connect:
        self.connect = await self.receive(Connect)
        await self.send(connack or Connack())
        return self.connect

    async def send(self, *packets: Packet) -> None:
        assert self._decoder.version, "CONNECT first"
        self.writer.write(b"".join(encode(each, self._decoder.version) for each in packets))
        await self.writer.drain()

    async def is_closed(self) -> bool:
        return not self._packets and await self._reader.read(1) == b""

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class ScriptedServer:
    def __init__(self, port: int, sessions: "asyncio.Queue[Session]") -> None:
        self.port = port
        self.clients: list[Client] = []
        self._sessions = sessions

    def client(self, **options: Any) -> Client:
        self.clients.append(Client("127.0.0.1", self.port, **options))
        return self.clients[-1]

    async def session(self) -> Session:
        """The next connection that comes."""
        return await self._sessions.get()

    async def connected(self, connack: Connack | None = None, **options: Any) -> tuple[Client, Session]:
        client = self.client(**options)
        connecting = asyncio.ensure_future(client.connect())
        session = await self.session()
        await session.accept(connack)
        await connecting
        return client, session


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedServer]:
    sessions: asyncio.Queue[Session] = asyncio.Queue()
    accepted: list[Session] = []

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(Session(reader, writer))
        sessions.put_nowait(accepted[-1])

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    scripted_server = ScriptedServer(server.sockets[0].getsockname()[1], sessions)
    try:
        async with asyncio.timeout(15):
            yield scripted_server
    finally:
        for client in scripted_server.clients:
            await client.disconnect()
        server.close()
        for session in accepted:
            session.writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    """For what nothing announces; `scripted` bounds the wait."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
