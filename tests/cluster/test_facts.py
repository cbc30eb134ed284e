"""Users and bans of one node hold at all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastmq.auth import hashes
from tests.brokerproc import HOST, await_condition
from tests.cluster.brokers import joined
from tests.cluster.nodes import Nodes, nodes
from tests.cluster.replicated import replicated_nodes
from tests.wireclient import Client, Disconnect

pytestmark = pytest.mark.timeout(120)
PATIENCE_S = 30.0
WORKERS = pytest.mark.parametrize("workers", [1, 2])
CHAIN = {"auth.chain": json.dumps([{"method": "builtin"}]), "auth.allow_anonymous": False}
BANNED, BAD = 0x8A, 0x86
HASH = hashes.make(b"secret", "sha512-pbkdf2", 1000)


def at(cluster: Nodes, node: str, *words: str) -> None:
    """`fastmq users` or `fastmq bans`, with the store of a node."""
    command = [sys.executable, "-m", "fastmq", *words, "--store", str(cluster.folder / f"{node}.db")]
    subprocess.run(command, check=True, capture_output=True, text=True)


def code(cluster: Nodes, node: str, name: str, user: str | None = None) -> int:
    with ExitStack() as stack:
        client = Client((cluster[node].host, cluster[node].port))
        stack.callback(client.close)
        return client.connect(name, username=user, password=b"secret" if user else None).code


@WORKERS
def test_who_is_banned_at_one_node_is_banned_at_all(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, 3, workers=workers) as cluster, ExitStack() as stack:
        there = joined(cluster["beta"], stack, "x")
        at(cluster, "alpha", "bans", "add", "client_id", "x", "--reason", "noise")
        assert there.expect(Disconnect, PATIENCE_S).code == 0x98
        for node in cluster.running:
            await_condition(lambda node=node: code(cluster, node, "x") == BANNED, PATIENCE_S)  # type: ignore[misc]
        # One that was away hears of it, and of what was taken back meanwhile.
        port = cluster["gamma"].port
        cluster.kill("gamma")
        at(cluster, "beta", "bans", "delete", "client_id", "x")
        at(cluster, "beta", "bans", "add", "client_id", "y")
        await_condition(lambda: code(cluster, "alpha", "x") == 0, PATIENCE_S)
        cluster.start("gamma", f"tcp://{HOST}:{port}")
        await_condition(lambda: code(cluster, "gamma", "y") == BANNED, PATIENCE_S)
        await_condition(lambda: code(cluster, "gamma", "x") == 0, PATIENCE_S)


@WORKERS
def test_users_come_and_go_at_all_nodes(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, 2, workers=workers, settings=CHAIN) as cluster:
        at(cluster, "alpha", "users", "add", "ada", "--hash", HASH)
        for node in cluster.running:
            await_condition(lambda node=node: code(cluster, node, "c", "ada") == 0, PATIENCE_S)  # type: ignore[misc]
        # What was changed while the nodes were down counts as well, and a new node learns all of it.
        ports = {node: cluster[node].port for node in cluster.running}
        for node in ports:
            cluster.running.pop(node).stop()
        at(cluster, "beta", "users", "delete", "ada")
        at(cluster, "beta", "users", "add", "eve", "--hash", HASH)
        for node, port in ports.items():
            cluster.start(node, f"tcp://{HOST}:{port}")
        cluster.start("gamma")
        for node in cluster.running:
            await_condition(lambda node=node: code(cluster, node, "c", "eve") == 0, PATIENCE_S)  # type: ignore[misc]
            await_condition(lambda node=node: code(cluster, node, "c", "ada") == BAD, PATIENCE_S)  # type: ignore[misc]


def test_two_hosts_that_become_a_cluster_keep_the_users_of_both(tmp_path: Path) -> None:
    cluster = Nodes(tmp_path, settings=CHAIN)
    for node in ("alpha", "beta"):
        cluster.start(node, cluster=node)
        at(cluster, node, "users", "add", f"of-{node}", "--hash", HASH)
        await_condition(lambda node=node: code(cluster, node, "c", f"of-{node}") == 0, PATIENCE_S)  # type: ignore[misc]
        cluster.running.pop(node).stop()
    try:
        for node in ("alpha", "beta"):
            cluster.start(node)
        for node in ("alpha", "beta"):
            for user in ("of-alpha", "of-beta"):
                await_condition(
                    lambda node=node, user=user: code(cluster, node, "c", user) == 0,  # type: ignore[misc]
                    PATIENCE_S,
                )
    finally:
        cluster.close()


def test_who_stands_in_for_a_node_knows_its_users(tmp_path: Path) -> None:
    with replicated_nodes(tmp_path, settings=CHAIN) as cluster, ExitStack() as stack:
        at(cluster, "beta", "users", "add", "ada", "--hash", HASH)
        for node in cluster.running:
            await_condition(lambda node=node: code(cluster, node, "c", "ada") == 0, PATIENCE_S)  # type: ignore[misc]
        client = Client((cluster["beta"].host, cluster["beta"].port))
        stack.callback(client.close)
        assert client.connect("lasts", clean=False, username="ada", password=b"secret", props=[(0x11, 300)]).code == 0
        cluster.kill("beta")

        def is_resumed() -> bool:
            again = Client((cluster["gamma"].host, cluster["gamma"].port))
            stack.callback(again.close)
            try:
                found = again.connect("lasts", clean=False, username="ada", password=b"secret", props=[(0x11, 300)])
            except (AssertionError, OSError):
                return False
            assert found.code in (0, 0x88), "it is known"
            return found.code == 0 and found.session_present

        await_condition(is_resumed, 60.0)
