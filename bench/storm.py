"""Everybody comes at once, with passwords: `python -m bench.storm`.

As after a power cut: so many clients connect at the same moment, each with a user name and a password, and who is told
that the server is busy tries again a little later, as clients do. Recorded: until the last was in, the CPU of a
connect, how often clients had to try again, and the round trip of a client that was inside before (it runs in the
process that makes the storm, which is busy: the worst of its pings are more than the broker's own).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from bench.tls import cpu_s
from fastmq.auth import hashes
from tests.brokerproc import HOST, Setting, ended_cleanly, start_fastmq
from tests.wireclient import encode

USERS = 50
PASSWORD = b"a password of a device"
BUSY = (0x88, 0x89)


async def comes(port: int, number: int, tries: list[int]) -> asyncio.StreamWriter:
    """Connects until it is in; keeps the connection."""
    wire = encode.connect(5, client_id=f"device-{number}", username=f"user{number % USERS}", password=PASSWORD)
    for attempt in range(1000):
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(wire)
            head = await reader.readexactly(2)
            body = await reader.readexactly(head[1])
        except (ConnectionError, asyncio.IncompleteReadError):
            body = b"\0" + bytes((BUSY[0],))
        if body[1] == 0:
            tries.append(attempt + 1)
            return writer
        assert body[1] in BUSY, f"a client was refused with {body[1]:#04x}"
        writer.close()
        await asyncio.sleep(random.uniform(0.5, 1.5))
    raise AssertionError("a client never got in")


async def inside(port: int, stop: asyncio.Event) -> list[float]:
    """Round trips of a client that is there already, in seconds."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(encode.connect(5, client_id="inside", username="user0", password=PASSWORD))
    head = await reader.readexactly(2)
    await reader.readexactly(head[1])
    found: list[float] = []
    while not stop.is_set():
        start = time.perf_counter()
        writer.write(encode.PINGREQ)
        await reader.readexactly(2)
        found.append(time.perf_counter() - start)
        await asyncio.sleep(0.01)
    writer.close()
    return found


async def storm(port: int, pid: int, clients: int) -> dict[str, float]:
    stop = asyncio.Event()
    pinging = asyncio.create_task(inside(port, stop))
    await asyncio.sleep(1)
    tries: list[int] = []
    cpu, start = cpu_s(pid), time.monotonic()
    writers = await asyncio.gather(*(comes(port, number, tries) for number in range(clients)))
    took = time.monotonic() - start
    spent = cpu_s(pid) - cpu
    stop.set()
    pings = await pinging
    for writer in writers:
        writer.close()
    return {
        "clients": clients,
        "seconds until the last was in": round(took, 2),
        "CPU of the broker, us a client": round(spent / clients * 1e6, 1),
        "attempts, median": statistics.median(tries),
        "attempts, most": max(tries),
        "ping of one inside, median ms": round(statistics.median(pings) * 1000, 2),
        "ping of one inside, worst ms": round(max(pings) * 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--hash", choices=hashes.KINDS, default="argon2id")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder, "users")
        users.write_text("".join(f"user{n}:{hashes.make(PASSWORD, given.hash)}\n" for n in range(USERS)))
        chain = json.dumps([{"method": "file", "path": str(users), "timeout_s": 60}])
        settings: dict[str, Setting] = {"auth.chain": chain, "auth.allow_anonymous": False, "log.connections": False}
        with ended_cleanly(start_fastmq(settings)) as broker:
            for name, value in uvloop.run(storm(broker.port, broker.pid, given.clients)).items():
                print(f"{name:<34} {value:>12}")


if __name__ == "__main__":
    main()
