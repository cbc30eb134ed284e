"""The proof with clients that others wrote: paho-mqtt publishes and subscribes, with sessions of its own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastmq.testing.crash import ROOMY
from fastmq.testing.crash_books import Books
from fastmq.testing.crash_broker import Child
from tests.crash.budget import PAHO_KILLS, timeout_s
from tests.crash.paho_load import PahoLoad


@pytest.mark.timeout(timeout_s(PAHO_KILLS))
def test_paho_loses_nothing_when_the_broker_is_killed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    books = Books()
    child = Child(tmp_path / "broker.log", {**ROOMY, "store.path": str(tmp_path / "disk/store")})
    child.spawn()
    try:
        child.await_listening()
        load = PahoLoad(books, child.address)
        try:
            for number in range(1, PAHO_KILLS + 1):
                books.round = number
                load.run(lambda: False, random.uniform(0.1, 0.5), publishes=True)
                books.crashed()
                child.kill()
                child.spawn()
                child.await_listening()
                load.reconnect()
                if number % 4 == 0 or number == PAHO_KILLS:
                    load.drain()
        finally:
            load.close()
        complaints = child.complaints()
    finally:
        child.kill()
    assert not any(books.violations.values()), "\n".join([str(books.violations), *books.details])
    assert complaints == ""
    assert books.counts["acknowledged"] > 50 * PAHO_KILLS
    assert books.counts["recovered"] > 0
