"""Async tests, run on asyncio and on uvloop: what is embedded must not care on which loop it is."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def on_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes two tests of an async one; its other arguments are fixtures and parameters as ever."""

    @pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def on_loop(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(15):
                await test(**arguments)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(bounded())

    known = inspect.signature(test)
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    on_loop.__signature__ = known.replace(parameters=[*known.parameters.values(), new_loop])
    del on_loop.__wrapped__
    returned: Callable[..., None] = on_loop
    return returned


async def turns(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)
