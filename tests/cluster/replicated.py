"""Nodes whose stores are streams of NATS JetStream, each with a server of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.brokerproc import HOST, BrokerProcess
from tests.cluster.nodes import NAMES, Nodes, free_ports


class ReplicatedNodes(Nodes):
    """Three of them."""

    def __init__(self, folder: Path, workers: int = 1, settings: Mapping[str, Any] | None = None) -> None:
        quick = {"jetstream.stand_in_after_s": 0.5, "cluster.secret": "of the test"}
        super().__init__(folder, workers, settings={**quick, **(settings or {})})
        first = free_ports((3 + workers) * len(NAMES))
        self.servers = {name: (first + index, first + 3 + index) for index, name in enumerate(NAMES)}
        self.listens = {name: f"tcp://{HOST}:{first + 6 + index}" for index, name in enumerate(NAMES)}
        """Always the same, so that clients find a node again that has begun anew."""
        self.ports = {name: first + 9 + workers * index for index, name in enumerate(NAMES)}

    def start(self, name: str, listen: str | None = None, **more: Any) -> BrokerProcess:  # type: ignore[override]
        client, route = self.servers[name]
        routes = ",".join(f"{HOST}:{port}" for other, (_, port) in self.servers.items() if other != name)
        settings = {
            "store.engine": "jetstream",
            "jetstream.serve": True,
            "jetstream.listen": f"{HOST}:{client}",
            "jetstream.cluster_listen": f"{HOST}:{route}",
            "jetstream.routes": routes,
            "jetstream.folder": str(self.folder / f"{name}-nats"),
            **more,
        }
        return super().start(name, listen or self.listens[name], **settings)

    def close(self) -> None:
        """Those that run end cleanly, at once: the last ones have no quorum."""
        left = list(self.running.values())
        try:
            with ThreadPoolExecutor(len(NAMES)) as pool:
                for stopped in [pool.submit(each.stop) for each in left]:
                    stopped.result()
        finally:
            for broker in left:
                broker.kill()

    def start_all(self) -> None:
        """All at once: the first one waits for a quorum."""
        with ThreadPoolExecutor(len(NAMES)) as pool:
            for started in [pool.submit(self.start, name) for name in NAMES]:
                started.result()


@contextmanager
def replicated_nodes(folder: Path, workers: int = 1, **options: Any) -> Iterator[ReplicatedNodes]:
    """A cluster of three that is ready; each must end cleanly, if it is still there."""
    made = ReplicatedNodes(folder, workers, **options)
    try:
        made.start_all()
        made.await_all()
        yield made
    except BaseException as error:
        for name, broker in made.running.items():
            broker.kill()
            error.add_note(f"--- log of {name} ---\n{broker.log_text()[-6000:]}")
        raise
    made.close()
