"""A broker with one method of enhanced authentication, CHALLENGE; run as `python -m tests.spec.challenging`.

The client sends any data, gets b"who?", answers b"me" and gets b"welcome"; b"slow" as data needs a second question.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from fastmq.broker.worker import Worker
from fastmq.config.listener import Listener
from fastmq.config.schema import Config
from fastmq.contracts import Credentials
from fastmq.reasons import Reason


class Challenge:
    """The exchange of one client."""

    def __init__(self) -> None:
        self._questions: list[bytes] | None = None

    async def step(self, data: bytes | None) -> tuple[Reason, bytes | None]:
        if self._questions is None:
            self._questions = [b"really?", b"who?"] if data == b"slow" else [b"who?"]
        elif data != b"me":
            return Reason.NOT_AUTHORIZED, None
        if self._questions:
            return Reason.CONTINUE_AUTHENTICATION, self._questions.pop()
        return Reason.SUCCESS, b"welcome"


class Method:
    method = "CHALLENGE"

    def begin(self, credentials: Credentials) -> Challenge:
        return Challenge()


async def main() -> None:
    worker = Worker(Config(listen=(Listener("tcp", "127.0.0.1", 0),)), enhanced=[Method()])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await worker.start()
    print(f"listening on {worker.listeners[0]}", file=sys.stderr)
    await stop.wait()
    await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
