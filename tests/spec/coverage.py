"""Writes docs/reference/conformance.md: which test proves which normative statement, and which none can prove.

`python -m tests.spec.coverage` writes the page, with `--check` it only compares.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from tests.spec import normative
from tests.spec.statements import V5, V311, Statement

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"

_HEAD = """\
# Conformance

<!-- Written by `python -m tests.spec.coverage` from the marks in tests/spec: do not edit. -->

Every normative statement of MQTT 5.0 and MQTT 3.1.1, in our own words, and the black-box tests in `tests/spec/` that
prove it over a socket. `make spec` runs them; `pytest tests/spec -q` too. A statement that binds only clients is proved
where a server can notice that a client breaks it.
"""
_CLIENT_ONLY = "binds clients only; a server cannot notice"


def load_tests() -> None:
    """Import all test modules: their marks fill the registry."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.spec.{path.stem}")


def uncovered(known: dict[str, Statement], covered: dict[str, set[str]]) -> list[str]:
    """Statements that bind a server, have no test and no reason for that."""
    return [s.id for s in known.values() if s.binds != "client" and not s.untestable and s.id not in covered]


def contradicted(known: dict[str, Statement], covered: dict[str, set[str]]) -> list[str]:
    """Statements said to be untestable that have a test."""
    return [s.id for s in known.values() if s.untestable and s.id in covered]


def _chapter(statement: Statement) -> str:
    found = re.fullmatch(r"MQTT-(\d+(?:\.\d+)?)[.\d]*-\d+", statement.id)
    assert found, statement.id
    return found[1]


def _cell(statement: Statement, covered: dict[str, set[str]]) -> str:
    tests = sorted(covered.get(statement.id, ()))
    if tests:
        return "<br>".join(f"`{name}`" for name in tests)
    return f"*not tested: {statement.untestable or _CLIENT_ONLY}*"


def _section(title: str, known: dict[str, Statement], covered: dict[str, set[str]]) -> list[str]:
    binding = [s for s in known.values() if s.binds != "client"]
    proved = [s for s in binding if s.id in covered]
    of_clients = [s for s in known.values() if s.binds == "client"]
    noticed = [s for s in of_clients if s.id in covered]
    lines = [
        f"## {title}",
        "",
        f"{len(known)} statements. {len(binding)} bind servers: {len(proved)} have tests, "
        f"{len(binding) - len(proved)} cannot be tested here, for the reason given. "
        f"{len(of_clients)} bind only clients: {len(noticed)} have tests of what the server does when they are broken.",
        "",
    ]
    chapter = ""
    for statement in known.values():
        if _chapter(statement) != chapter:
            chapter = _chapter(statement)
            lines += [
                "",
                f"### Chapter {chapter}",
                "",
                "| Statement | Binds | It says | Tests |",
                "| --- | --- | --- | --- |",
            ]
        lines.append(f"| {statement.id} | {statement.binds} | {statement.text} | {_cell(statement, covered)} |")
    return [*lines, ""]


def page() -> str:
    load_tests()
    lines = [
        *_section("MQTT 5.0", V5, normative.COVERED_V5),
        *_section("MQTT 3.1.1", V311, normative.COVERED_V311),
    ]
    return _HEAD + "\n" + re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        return 0 if PAGE.exists() and PAGE.read_text() == text else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text)
    for edition, missing in (
        ("5.0", uncovered(V5, normative.COVERED_V5)),
        ("3.1.1", uncovered(V311, normative.COVERED_V311)),
    ):
        print(f"MQTT {edition}: {', '.join(missing) or 'every testable statement that binds a server has a test'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
