"""What a message over TLS costs the broker, against a server that only echoes: `python -m bench.tls`.

Clients send a PUBLISH (QoS 0, 64 bytes), one at a time, and get it back, each over a connection of its own: from
fastmq, which routes it, and from a uvloop server that sends back what it gets. Both by the same client, in turn; the
ratio is that of CPU seconds per round trip. Then idle TLS connections, for their memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from tests.brokerdoors import issue, listener
from tests.brokerproc import HOST, ended_cleanly, start_fastmq
from tests.wireclient import encode

TICKS = os.sysconf("SC_CLK_TCK")


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


async def echo(certificate: str) -> None:
    """Serves until it is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(Echo, HOST, 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def connect(
    port: int, folder: Path, number: int, *, mqtt: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    reader, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname="localhost")
    if mqtt:
        writer.write(encode.connect(4, client_id=f"c{number}") + encode.subscribe(4, 1, [(f"t{number:04}", 0)]))
        await reader.readexactly(4 + 5)
    return reader, writer


async def rounds(port: int, folder: Path, clients: int, seconds: float, *, mqtt: bool) -> int:
    """How many round trips there were."""
    done = 0
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        nonlocal done
        reader, writer = await connect(port, folder, number, mqtt=mqtt)
        wire = encode.publish(4, f"t{number:04}", b"x" * 64)
        while time.monotonic() < end:
            writer.write(wire)
            assert await reader.readexactly(len(wire)) == wire
            done += 1
        writer.close()

    await asyncio.gather(*map(one, range(clients)))
    return done


@contextmanager
def echoing(folder: Path) -> Iterator[tuple[int, int]]:
    """(pid, port) of a server that echoes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.tls", "--echo", str(folder / "server.pem")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--echo", metavar="PEM", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--idle", type=int, default=500, help="connections for the memory figure")
    given = parser.parse_args()
    if given.echo:
        uvloop.run(echo(given.echo))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issue(folder)
        at = listener("tls", folder)
        with echoing(folder) as (echo_pid, echo_port), ended_cleanly(start_fastmq(listen=at)) as broker:
            costs: dict[str, list[float]] = {"echo": [], "fastmq": []}
            for _ in range(given.runs):
                for kind, pid, port in (("echo", echo_pid, echo_port), ("fastmq", broker.pid, broker.port)):
                    before = cpu_s(pid)
                    n = uvloop.run(rounds(port, folder, given.clients, given.seconds, mqtt=kind == "fastmq"))
                    costs[kind].append((cpu_s(pid) - before) / n * 1e6)
            for kind, found in costs.items():
                print(
                    f"{kind:<7} {statistics.median(found):6.2f} us CPU per round trip  {[round(x, 2) for x in found]}"
                )
            ratio = statistics.median(a / b for a, b in zip(costs["fastmq"], costs["echo"], strict=True))
            print(f"ratio   {ratio:6.2f}")

            async def idle() -> int:
                before = rss_bytes(broker.pid)
                held = [await connect(broker.port, folder, 1000 + n, mqtt=True) for n in range(given.idle)]
                grown = rss_bytes(broker.pid) - before
                for _, writer in held:
                    writer.close()
                return grown

            print(f"memory  {uvloop.run(idle()) / given.idle:6.0f} bytes RSS per idle TLS connection")


if __name__ == "__main__":
    main()
