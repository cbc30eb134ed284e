"""What pyproject.toml promises, and what is there."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import fastmq

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRIES = {**PROJECT["scripts"], **PROJECT["entry-points"]["pytest11"]}


@pytest.mark.parametrize("entry", ENTRIES.values())
def test_every_entry_point_is_there(entry: str) -> None:
    module, _, name = entry.partition(":")
    loaded = import_module(module)
    assert not name or callable(getattr(loaded, name))


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["dynamic"]
    assert fastmq.__version__.count(".") == 2


def test_every_word_of_the_makefile_is_in_its_list_of_words() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    words = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    targets = [line.partition(":")[0] for line in lines if line[:1].isalpha() and ":" in line and ":=" not in line]
    assert sorted(targets) == sorted(words)


def test_ci_says_the_words_that_people_say() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert "make check" in script
    assert "make test" in script
