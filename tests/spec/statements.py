"""All normative statements of MQTT 5.0 and 3.1.1: id, whom they bind, a short paraphrase, why no test can prove it."""

from __future__ import annotations

from typing import NamedTuple

from tests.spec import statements_v5_chapter3, statements_v5_publish, statements_v5_rest, statements_v311


class Statement(NamedTuple):
    id: str
    binds: str  #: "server", "client" or "both"
    text: str
    untestable: str  #: why no black-box test of a server can prove it; empty = one must


def _table(rows: list[tuple[str, ...]]) -> dict[str, Statement]:
    table: dict[str, Statement] = {}
    for row in rows:
        short, binds, text = row[:3]
        if f"MQTT-{short}" in table:
            raise LookupError(f"MQTT-{short} is listed twice")
        table[f"MQTT-{short}"] = Statement(f"MQTT-{short}", binds, text, row[3] if len(row) > 3 else "")
    return table


V5 = _table([*statements_v5_chapter3.ROWS, *statements_v5_publish.ROWS, *statements_v5_rest.ROWS])
V311 = _table(statements_v311.ROWS)
