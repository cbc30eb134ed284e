"""The marks that tie a test to the normative statements it proves, and the registry of those ties.

`@normative("MQTT-3.3.1-2")` cites MQTT 5.0, `@normative311(...)` MQTT 3.1.1. An id that no specification has
fails at import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from tests.spec.statements import V5, V311, Statement

F = TypeVar("F", bound=Callable[..., Any])

#: statement id -> names of the tests that prove it, as "module.py::test"
COVERED_V5: dict[str, set[str]] = {}
COVERED_V311: dict[str, set[str]] = {}


def _tie(known: dict[str, Statement], covered: dict[str, set[str]], edition: str, ids: tuple[str, ...]) -> Any:
    unknown = [i for i in ids if i not in known]
    if unknown:
        raise LookupError(f"MQTT {edition} has no statement {', '.join(unknown)}")

    def mark(test: F) -> F:
        name = f"{test.__module__.rpartition('.')[2]}.py::{test.__name__}"
        for i in ids:
            covered.setdefault(i, set()).add(name)
        marked: F = pytest.mark.normative(*(f"{edition} {i}" for i in ids))(test)
        return marked

    return mark


def normative(*ids: str) -> Callable[[F], F]:
    """The test proves these statements of MQTT 5.0."""
    mark: Callable[[F], F] = _tie(V5, COVERED_V5, "5.0", ids)
    return mark


def normative311(*ids: str) -> Callable[[F], F]:
    """The test proves these statements of MQTT 3.1.1."""
    mark: Callable[[F], F] = _tie(V311, COVERED_V311, "3.1.1", ids)
    return mark
