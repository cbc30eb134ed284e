"""Finds the line of a TOML text on which a key is set; tomllib reads values, but forgets where they stood."""

import re
from typing import Final

_BARE_OR_QUOTED: Final = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY: Final = rf"{_BARE_OR_QUOTED}(?:\s*\.\s*{_BARE_OR_QUOTED})*"
_TABLE: Final = re.compile(rf"\s*\[\[?\s*({_KEY})\s*\]\]?\s*(?:#.*)?")
_ASSIGNMENT: Final = re.compile(rf"\s*({_KEY})\s*=")
_PART: Final = re.compile(_BARE_OR_QUOTED)


def line_numbers(text: str) -> dict[str, int]:
    """Dotted key -> line, counted from 1; for every table and every assignment. Inline tables count as one.

    The tables of a list have their place in the key: `listen.1.url` for the second.
    """
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table: tuple[str, ...] = ()
    inside = ""  # the quotes of the multi-line string that the line is in
    for number, line in enumerate(text.splitlines(), start=1):
        if inside:
            inside = _open_quotes(line, inside)
            continue
        if header := _TABLE.fullmatch(line):
            table = _parts(header[1])
            found.setdefault(".".join(table), number)
            if line.lstrip().startswith("[["):
                listed = ".".join(table)
                table = (*table, str(counts.setdefault(listed, 0)))
                counts[listed] += 1
                found.setdefault(".".join(table), number)
        elif assignment := _ASSIGNMENT.match(line):
            path = (*table, *_parts(assignment[1]))
            for depth in range(1, len(path) + 1):
                found.setdefault(".".join(path[:depth]), number)
        inside = _open_quotes(line, "")
    return found


def line_of(lines: dict[str, int], key: str) -> int:
    """The line of `key`, or of the nearest table around it; 1 when the text names neither."""
    while key not in lines and "." in key:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(key))


def _open_quotes(line: str, inside: str) -> str:
    """The multi-line quotes that are open at the end of `line`, when `inside` were open before it; "" for none."""
    at = 0
    while at < len(line):
        if inside:
            at = line.find(inside, at)
            if at < 0:
                return inside
            at, inside = at + 3, ""
            continue
        mark = line[at : at + 3]
        if mark in ('"""', "'''"):
            inside, at = mark, at + 3
        elif line[at] in "\"'":
            end = line.find(line[at], at + 1)
            at = len(line) if end < 0 else end + 1
        elif line[at] == "#":
            return ""
        else:
            at += 1
    return inside
