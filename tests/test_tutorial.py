"""The tutorial, page by page, as a reader would do it: files are written, commands run, their output compared."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, start_fastmq

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/tutorial").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAHO_COMPLAINS = "Client is not connected. Socket: None)"  # paho 2.2 after its own DISCONNECT, with any broker
PROGRAMS = {"fastmq": "-m fastmq", "python": "", "pytest": "-m pytest -p no:cacheprovider -p fastmq.testing.plugin"}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks: language and text."""
    for block in BLOCK.finditer(page.read_text()):
        yield block[1], block[2]


def commands(console: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a terminal, and the lines that each prints."""
    for part in console.split("$ ")[1:]:
        command, *lines = part.splitlines()
        yield command, lines


class Reader:
    """Does what a page says, with a broker on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker: BrokerProcess | None = None
        self.ran = 0

    def write(self, text: str) -> None:
        name = text.partition("\n")[0].removeprefix("# ")
        assert name.endswith(".py"), f"a program begins with a comment that names it, not with {name!r}"
        port = str(self.broker.port) if self.broker else "0"
        (self.folder / name).write_text(re.sub(r"\b1883\b", port, text))

    def run(self, command: str, expected: list[str]) -> None:
        self.ran += 1
        if command == "fastmq serve":
            self.broker = start_fastmq({"store.path": str(self.folder / "fastmq.db")})
            self.broker.await_log("what must last is kept")
            said = self.broker.log_text().replace(str(self.broker.port), "1883").splitlines()
        else:
            said = self.output(command)
        assert len(said) == len(expected), said
        for line, pattern in zip(said, expected, strict=True):
            assert fnmatch.fnmatchcase(line, pattern.replace("[", "[[]").replace("...", "*")), said

    def output(self, command: str) -> list[str]:
        program, _, rest = command.partition(" ")
        line = f"exec {sys.executable} -W error {PROGRAMS[program]} {rest}"
        if program == "fastmq":
            assert self.broker is not None
            line += f" -p {self.broker.port}"
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=15,
        )
        complaints = [line for line in done.stderr.splitlines() if not line.startswith(PAHO_COMPLAINS)]
        assert (done.returncode, complaints) == (0, []), done.stdout + done.stderr
        return done.stdout.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_happens(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for language, text in blocks(page):
            if language == "python":
                reader.write(text)
            else:
                assert language == "console"
                for command, lines in commands(text):
                    reader.run(command, lines)
        if reader.broker is not None:
            reader.broker.stop()
    finally:
        if reader.broker is not None:
            reader.broker.kill()
    assert reader.ran >= 2


def test_the_pages_lead_to_one_another() -> None:
    assert len(PAGES) == 3
    for page, following in pairwise(PAGES):
        assert f"({following.name})" in page.read_text()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, ["sensors/1 b'21.5' 1 Properties()", "True 0"]),
        (1, ["welcome", "NOT_AUTHORIZED"]),
    ],
)
def test_the_programs_of_the_how_to_run(number: int, said: list[str], tmp_path: Path) -> None:
    programs = [text for language, text in blocks(ROOT / "docs/howto/embed.md") if language == "python"]
    assert len(programs) == 2
    (tmp_path / "program.py").write_text(programs[number])
    assert Reader(tmp_path).output("python program.py") == said
