"""The coverage page is up to date, and no statement that binds a server is forgotten."""

from __future__ import annotations

import pytest

from tests.spec import coverage, normative
from tests.spec.statements import V5, V311, Statement

EDITIONS = pytest.mark.parametrize(
    ("known", "covered"), [(V5, normative.COVERED_V5), (V311, normative.COVERED_V311)], ids=["5.0", "3.1.1"]
)


def test_the_conformance_page_is_up_to_date() -> None:
    assert coverage.PAGE.read_text() == coverage.page(), "run: python -m tests.spec.coverage"


@EDITIONS
def test_every_statement_has_a_test_or_a_reason(known: dict[str, Statement], covered: dict[str, set[str]]) -> None:
    coverage.load_tests()
    assert coverage.uncovered(known, covered) == []
    assert coverage.contradicted(known, covered) == []


def test_all_statements_are_listed() -> None:
    assert (len(V5), len(V311)) == (251, 141)


@EDITIONS
def test_paraphrases_are_short(known: dict[str, Statement], covered: dict[str, set[str]]) -> None:
    assert [s.id for s in known.values() if not 3 <= len(s.text.split()) <= 20] == []


def test_an_unknown_id_is_an_error() -> None:
    with pytest.raises(LookupError):
        normative.normative("MQTT-9.9.9-9")
