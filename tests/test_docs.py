"""The documents say what is so: the README's tour runs, links lead somewhere, options and settings are described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from subprocess import PIPE

import click
import pytest

from fastmq.cli import COMMANDS
from fastmq.config.schema import declared, sections
from tests.brokerproc import BrokerProcess
from tests.test_architecture import CHAIN

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "bench/README.md"])
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- the tour ----------------------------------------------------------------------------------------------------------


def tour() -> list[tuple[str, str]]:
    """The fenced blocks of the README's tour: language and text."""
    return _FENCE.findall(README.partition("## 60 seconds")[2].partition("\n## ")[0])


def environment() -> dict[str, str]:
    """As a reader's terminal after the first block: the commands of this environment come first."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that the test started, to be ended after it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_the_tour_is_what_these_tests_run() -> None:
    # Installing is tests/smoke_wheel.sh: it takes too long here, and would not find the engine of this checkout.
    assert [language for language, _ in tour()] == ["sh", "sh", "sh", "sh", "python", "python"]
    assert "pip install ." in tour()[0][1]


def test_the_tour_in_three_terminals(started: list[subprocess.Popen[str]]) -> None:
    serve, sub, pub = (text.strip() for _, text in tour()[1:4])
    assert serve == "fastmq serve"
    env = environment()
    broker = BrokerProcess(
        "fastmq", [*serve.split(), "--listen", "tcp://127.0.0.1:0"], env, r"listening on tcp://127.0.0.1:(\d+)"
    )
    try:
        subscriber = subprocess.Popen(
            f"exec {sub} -p {broker.port} -d", shell=True, env=env, text=True, stdout=PIPE, stderr=PIPE
        )
        started.append(subscriber)
        assert subscriber.stdout is not None
        assert subscriber.stderr is not None
        assert any(line.startswith("Subscribed") for line in subscriber.stderr)
        subprocess.run(f"{pub} -p {broker.port}", shell=True, env=env, check=True, timeout=10)
        line = subscriber.stdout.readline()
        assert f"prints `{line.strip()}`" in README
        subscriber.terminate()
        assert subscriber.wait(10) == 0
        broker.stop()
    finally:
        broker.kill()


def test_the_tour_in_a_program(tmp_path: Path) -> None:
    (tmp_path / "tour.py").write_text(tour()[4][1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "tour.py"], cwd=tmp_path, capture_output=True, text=True, timeout=15
    )
    assert (done.stdout, done.stderr) == ("home/kitchen 21.5\n", "")


def test_the_tour_in_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_kitchen.py").write_text(tour()[5][1])
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_kitchen.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


# -- links and names ---------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_somewhere(path: Path) -> None:
    missing = []
    for link in _LINK.findall(_CODE.sub("", path.read_text())):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("path", [path for path in PAGES if path.is_relative_to(ROOT / "docs")], ids=page_name)
def test_every_page_is_reached_from_the_index(path: Path) -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(index.read_text())}
    assert path == index or path in linked


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_make_words_exist(path: Path) -> None:
    words = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"(?:^    |`)make (\w+)", path.read_text(), re.MULTILINE)
    assert set(used) <= words


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=page_name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"`((?:fastmq|tests|bench|docs|scripts)/[\w./-]*\w)`", path.read_text())
    assert [name for name in named if not (ROOT / name).exists() and name != "bench/load/build"] == []


def test_the_files_on_the_journey_exist() -> None:
    engine = set(re.findall(r"`(_\w+\.pyx)`", (ROOT / "ARCHITECTURE.md").read_text()))
    assert engine == {path.name for path in ROOT.glob("fastmq/_*.pyx")}


def test_the_layers_are_those_that_are_checked() -> None:
    shown = (ROOT / "ARCHITECTURE.md").read_text().partition("<!-- layers -->\n```\n")[2].partition("```")[0]
    assert shown.split() == CHAIN.split()


def test_the_readme_counts_as_the_conformance_page_does() -> None:
    page = (ROOT / "docs/reference/conformance.md").read_text()
    five, three = re.findall(r"(\d+) bind servers: ", page)  # that none is without test or reason, tests/spec checks
    said = f"each of the {five} normative statements of MQTT 5.0 that bind a server, and of the {three} of MQTT 3.1.1,"
    assert said in " ".join(README.split())


# -- settings and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_settings_that_are_named_exist(path: Path) -> None:
    keys = "|".join(sections())
    named = re.findall(rf"`(?:--set )?((?:{keys})\.[a-z0-9_]+)(?:=[^`]*)?`", path.read_text())
    assert [name for name in named if name not in declared() and not (ROOT / "fastmq" / name).exists()] == []


def options() -> Iterator[tuple[str, list[str]]]:
    """Every option of every command that `--help` shows, by its names."""
    for name, entry in COMMANDS.items():
        command: click.Command = import_module(entry.module).command
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield name, parameter.opts


@pytest.mark.parametrize(
    ("command", "names"), [pytest.param(*each, id=f"{each[0]} {each[1][-1]}") for each in options()]
)
def test_every_option_is_described(command: str, names: list[str]) -> None:
    text = (ROOT / ("docs/howto/pub-sub.md" if command in ("pub", "sub") else "docs/reference/commands.md")).read_text()
    assert any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names)
