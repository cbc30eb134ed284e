"""Reads settings of any kind; besides those of `values`, lists of tables: `[[listen]]`, `[[auth.chain]]`."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fastmq.config import values
from fastmq.config.setting import Declared, Tables, declared_in


class ItemError(ValueError):
    """A key of one item is wrong."""

    def __init__(self, at: int, key: str, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.key = key
        """Empty: the item as a whole."""

    def place(self, setting: str) -> str:
        """`listen[1].name`, for the key of a setting."""
        return f"{setting}[{self.at}]" + (f".{self.key}" if self.key else "")


def from_toml(declared: Declared, given: object) -> object:
    """The value for `declared` that a TOML file gives.

    :raises ItemError: a key of an item is wrong. ValueError: anything else is.
    """
    tables = declared.setting.tables
    if tables is None:
        return values.from_toml(declared, given)
    if isinstance(given, str) or not isinstance(given, list):
        raise ValueError(f"must be a list, not {values.given_shown(given)}")
    items: list[object] = []
    for at, each in enumerate(given):
        try:
            items.append(_item(tables, each))
        except ItemError as error:
            raise ItemError(at, error.key, str(error)) from None
        except ValueError as error:
            raise ItemError(at, "", str(error)) from None
    return values.checked_list(declared, items)


def from_text(declared: Declared, given: str) -> object:
    """The value for `declared` that an environment variable or a flag gives: a JSON array, or texts between commas.

    :raises ItemError: a key of an item is wrong. ValueError: anything else is.
    """
    if declared.setting.tables is None:
        return values.from_text(declared, given)
    if given.lstrip().startswith("["):
        try:
            return from_toml(declared, json.loads(given))
        except json.JSONDecodeError as error:
            raise ValueError(f"is no JSON: {error}") from None
    return from_toml(declared, [part.strip() for part in given.split(",") if part.strip()])


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean KNOWN?`, or nothing."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _item(tables: Tables, given: object) -> object:
    if not tables.told_by:
        kind = tables.kinds[""]
        if isinstance(given, str):
            return _checked(kind.parse(given))
        if not isinstance(given, dict):
            raise ValueError(f"must be an address like tcp://127.0.0.1:1883, not {values.given_shown(given)}")
        if not isinstance(given.get("url"), str):
            raise ItemError(0, "url", "must be set, to an address like tcp://127.0.0.1:1883")
        return _filled(kind, kind.parse(given["url"]), given, "url")
    if not isinstance(given, dict):
        raise ValueError(f"must be a table, not {values.given_shown(given)}")
    told = given.get(tables.told_by)
    if not isinstance(told, str) or told not in tables.kinds:
        known = ", ".join(tables.kinds)
        guess = did_you_mean(told, tables.kinds) if isinstance(told, str) else ""
        raise ItemError(0, tables.told_by, f"must be one of {known}" + guess)
    kind = tables.kinds[told]
    return _filled(kind, kind(), given, tables.told_by)


def _filled(kind: type[Any], start: Any, given: dict[str, object], besides: str) -> object:
    known = {each.name: each for each in declared_in(kind)}
    options: dict[str, object] = {}
    for key, value in given.items():
        if key == besides:
            continue
        if key not in known:
            raise ItemError(0, key, "no such setting" + did_you_mean(key, known))
        try:
            options[key] = values.from_toml(known[key], value)
        except ValueError as error:
            raise ItemError(0, key, str(error)) from None
    for each in known.values():
        if each.setting.not_empty and not options.get(each.name, each.default):
            raise ItemError(0, each.name, "must be set")
    return _checked(replace(start, **options))


def _checked(item: object) -> object:
    if (problem := getattr(item, "wrong", lambda: None)()) is not None:
        raise ItemError(0, *problem)
    return item
