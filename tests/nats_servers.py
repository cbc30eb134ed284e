"""Real NATS servers with JetStream, three of one cluster, as brokers start them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nats
import nats.errors
import nats.js.errors

from fastmq.config.cluster import ClusterSettings
from fastmq.config.jetstream import JetStreamSettings
from fastmq.config.secret import Secret
from fastmq.store.nats_server import USER, NatsServer, password_of

HOST = "127.0.0.1"
READY_S = 60.0
CLUSTER = ClusterSettings(name="test", secret=Secret("of the test"))


def free_ports(count: int) -> int:
    """The first of so many that follow one another; below those that the kernel gives to clients, which come and go."""
    while True:
        first = random.randrange(15_000, 30_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server((HOST, port)))
            except OSError:
                continue
            return first


class NatsServers:
    """Three servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = free_ports(6)
        self.running: dict[int, NatsServer] = {}

    def settings(self, index: int, **more: object) -> JetStreamSettings:
        """Of the node that has this server."""
        given: dict[str, object] = {
            "serve": True,
            "listen": f"{HOST}:{self.first + index}",
            "cluster_listen": f"{HOST}:{self.first + 3 + index}",
            "routes": tuple(f"{HOST}:{self.first + 3 + other}" for other in range(3) if other != index),
            "timeout_s": 10.0,
            **more,
        }
        return JetStreamSettings(**given)  # type: ignore[arg-type]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"nats://{HOST}:{self.first + index}" for index in range(3))

    def client(self, **more: object) -> JetStreamSettings:
        """Of a node that knows them all by their addresses."""
        password = Secret(password_of(CLUSTER))
        given: dict[str, object] = {
            "urls": self.urls, "user": USER, "password": password, "timeout_s": 10.0, **more,
        }  # fmt: skip
        return JetStreamSettings(**given)  # type: ignore[arg-type]

    def start(self, index: int) -> None:
        server = NatsServer(self.settings(index), CLUSTER, f"n{index}", self.folder / f"nats-{index}", sync=False)
        server.__enter__()
        self.running[index] = server

    def stop(self, index: int) -> None:
        self.running.pop(index).__exit__(None, None, None)

    def kill(self, index: int) -> None:
        """Ends one without a word; it is started again."""
        self.signal(signal.SIGKILL, index)

    def signal(self, number: int, *indexes: int) -> None:
        for index in indexes:
            os.kill(self.running[index].pid, number)

    def await_quorum(self) -> None:
        """Until JetStream answers."""
        asyncio.run(self._await_quorum())

    async def _await_quorum(self) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                connection = await nats.connect(
                    list(self.urls), user=USER, password=password_of(CLUSTER), max_reconnect_attempts=1
                )
                try:
                    await connection.jetstream(timeout=2).account_info()
                    return
                finally:
                    await connection.close()
            except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)


@contextmanager
def nats_servers(folder: Path) -> Iterator[NatsServers]:
    """Three that are ready."""
    servers = NatsServers(folder)
    try:
        for index in range(3):
            servers.start(index)
        servers.await_quorum()
        yield servers
    finally:
        for index in list(servers.running):
            servers.stop(index)
