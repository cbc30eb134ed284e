"""The composition root: from a Config to a running worker. The only file that knows every room."""

import asyncio
import signal
import sys

from fastmq.broker.worker import Worker
from fastmq.config.schema import Config

if sys.platform != "win32":
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: plain asyncio runs the same code
        uvloop = None  # type: ignore[assignment]


def serve(config: Config) -> int:
    """Runs a broker until SIGTERM or SIGINT; returns the exit code.

    :raises StartError: it could not start, a port being in use for one.
    """
    factory = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(config))
    return 0


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    worker = Worker(config)
    await worker.start()
    await stop.wait()
    await worker.stop()
