"""Where nodes are looked for: addresses, names, and services of a DNS server that speaks as real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from fastmq.config.cluster import ClusterSettings
from fastmq.fabric.seeds import Seeds

SERVICE = "_fastmq._tcp.cluster.test"


class Server(asyncio.DatagramProtocol):
    """Answers with what it has; names that it has not do not exist."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        name = query.question[0].name
        found = self.records.get(name.to_text(omit_final_dot=True))
        if found is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            answer.answer.append(dns.rrset.from_text(name, 0, "IN", "SRV", *found))
        self._transport.sendto(answer.to_wire(), address)


@contextmanager
def served(port: int) -> Iterator[None]:
    """The resolver asks that server only."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = port
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dns.asyncresolver, "default_resolver", resolver)
        yield


async def opened(server: Server) -> tuple[Any, int]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    return transport, transport.get_extra_info("sockname")[1]


def find(**settings: Any) -> list[str]:
    return asyncio.run(Seeds(ClusterSettings(name="x", **settings)).find())


def test_addresses_of_the_settings_are_taken_as_they_are() -> None:
    assert find(join=("10.0.0.2:9", "h", "::1", "[fe80::1]:8")) == ["10.0.0.2:9", "[::1]:7447", "[fe80::1]:8", "h:7447"]


def test_a_name_stands_for_its_addresses_at_the_usual_port() -> None:
    found = find(dns="localhost")
    assert "127.0.0.1:7447" in found or "[::1]:7447" in found


def test_a_name_that_stands_for_nothing_is_no_error() -> None:
    assert find(dns="nothing.invalid", join=("h",)) == ["h:7447"]


def test_a_service_names_hosts_and_ports() -> None:
    async def work() -> None:
        server = Server()
        transport, port = await opened(server)
        try:
            with served(port):
                seeds = Seeds(ClusterSettings(name="x", dns=SERVICE))
                assert await seeds.find() == []
                server.records[SERVICE] = ["0 0 7001 localhost.", "0 0 7002 localhost."]
                found = await seeds.find()
                assert {each.rpartition(":")[2] for each in found} == {"7001", "7002"}
                assert all(each.startswith(("127.0.0.1:", "[::1]:")) for each in found)
        finally:
            transport.close()

    asyncio.run(work())


def test_who_follows_a_name_hears_of_its_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmq.fabric.seeds.AGAIN_S", 0.01)

    async def work() -> None:
        server = Server()
        transport, port = await opened(server)
        try:
            with served(port):
                server.records[SERVICE] = ["0 0 7001 localhost."]
                seeds = Seeds(ClusterSettings(name="x", dns=SERVICE))
                changes = seeds.changes(await seeds.find())
                first = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(0.1)
                assert not first.done()
                server.records[SERVICE] = ["0 0 7009 localhost."]
                assert {each.rpartition(":")[2] for each in await asyncio.wait_for(first, 5)} == {"7009"}
                await changes.aclose()  # type: ignore[attr-defined]
        finally:
            transport.close()

    asyncio.run(work())
