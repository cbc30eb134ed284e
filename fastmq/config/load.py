"""Gathers the settings: defaults, then the TOML file, then the environment, then flags; the later wins.

Every problem is found before the start is refused, each with the place and the key to mend.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastmq.config import tables
from fastmq.config.lines import line_numbers, line_of
from fastmq.config.schema import Config, declared, sections
from fastmq.config.tables import did_you_mean
from fastmq.errors import ConfigError, Problem

DEFAULT: Final = "default"
ENVIRONMENT_PREFIX: Final = "FASTMQ_"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each came from."""

    config: Config
    origins: Mapping[str, str]
    """key -> "default", "fastmq.toml:12", the environment variable, or the flag."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting from the command line: `Flag("mqtt.maximum_qos", "1", "--set")`."""

    key: str
    text: str
    where: str


def load(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[Flag] = (),
) -> Loaded:
    """The settings of the file at `path`, overridden by `environment`, overridden by `flags`.

    :raises ConfigError: a setting is wrong, or the file cannot be read.
    """
    gathering = _Gathering()
    if path is not None:
        gathering.add_file(path)
    gathering.add_environment(environment or {})
    gathering.add_flags(flags)
    return gathering.finish()


class _Gathering:
    """The values, their origins and the problems found so far."""

    def __init__(self) -> None:
        self.settings = declared()
        self.values = {key: each.default for key, each in self.settings.items()}
        self.origins = dict.fromkeys(self.settings, DEFAULT)
        self.problems: list[Problem] = []

    def add_file(self, path: Path) -> None:
        try:
            text = path.read_text("utf-8")
            parsed = tomllib.loads(text)
        except OSError as error:
            self.problems.append(Problem(str(path), "", f"cannot read the settings: {error.strerror}"))
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            self.problems.append(Problem(f"{path}:{line}", "", "is not UTF-8"))
        except tomllib.TOMLDecodeError as error:
            self.problems.append(_toml_problem(path, text, str(error)))
        else:
            self._add_tables(parsed, lambda key: f"{path}:{line_of(line_numbers(text), key)}")

    def _add_tables(self, parsed: dict[str, Any], where: Callable[[str], str]) -> None:
        for name, given in parsed.items():
            if name not in sections():
                self._add(name, given, where)
            elif not isinstance(given, dict):
                self._refuse(where(name), name, f"is a section: write [{name}] above its settings")
            else:
                for key, value in given.items():
                    self._add(f"{name}.{key}", value, where)

    def add_environment(self, environment: Mapping[str, str]) -> None:
        known = {each.environment: each.key for each in self.settings.values()}
        for variable, text in environment.items():
            if not variable.startswith(ENVIRONMENT_PREFIX):
                continue
            if variable in known:
                self._add_text(known[variable], text, variable)
            elif "__" in variable:  # others, FASTMQ_CONFIG for one, are not settings
                self._refuse(variable, "", "no such setting" + did_you_mean(variable, known))

    def add_flags(self, flags: Sequence[Flag]) -> None:
        for flag in flags:
            self._add_text(flag.key, flag.text, flag.where)

    def _add_text(self, key: str, text: str, where: str) -> None:
        self._add(key, text, lambda _: where, is_text=True)

    def _add(self, key: str, given: Any, where: Callable[[str], str], is_text: bool = False) -> None:
        if key not in self.settings:
            self._refuse(where(key), key, self._unknown(key, given))
            return
        read = tables.from_text if is_text else tables.from_toml
        try:
            self.values[key] = read(self.settings[key], given)
            self.origins[key] = where(key)
        except tables.ItemError as error:
            self._refuse(where(f"{key}.{error.at}.{error.key}".rstrip(".")), error.place(key), str(error))
        except ValueError as error:
            self._refuse(where(key), key, str(error))

    def _unknown(self, key: str, given: Any) -> str:
        if "." not in key and isinstance(given, dict):
            return "no such section" + did_you_mean(key, sections())
        name = key.rpartition(".")[2]
        elsewhere = [known for known in self.settings if known.rpartition(".")[2] == name]
        if elsewhere:
            return f"no such setting; did you mean {' or '.join(elsewhere)}?"
        return "no such setting" + did_you_mean(key, self.settings)

    def _refuse(self, where: str, key: str, message: str) -> None:
        self.problems.append(Problem(where, key, message))

    def finish(self) -> Loaded:
        if self.problems:
            raise ConfigError(self.problems)
        parts: dict[str, Any] = {each.name: self.values[key] for key, each in self.settings.items() if not each.section}
        for section, settings in sections().items():
            mine = [each for each in self.settings.values() if each.section == section]
            parts[section] = settings(**{each.name: self.values[each.key] for each in mine})
        return Loaded(Config(**parts), self.origins)


def _toml_problem(path: Path, text: str, message: str) -> Problem:
    """tomllib ends its messages with "(at line 3, column 5)" or "(at end of document)"."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    line = text.count("\n") + 1 if place is None or place[1] is None else int(place[1])
    return Problem(f"{path}:{line}", "", "not TOML: " + (message if place is None else message[: place.start()]))
