"""One worker as its parent sees it: a process, what it has said of itself, and when it is to be started again."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from fastmq import notify
from fastmq.config.place import VARIABLE, Place

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
STEADY_S: Final = 10.0
"""After running for so long, a worker's next death counts as its first."""


class Child:
    """One of several. Times are seconds of a clock that never goes back."""

    def __init__(self, place: Place, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.place = place
        """Without what changes with each start."""
        self.index = place.index
        self.status: socket.socket | None = None
        """The end at which it is heard; None: there is nothing to hear."""
        self.pid = 0
        self.heard_at = 0.0
        self.is_ready = False
        self.was_ready = False
        """Ever, in this or another process."""
        self.hang_up_later = False
        """It is to read the settings again once it is ready: before, the signal would end it."""
        self.start_at = 0.0
        """When there is no process: the time for the next one."""
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._began_at = 0.0
        self._deaths = 0
        self._heard = b""

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self, now: float, settings: int) -> None:
        """Starts its process, with the settings in the file of that descriptor.

        :raises OSError: the machine has none to give.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            place = replace(self.place, status=theirs.fileno(), settings=settings)
            try:
                self._process = subprocess.Popen(
                    self._command,
                    env={**self._environment, VARIABLE: place.to_text()},
                    pass_fds=(*place.listeners, place.status, settings),
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # a terminal's Ctrl-C is the parent's to pass on
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self.status, self.pid = ours, self._process.pid
        self._began_at = self.heard_at = now
        self.is_ready, self._heard = False, b""

    def hear(self, now: float) -> bool | None:
        """Takes what it has said: whether it is ready, as of now or once more; None: it will say no more."""
        assert self.status is not None
        try:
            said = self.status.recv(65_536)
        except BlockingIOError:
            return False
        except OSError:
            return None
        if not said:
            return None
        self.heard_at = now
        *lines, self._heard = (self._heard + said).split(b"\n")
        if notify.READY not in lines:
            return False
        self.is_ready = self.was_ready = True
        return True

    def ended(self, now: float) -> int | None:
        """Its exit code, or minus the signal that killed it, if its process is no more; decides about the next one."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._process = None
        self.is_ready = False
        self.postpone(now)
        return code

    def postpone(self, now: float) -> None:
        """The next process comes at once, or after a pause if the last one did not last either."""
        if now - self._began_at >= STEADY_S:
            self._deaths = 0
        pause = min(FIRST_PAUSE_S * 2 ** (self._deaths - 1), LONGEST_PAUSE_S) if self._deaths else 0.0
        self._deaths += 1
        self.start_at = now + pause

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if there is a process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Ends its process, if there is one, and waits until it has."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def cause(code: int) -> dict[str, object]:
    """What ended a process, for the log."""
    if code >= 0:
        return {"code": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:
        return {"signal": -code}


def environment() -> dict[str, str]:
    """Of workers: systemd is the parent's affair."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("NOTIFY_SOCKET", "WATCHDOG_"))}
