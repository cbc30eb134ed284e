"""The bar that long work shows on a terminal, and only there."""

import os
import pty
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from fastmq.app import open_store
from fastmq.config.schema import Config, StoreSettings

ROOT = Path(__file__).parents[2]
WORK = """
import sys, time
from fastmq.cli.progress import Bar
end = time.monotonic() + float(sys.argv[1])
with Bar("loading") as bar:
    while (left := end - time.monotonic()) > 0:
        bar(int(1000 - left * 100), 1000)
    bar(1000, 1000)
"""


def on_a_terminal(seconds: str) -> str:
    """What work of this length shows on standard error."""
    controller, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", WORK, seconds], stderr=terminal, check=True, cwd=ROOT, timeout=10)
    os.write(terminal, b"\n")
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    return shown


def test_a_bar_is_shown_once_it_takes_long() -> None:
    shown = on_a_terminal("0.8")
    assert "loading" in shown
    assert "/1000" in shown


def test_nothing_is_shown_when_it_is_quick() -> None:
    assert on_a_terminal("0.1").strip() == ""


def test_nothing_is_shown_where_there_is_no_terminal() -> None:
    command = [sys.executable, "-c", WORK, "0.8"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, timeout=10)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_store_says_how_far_its_load_is(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    config = Config(store=StoreSettings(path=str(tmp_path / "store.db")))
    store = open_store(config, lambda done, total: heard.append((done, total)))
    assert store is not None
    with closing(store):
        list(store.load())
    assert heard[-1] == (0, 0)
