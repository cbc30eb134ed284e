"""The parent of several workers, until SIGTERM or SIGINT: a loop that waits for signals, for workers, and for the time.

A worker that ends is started again; one that stands still is killed first. Nothing that clients do comes here.
"""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, Final

from fastmq import logs
from fastmq.config.location import ALONE
from fastmq.config.passing import passed
from fastmq.config.place import FENCED, Place
from fastmq.config.reload import merged
from fastmq.config.schema import Config
from fastmq.errors import ConfigError, StartError
from fastmq.notify import Systemd
from fastmq.supervisor.child import Child, cause, environment
from fastmq.supervisor.ports import Ports

STOP_S: Final = 30.0
"""So long the workers may take to end."""
SILENT_S: Final = 5.0
"""Of a worker that says nothing for so long, systemd is not told that it is alive."""
FOLDER_MAX: Final = 60
"""Characters: with a name of 40 it must be an address of a Unix socket."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

log = logs.get("supervisor")


def run(config: Config, count: int, arguments: Sequence[str], again: Callable[[], Config], of: Place = ALONE) -> int:
    """Runs `count` workers, each `fastmq` with the same arguments; returns the exit code.

    `of` says at which node they stand in for those of another one, if they do. They have no listeners then, and all end
    when another process goes on with the store of one of them.

    :raises StartError: a listener cannot be bound, or there can be no folder.
    """
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_signals())  # first: from here on, nothing is left behind
        log.debug("starts", workers=count)
        ports = Ports(() if of.at else config.listen, count)
        stack.callback(ports.close)
        folder = stack.enter_context(private_folder())
        # As a script, this process does not look for modules where it was started; neither do its workers.
        is_script = sys.modules["__main__"].__spec__ is None
        command = [sys.executable, *(["-P"] if is_script else []), "-m", "fastmq", *arguments]
        children = [
            Child(
                replace(of, index=index, count=count, folder=folder, listeners=ports.of(index)),
                command,
                environment(),
            )
            for index in range(count)
        ]
        return Parent(config, children, ports, folder, again).run(signals)


@contextlib.contextmanager
def private_folder() -> Iterator[str]:
    """For the sockets by which workers meet; removed in the end.

    :raises StartError: there can be none.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    for parent in (runtime, tempfile.gettempdir(), "/tmp"):
        if parent and len(parent) <= FOLDER_MAX:
            break
    try:
        folder = tempfile.mkdtemp(prefix="fastmq-", dir=parent)
    except OSError as error:
        raise StartError(f"{parent}: there can be no folder for the workers: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Parent:
    """Of these workers; it runs once."""

    def __init__(
        self, config: Config, children: Sequence[Child], ports: Ports, folder: str, again: Callable[[], Config]
    ) -> None:
        self._config = config
        self._children = children
        self._ports = ports
        self._folder = folder
        self._again = again
        self._settings: BinaryIO = passed(config, folder)
        self._systemd = Systemd()
        self._alive_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._awaited = set(children)
        """Who is to say that it is ready before systemd is told."""
        self._has_started = False
        self._stop_by: float | None = None
        """When a worker that has not ended by then is killed; None: nobody is to stop."""
        self._code = 0

    def run(self, signals: socket.socket) -> int:
        """Until all workers have ended; returns the exit code. Signals arrive as bytes of their numbers."""
        with self._selector:
            self._selector.register(signals, selectors.EVENT_READ)
            try:
                self._start_due()
                while self._stop_by is None or any(child.is_running for child in self._children):
                    self._wait(signals)
            finally:
                for child in self._children:
                    child.kill()
                self._settings.close()
        return self._code

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _wait(self, signals: socket.socket) -> None:
        found = self._selector.select(max(0.0, self._next_at() - time.monotonic()))
        # What was said comes first. Were this process stopped for a while, the wait would end with nothing, and all of
        # them seem silent.
        received = b""
        for key, _ in found or self._selector.select(0):
            if key.data is None:
                received = signals.recv(4096)
                continue
            ready = key.data.hear(time.monotonic())
            if ready is None:
                self._forget(key.data)
            elif ready:
                self._ready(key.data)
        for number in received:
            self._signalled(signal.Signals(number))
        self._look_after()

    def _next_at(self) -> float:
        now = time.monotonic()
        times = [now + 1.0]
        if self._systemd.alive_s:
            times.append(self._alive_at)
        if self._stop_by is not None:
            times.append(self._stop_by)
        else:
            times += [child.start_at for child in self._children if not child.is_running]
        return min(times)

    def _look_after(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if (code := child.ended(now)) is not None:
                self._forget(child)
                self._ended(child, code, now)
        if self._stop_by is not None:
            if now >= self._stop_by:
                self._kill_all("the workers take too long to end and are killed")
        else:
            self._kill_silent(now)
            self._start_due()
        if self._systemd.alive_s and now >= self._alive_at:
            self._alive_at = now + self._systemd.alive_s
            if all(self._is_alive(child, now) for child in self._children):
                self._systemd.alive()

    # -- workers -------------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.is_running or now < child.start_at:
                continue
            try:
                child.start(now, self._settings.fileno())
            except OSError as error:
                log.error("cannot start a worker", worker=child.index, reason=error)
                child.postpone(now)
                continue
            assert child.status is not None
            self._selector.register(child.status, selectors.EVENT_READ, child)
            log.debug("started a worker", worker=child.index, pid=child.pid)

    def _forget(self, child: Child) -> None:
        """Hears no more of this process."""
        if child.status is not None:
            self._selector.unregister(child.status)
            child.status.close()
            child.status = None

    def _ready(self, child: Child) -> None:
        if child.hang_up_later:
            child.hang_up_later = False
            child.send(signal.SIGHUP)
            return
        self._awaited.discard(child)
        if self._awaited or self._stop_by is not None:
            return
        if not self._has_started:
            self._has_started = True
            for listener in self._ports.listeners:
                log.info(f"listening on {listener}", workers=len(self._children))
        self._systemd.ready()

    def _ended(self, child: Child, code: int, now: float) -> None:
        told = {"worker": child.index, "pid": child.pid, **cause(code)}
        if self._stop_by is not None:
            if code not in (0, -signal.SIGTERM):  # this signal ends one that had not begun yet
                self._code = 1
                log.error("a worker did not end as it should", **told)
        elif code == FENCED and child.place.at:
            self._code = code
            self._stop(now)
        elif code > 0 and not child.was_ready and not self._has_started:
            log.error("cannot start: a worker ended before it was ready, and has said why", **told)
            self._code = 1
            self._stop(now)
        else:
            log.error("a worker has ended and is started again", **told, after_s=round(child.start_at - now, 1))

    def _kill_silent(self, now: float) -> None:
        most = self._config.workers.watchdog_s
        for child in self._children:
            if most and child.is_ready and now - child.heard_at >= most:
                log.error("a worker stands still and is killed", worker=child.index, pid=child.pid, silent_s=most)
                child.is_ready = False
                child.send(signal.SIGKILL)

    def _is_alive(self, child: Child, now: float) -> bool:
        return child.is_running and (not child.is_ready or now - child.heard_at < SILENT_S)

    # -- signals -------------------------------------------------------------------------------------------------------

    def _signalled(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._stop_by is None:
                log.debug("stopping", signal=number.name)
                self._stop(time.monotonic())
            elif number == signal.SIGINT:
                self._kill_all("interrupted again: the workers are killed")
        elif number == signal.SIGHUP and self._stop_by is None:
            self._reload()

    def _stop(self, now: float) -> None:
        self._stop_by = now + STOP_S
        self._systemd.stopping()
        self._ports.close()
        for child in self._children:
            child.send(signal.SIGTERM)

    def _kill_all(self, why: str) -> None:
        log.error(why)
        self._stop_by = float("inf")
        for child in self._children:
            child.send(signal.SIGKILL)

    def _reload(self) -> None:
        """Each worker reads the settings itself, and says what it found; here they are for workers started later."""
        self._systemd.reloading()
        try:
            config = merged(self._config, self._again()).config
            settings = passed(config, self._folder)
        except ConfigError:
            pass  # they say it
        except OSError as error:
            log.error("cannot keep the settings; a worker that is started again has those of before", reason=error)
        else:
            self._settings.close()
            self._config, self._settings = config, settings
            logs.set_level(config.log.level)
        self._awaited = set(self._children)
        for child in self._children:
            if child.is_ready:
                child.send(signal.SIGHUP)
            else:
                child.hang_up_later = child.is_running


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Signals do nothing but arrive here, as bytes of their numbers."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.setblocking(False)
        ours.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        handlers = [(number, signal.signal(number, lambda *_: None)) for number in SIGNALS]
        try:
            yield ours
        finally:
            for number, handler in handlers:
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
