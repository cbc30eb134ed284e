"""The listening sockets of all workers. The parent keeps them open: nobody is refused while a worker is away."""

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import replace

from fastmq import sockets
from fastmq.config.listener import Listener


class Ports:
    """One socket for each worker where the kernel divides a port's connections among several, else one for all.

    :raises StartError: an address cannot be bound; nothing is left open.
    """

    def __init__(self, listen: Sequence[Listener], count: int) -> None:
        self.listeners: list[Listener] = []
        """With the ports that were found for them."""
        self._sockets: list[list[socket.socket]] = []
        each_its_own = sockets.ports_can_be_shared()
        try:
            for listener in listen:
                if each_its_own and listener.scheme != "unix":
                    bound = _bind_each(listener, count)
                else:
                    bound = [sockets.bind(listener)] * count
                found = sockets.with_port(listener, bound[0])
                self._sockets.append(bound)
                self.listeners.append(found)
        except BaseException:
            self.close()
            raise

    def of(self, index: int) -> tuple[int, ...]:
        """The descriptors for one worker, in the order of `listen`."""
        return tuple(bound[index].fileno() for bound in self._sockets)

    def close(self) -> None:
        """Nobody comes in by them any more, once the workers have closed theirs."""
        for bound, listener in zip(self._sockets, self.listeners, strict=True):
            for each in bound:
                each.close()
            sockets.remove(listener)
        self._sockets.clear()
        self.listeners.clear()


def _bind_each(listener: Listener, count: int) -> list[socket.socket]:
    if listener.port:
        # Another broker of this user that shares its ports would not be in the way: this one asks without sharing.
        sockets.bind(listener).close()
    bound: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            bound.append(stack.enter_context(contextlib.closing(sockets.bind(listener, port_is_shared=True))))
            listener = replace(listener, port=bound[0].getsockname()[1])
        stack.pop_all()
    return bound
