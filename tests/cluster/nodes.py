"""Several real brokers as the nodes of a cluster, joined over loopback."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.brokerproc import HOST, BrokerProcess, start_fastmq

NAMES = "alpha", "beta", "gamma"
QUICK: dict[str, Any] = {"cluster.multicast": "", "cluster.lease_s": 1.0, "cluster.forget_after_s": 3.0}


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


class Nodes:
    """Nodes of one cluster, by name, and what each is started with."""

    def __init__(
        self, folder: Path, workers: int = 1, kept: bool = True, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.kept = kept
        self.settings = {**QUICK, **(settings or {})}
        self.ports: dict[str, int] = {}
        self.running: dict[str, BrokerProcess] = {}

    def start(
        self, name: str, listen: str | None = None, cluster: str = "test", joins: Sequence[str] = NAMES, **more: Any
    ) -> BrokerProcess:
        """Starts a node, and waits until it has clients; one that has run before has its port in the cluster again."""
        port = self.ports.setdefault(name, 0) or free_ports(self.workers)
        self.ports[name] = port
        store = {"store.path": str(self.folder / f"{name}.db")} if self.kept else {"store.durability": "none"}
        others = [f"127.0.0.1:{each}" for known, each in self.ports.items() if known != name and known in joins]
        options = ["--workers", str(self.workers), "--cluster", cluster]
        for each in others:
            options += ["--join", each]
        settings = {"cluster.node": name, "cluster.listen": f"127.0.0.1:{port}", **store, **self.settings, **more}
        given: dict[str, Any] = {"listen": listen} if listen else {}
        broker = self.running[name] = start_fastmq(settings, options=options, **given)
        return broker

    def __getitem__(self, name: str) -> BrokerProcess:
        return self.running[name]

    def await_all(self) -> None:
        """Until each worker has seen all workers of the others."""
        for name, broker in self.running.items():
            for other in self.running.keys() - {name}:
                if self.workers == 1:
                    broker.await_log(f"a node is there node={other} ", 10)
                    continue
                for its in range(self.workers):
                    for mine in range(self.workers):
                        broker.await_log(f"a node is there node={other}/{its} .*worker={mine}", 10)

    def kill(self, name: str) -> None:
        """Ends a node without a word."""
        self.running.pop(name).kill()

    def close(self) -> None:
        """Those that run end cleanly."""
        left = list(self.running.values())
        try:
            for broker in left:
                broker.stop()
        finally:
            for broker in left:
                broker.kill()


@contextmanager
def nodes(folder: Path, count: int = 3, workers: int = 1, **options: Any) -> Iterator[Nodes]:
    """A cluster of so many; each must end cleanly, if it is still there."""
    made = Nodes(folder, workers, **options)
    try:
        for name in NAMES[:count]:
            made.start(name)
        made.await_all()
        yield made
    except BaseException as error:
        for name, broker in made.running.items():
            broker.kill()
            error.add_note(f"--- log of {name} ---\n{broker.log_text()[-4000:]}")
        raise
    made.close()
