"""Tells whoever started this process how it is: systemd, or the parent of several workers."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Protocol

READY: Final = b"ready"
ALIVE: Final = b"alive"
"""Lines to the parent."""
ALIVE_S: Final = 0.5


class Starter(Protocol):
    """Who started this process."""

    @property
    def alive_s(self) -> float:
        """How often it wants to hear that the process is alive; 0: never."""
        ...

    def ready(self) -> None:
        """Started, or done with reading the settings again."""
        ...

    def alive(self) -> None:
        """All is well."""
        ...

    def reloading(self) -> None:
        """Reading the settings again."""
        ...

    def stopping(self) -> None:
        """On the way out."""
        ...


class Systemd:
    """sd_notify(3): of no effect when nobody listens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.alive_s = self._half_of_the_watchdog(environment) if address else 0.0

    @staticmethod
    def _half_of_the_watchdog(environment: Mapping[str, str]) -> float:
        if environment.get("WATCHDOG_PID") not in (None, str(os.getpid())):
            return 0.0
        given = environment.get("WATCHDOG_USEC", "")
        return int(given) / 2e6 if given.isdecimal() else 0.0

    def ready(self) -> None:
        self._send("READY=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)  # a broker does not wait for who does not read
            to.sendto(text.encode(), self._address)


class Parent:
    """The parent of several workers; `status` is the socket that it gave to this one."""

    alive_s = ALIVE_S

    def __init__(self, status: int) -> None:
        self._socket = socket.socket(fileno=status)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)

    def fileno(self) -> int:
        """For the event loop: readable when `is_gone` may have changed."""
        return self._socket.fileno()

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        try:
            return not self._socket.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def ready(self) -> None:
        self._say(READY)

    def alive(self) -> None:
        self._say(ALIVE)

    def reloading(self) -> None:
        pass

    def stopping(self) -> None:
        pass

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # when it does not read, or is gone
            self._socket.send(word + b"\n")
