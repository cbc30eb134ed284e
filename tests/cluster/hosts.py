"""Hosts of their own on one Ethernet, made of network namespaces; a host can be cut off, without a word to anybody."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import pytest

CLONE_NEWNET = 0x40000000
Found = TypeVar("Found")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Numbered from 1: 198.18.0.1 and so on, on a bridge that is in a namespace, too."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._prefix = f"fmt{os.getpid()}"
        self._switch = f"{self._prefix}-0"

    def name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def address(self, number: int) -> str:
        return f"198.18.0.{number}"

    def inside(self, number: int) -> list[str]:
        """The command that runs another one at a host."""
        return ["ip", "netns", "exec", self.name(number)]

    def up(self) -> None:
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "br0", "up")
        for number in range(1, self.count + 1):
            name = self.name(number)
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            here = ["link", "add", f"v{number}", "netns", self._switch]
            ip(*here, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", self._switch, "link", "set", f"v{number}", "master", "br0", "up")
            ip("-n", name, "addr", "add", f"{self.address(number)}/24", "brd", "+", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "eth0")

    def down(self) -> None:
        for number in range(self.count + 1):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", self.name(number))

    def cut(self, number: int) -> None:
        ip("-n", self._switch, "link", "set", f"v{number}", "down")

    def heal(self, number: int) -> None:
        ip("-n", self._switch, "link", "set", f"v{number}", "up")

    def at(self, number: int, make: Callable[[], Found]) -> Found:
        """Calls `make` at a host: the sockets that it opens are there, whoever uses them later."""
        found: list[Found] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with open(f"/var/run/netns/{self.name(number)}") as there:
                    if libc.setns(there.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                found.append(make())
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return found[0]


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """So many; skipped where the kernel allows no namespaces."""
    made = Hosts(count)
    try:
        made.up()
    except subprocess.CalledProcessError as error:
        made.down()
        if "permitted" in error.stderr or "permission" in error.stderr.lower():
            pytest.skip(f"the kernel allows no network namespaces: {error.stderr.strip()}")
        raise
    try:
        yield made
    finally:
        made.down()
