"""Streams between hosts, on a real Zenoh: every byte in its order, or the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from fastmq.config.cluster import ClusterSettings, endpoint, problem
from fastmq.config.secret import Secret
from fastmq.errors import StartError
from fastmq.fabric.bus import Bus, Peer
from fastmq.fabric.stream import HEADER, WINDOW, Kind, Stream
from tests.brokerproc import free_port

SOME = 5 << 20


class Node(Bus):
    """A bus that keeps what it hears."""

    def __init__(self, settings: ClusterSettings, name: str) -> None:
        super().__init__(settings, Peer(name, 0, 1, secrets.randbits(63) | 1))
        self.ups: list[str] = []
        self.downs: list[str] = []
        self.streams: list[socket.socket] = []
        self.on_up = lambda peer: self.ups.append(peer.node)
        self.on_down = lambda peer: self.downs.append(peer.node)
        self.on_stream = lambda _, stream: self.streams.append(stream)

    def peer(self, name: str) -> Peer:
        return next(each for each in self.peers() if each.node == name)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 50))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (there is no event)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def buses(*each: dict[str, Any], **common: Any) -> AsyncIterator[list[Node]]:
    """Nodes a, b, ..., of which all but the first join that one."""
    first = free_port()
    made: list[Node] = []
    try:
        for number, own in enumerate(each):
            port = free_port() if number else first
            join = (f"127.0.0.1:{first}",) if number else ()
            settings = {"name": "x", "listen": f"127.0.0.1:{port}", "join": join, "multicast": "", "lease_s": 1.0}
            made.append(node := Node(ClusterSettings(**{**settings, **common, **own}), "abcdef"[number]))
            await node.start()
        yield made
    finally:
        for node in made:
            await node.close()
            for stream in node.streams:
                stream.close()


async def joined(a: Node, b: Node) -> tuple[socket.socket, socket.socket]:
    """Both ends of a stream that a opens."""
    await until(lambda: len(a.peers()) > 0 and len(b.peers()) > 0)
    here = await a.connect(a.peer(b.me.node))
    await until(lambda: bool(b.streams))
    return here, b.streams[-1]


async def read(stream: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        data = await asyncio.get_running_loop().sock_recv(stream, 1 << 20)
        if not data:
            break
        found += data
    return bytes(found)


def test_one_seed_is_enough_for_all_to_know_all() -> None:
    async def work() -> None:
        async with buses({}, {}, {}) as nodes:
            await until(lambda: all(len(each.peers()) == 2 for each in nodes))
            await nodes[0].close()  # it is not needed any more
            await until(lambda: nodes[1].downs == nodes[2].downs == ["a"])
            there, here = await joined(nodes[1], nodes[2])
            await asyncio.get_running_loop().sock_sendall(there, b"hello")
            assert await read(here, 5) == b"hello"
            there.close()

    run(work())


def test_every_byte_arrives_in_its_order_both_ways() -> None:
    async def work() -> None:
        async with buses({}, {}) as (a, b):
            here, there = await joined(a, b)
            loop, data = asyncio.get_running_loop(), os.urandom(SOME)
            sends = [loop.sock_sendall(here, data), loop.sock_sendall(there, data[::-1])]
            *_, one, two = await asyncio.gather(*sends, read(there, SOME), read(here, SOME))
            assert one == data
            assert two == data[::-1]
            await loop.sock_sendall(here, b"the end")
            here.close()
            assert await read(there, 100) == b"the end"
            await until(lambda: not a._streams and not b._streams)

    run(work())


def test_who_does_not_read_holds_its_writer_back_and_nobody_else() -> None:
    async def work() -> None:
        async with buses({}, {}) as (a, b):
            here, there = await joined(a, b)
            loop = asyncio.get_running_loop()
            sent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while sent < 10 * WINDOW:
                        await loop.sock_sendall(here, bytes(65_536))
                        sent += 65_536
            assert WINDOW <= sent < WINDOW + (4 << 20)
            other, its = await joined(a, b)
            await loop.sock_sendall(other, b"free")
            assert await read(its, 4) == b"free"
            assert len(await read(there, sent)) >= sent
            here.close()
            other.close()

    run(work())


def test_a_frame_that_is_missing_ends_the_stream() -> None:
    async def work() -> None:
        async with buses({}, {}) as (a, b):
            here, there = await joined(a, b)
            put, lost = a._put, False

            def lossy(peer: Peer, kind: int, number: int, value: int, body: bytes) -> None:
                nonlocal lost
                if kind == Kind.DATA and value == 3 and not lost:
                    lost = True
                    return
                put(peer, kind, number, value, body)

            a._put = lossy  # type: ignore[method-assign]
            loop = asyncio.get_running_loop()
            data = os.urandom(10 * 65_536)
            with contextlib.suppress(OSError):
                await loop.sock_sendall(here, data)
            got = await read(there, len(data))
            assert lost
            assert data.startswith(got)
            assert len(got) < len(data)
            await until(lambda: not a._streams and not b._streams)
            here.close()

    run(work())


def test_frames_of_strangers_do_no_harm() -> None:
    async def work() -> None:
        async with buses({}, {}) as (a, b):
            here, there = await joined(a, b)
            rng = random.Random(3)
            number = next(iter(b._streams))
            for _ in range(2000):
                frame = rng.randbytes(rng.randrange(80))
                if rng.random() < 0.7:  # a well-made head with another's numbers
                    head = rng.choice(list(Kind)), rng.choice((number, 5)), rng.randrange(1 << 64), b.me.instance
                    frame = HEADER.pack(*head, rng.randrange(1 << 64)) + frame
                b._on_frame(frame)
            for key in (
                "",
                "x",
                "fastmq/x/up/n/0/1/zz/1",
                "fastmq/x/up/n/9/1/1/1",
                "fastmq/x/up/n/0/1/0/1",
                "a/b/c/d/e",
            ):
                b._on_token(key, True)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(here, b"well")
            assert await read(there, 4) == b"well"
            assert [each.node for each in b.peers()] == ["a"]
            here.close()

    run(work())


def test_a_peer_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmq.fabric.bus.CONNECT_S", 0.3)

    async def work() -> None:
        async with buses({}) as (a,):
            with pytest.raises(TimeoutError):
                await a.connect(Peer("nobody", 0, 1, 7))
            assert not a._streams

    run(work())


def test_silence_ends_a_stream_that_waits_for_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmq.fabric.stream.SILENCE_S", 0.1)

    async def work() -> None:
        here, there = socket.socketpair()
        ended: list[int] = []
        frames: list[int] = []
        stream = Stream(there, 1, lambda kind, *_: frames.append(kind), ended.append)
        stream.begin(9)
        here.send(b"x")
        await until(lambda: bool(ended), 5)
        assert frames == [Kind.DATA, Kind.PROBE, Kind.END]
        here.close()

    run(work())


def test_only_who_knows_the_secret_gets_in() -> None:
    async def work() -> None:
        right, wrong = {"secret": Secret("ri:ght\n#")}, {"secret": Secret("ri:ght")}
        async with buses(right, wrong, {}, right) as nodes:
            await until(lambda: len(nodes[0].peers()) == 1 and len(nodes[3].peers()) == 1)
            await asyncio.sleep(0.5)
            assert [each.ups for each in nodes] == [["d"], [], [], ["a"]]

    run(work())


def test_only_who_has_a_certificate_of_the_ca_gets_in(tmp_path: Path) -> None:
    def files(ca: trustme.CA, name: str) -> dict[str, str]:
        made = {key: str(tmp_path / f"{name}.{key}") for key in ("tls_ca", "tls_certificate", "tls_key")}
        certificate = ca.issue_cert("127.0.0.1", "localhost")
        ca.cert_pem.write_to_path(made["tls_ca"])
        certificate.private_key_pem.write_to_path(made["tls_key"])
        certificate.cert_chain_pems[0].write_to_path(made["tls_certificate"])
        return made

    async def work() -> None:
        ours, other = trustme.CA(), trustme.CA()
        async with buses(files(ours, "a"), files(other, "b"), files(ours, "c")) as nodes:
            await until(lambda: len(nodes[0].peers()) == 1 and len(nodes[2].peers()) == 1)
            await asyncio.sleep(0.5)
            assert [each.ups for each in nodes] == [["c"], [], ["a"]]
            here, there = await joined(nodes[0], nodes[2])
            await asyncio.get_running_loop().sock_sendall(here, b"hidden")
            assert await read(there, 6) == b"hidden"
            here.close()

    run(work())


def test_a_port_that_is_taken_is_told() -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            node = Node(ClusterSettings(name="x", listen=f"127.0.0.1:{taken.getsockname()[1]}", multicast=""), "a")
            with pytest.raises(StartError, match="cluster"):
                await node.start()
            await node.close()

    run(work())


def test_who_is_alone_follows_a_name_to_where_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmq.fabric.seeds.AGAIN_S", 0.05)
    first = free_port()
    answers = [f"127.0.0.1:{free_port()}"], [f"127.0.0.1:{first}"]

    async def services(_: str) -> list[str]:
        return answers[1] if moved else answers[0]

    moved = False
    monkeypatch.setattr("fastmq.fabric.seeds._services", services)

    async def work() -> None:
        nonlocal moved
        async with buses({"dns": "_fastmq._tcp.cluster.test"}, {"listen": f"127.0.0.1:{first}", "join": ()}) as (a, b):
            await asyncio.sleep(0.3)
            assert not a.peers()
            moved = True
            await until(lambda: bool(a.peers()) and bool(b.peers()))
            here, there = await joined(a, b)
            await asyncio.get_running_loop().sock_sendall(here, b"found")
            assert await read(there, 5) == b"found"
            here.close()

    run(work())


def test_without_the_extra_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zenoh", None)

    async def work() -> None:
        node = Node(ClusterSettings(name="x", listen=f"127.0.0.1:{free_port()}"), "a")
        with pytest.raises(StartError, match=r"pip install 'fastmq\[cluster\]'"):
            await node.start()

    run(work())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("h", ("h", 7447)),
        ("h:1", ("h", 1)),
        ("10.0.0.1:9", ("10.0.0.1", 9)),
        ("[::1]:8", ("::1", 8)),
        ("::1", ("::1", 7447)),
    ],
)
def test_addresses_are_hosts_with_or_without_ports(text: str, wanted: tuple[str, int]) -> None:
    assert endpoint(text) == wanted


@pytest.mark.parametrize("text", ["", ":1", "h:x", "h:0", "h:65536", "h:"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        endpoint(text)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, ""),
        ({"name": "x"}, ""),
        ({"join": ("h",)}, "cluster.name is missing"),
        ({"name": "a/b"}, "cluster.name = 'a/b'"),
        ({"name": "x", "node": "a b"}, "cluster.node = 'a b'"),
        ({"name": "x", "join": ("h:x",)}, "cluster.join: 'h:x' is no HOST:PORT"),
        ({"name": "x", "tls_ca": "f"}, "cluster.tls_ca, cluster.tls_certificate and cluster.tls_key"),
    ],
)
def test_what_is_wrong_with_the_settings_is_told(settings: dict[str, Any], wanted: str) -> None:
    found = problem(ClusterSettings(**settings))
    assert found.startswith(wanted)
    assert bool(found) == bool(wanted)
