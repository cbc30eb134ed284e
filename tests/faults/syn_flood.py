"""Half-open connections as an attacker makes them: SYNs from addresses that never answer. Run by test_half_open.py.

It must be run in a network namespace of its own, as its root: `unshare --user --map-root-user --net`. Packets go in
through a TUN device, so the kernel's SYN-ACKs leave through it, unread. Prints what clients found meanwhile, in JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from tests.brokerproc import HOST, ended_cleanly, start_fastmq
from tests.wireclient import Client

SERVER = "10.9.0.1"
NETWORK = ipaddress.ip_network("10.9.0.0/16")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SYNS = 20_000
SECONDS = 3.0
PORT = 1883


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def syn(source: int, port: int) -> bytes:
    """One IPv4 packet: a SYN to the server's port."""
    addresses = struct.pack("!I", source) + socket.inet_aton(SERVER)
    tcp = struct.pack("!HHIIBBHHH", port, PORT, random.getrandbits(32), 0, 5 << 4, 2, 64_240, 0, 0)
    sum_tcp = checksum(addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", sum_tcp) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    return ip[:10] + struct.pack("!H", checksum(ip + addresses)) + addresses + tcp


def tun() -> int:
    """A TUN device with the server's address; what the kernel sends to its network is never read."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"flood0", IFF_TUN | IFF_NO_PI))
    for words in ("link set lo up", f"addr add {SERVER}/16 dev flood0", "link set flood0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    return device


def half_open() -> int:
    with open("/proc/net/tcp") as table:
        return sum(line.split()[3] == "03" for line in table.readlines()[1:])


def flood(device: int, sent: list[int]) -> None:
    first = int(NETWORK.network_address)
    pause = SECONDS / (SYNS / 200)
    for _ in range(SYNS // 200):
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                os.write(device, syn(first + random.randrange(256, 65_000), random.randrange(1024, 65_535)))
                sent[0] += 1
        time.sleep(pause)


def connect(address: tuple[str, int], name: str) -> float:
    """Seconds until a client is in and has been answered."""
    start = time.monotonic()
    with contextlib.closing(Client(address)) as client:
        assert client.connect(name).code == 0
        client.ping()
    return time.monotonic() - start


def main(_: Sequence[str]) -> None:
    device = tun()
    listen = json.dumps([{"url": f"tcp://{host}:{PORT}"} for host in (HOST, SERVER)])
    with ended_cleanly(start_fastmq(listen=listen)):
        local, outside = (HOST, PORT), (SERVER, PORT)
        sent, most_half_open = [0], 0
        inside = Client(local)
        inside.connect("inside")
        flooding = threading.Thread(target=flood, args=(device, sent))
        flooding.start()
        connects: list[float] = []
        pings: list[float] = []
        while flooding.is_alive():
            connects.append(connect(outside if len(connects) % 2 else local, f"c{len(connects)}"))
            start = time.monotonic()
            inside.ping()
            pings.append(time.monotonic() - start)
            most_half_open = max(most_half_open, half_open())
            time.sleep(0.02)
        inside.close()
    found = {"sent": sent[0], "half_open": most_half_open, "clients": len(connects), "slowest_connect_s": max(connects)}
    json.dump({**found, "slowest_ping_s": max(pings)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
