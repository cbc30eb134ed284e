"""A real HTTP server in a thread of the test, which answers as it is told: also late, with garbage, or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web


class HttpService:
    """`answer` may be changed at any time: (status, body) or (status, body, seconds to wait)."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], tuple[Any, ...]] = lambda _: (200, {"result": "allow"})
        self.asked: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/auth"

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._open())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _open(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        question = json.loads(body) if body else None
        self.asked.append(question)
        self.headers.append(dict(request.headers))
        status, answer, *wait = self.answer(question)
        if wait:
            await asyncio.sleep(wait[0])
        if isinstance(answer, bytes):
            return web.Response(status=status, body=answer)
        return web.json_response(answer, status=status)


@contextmanager
def http_service(port: int = 0) -> Iterator[HttpService]:
    service = HttpService()
    service.port = port
    service.start()
    try:
        yield service
    finally:
        service.stop()
