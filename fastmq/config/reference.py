"""Writes docs/reference/config.md from the schema: `python -m fastmq.config.reference`. A test keeps the page true."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fastmq.config.schema import declared, sections
from fastmq.config.setting import Declared, declared_in
from fastmq.config.values import limits_shown, shown

PAGE: Final = Path("docs/reference/config.md")

HEAD: Final = """\
# Settings

<!-- Written by `python -m fastmq.config.reference` (`make docs`) from fastmq/config/schema.py. Change it there. -->

`fastmq serve` needs no settings. What is set comes from these places, and the later wins:

1. the defaults below;
2. one TOML file: `fastmq serve --config fastmq.toml`, or `FASTMQ_CONFIG=fastmq.toml`;
3. the environment: `FASTMQ_SECTION__KEY=value`, for one `FASTMQ_MQTT__MAXIMUM_QOS=1`; a list's items are split at
   commas, as in `FASTMQ_LISTEN=tcp://127.0.0.1:1883,tcp://[::1]:1883`;
4. flags: `--set section.key=value`, and the short ones `--listen`, `--workers` and `--log-level`.

A list of tables, as `[[listen]]`, is given as JSON in the environment and by `--set`:
`FASTMQ_LISTEN='[{"url": "tcp://0.0.0.0:1883", "name": "devices"}]'`.

`fastmq check` says what the result is, and where each value came from. A setting that is wrong or unknown stops the
start with exit code 2 and a line of the form `fastmq.toml:12: mqtt.maximum_qos: must be one of 0, 1, 2, not 3`.

A whole file with every default:

```toml
"""


def page() -> str:
    """The whole page, in Markdown."""
    settings = list(declared().values())
    parts = [HEAD, example(settings), "```\n"]
    parts += _table("Top level", "", [each for each in settings if not each.section])
    for section, kind in sections().items():
        mine = [each for each in settings if each.section == section]
        parts += _table(f"[{section}]", " ".join((kind.__doc__ or "").split()), mine)
    for each in settings:
        if each.setting.tables is not None:
            for told, kind in each.setting.tables.kinds.items():
                parts += _items(each, told, kind)
    return "".join(parts)


def _items(each: Declared, told: str, kind: type) -> Iterable[str]:
    """The keys of one kind of table in a list."""
    tables = each.setting.tables
    assert tables is not None
    title = f'[[{each.key}]] {tables.told_by} = "{told}"' if told else f"[[{each.key}]]"
    about = " ".join((kind.__doc__ or "").split())
    if not told:
        about += " An item is such a table, with its `url`, or the text of the `url` alone."
    yield from _table(title, about, declared_in(kind))


def example(settings: Iterable[Declared]) -> str:
    """A TOML file that sets every setting to its default."""
    lines: list[str] = []
    section = ""
    for each in settings:
        if each.section != section:
            section = each.section
            lines += ["", f"[{section}]"]
        lines.append(f"{each.name} = {shown(each.default)}")
    return "\n".join(lines) + "\n"


def _table(title: str, about: str, settings: Iterable[Declared]) -> Iterable[str]:
    yield f"\n## {title}\n\n"
    if about:
        yield f"{about}\n\n"
    yield "| setting | default | allowed | what it does |\n|---|---|---|---|\n"
    for each in settings:
        default = f"`{shown(each.default)}`"
        yield f"| `{each.name}` | {default} | {_allowed(each)} | {each.setting.help.replace('|', chr(92) + '|')} |\n"


def _allowed(each: Declared) -> str:
    is_list = isinstance(each.default, tuple)
    if each.setting.choices:
        return ("any of " if is_list else "") + ", ".join(f"`{shown(choice)}`" for choice in each.setting.choices)
    if each.setting.limits:
        return ", ".join([limits_shown(each.setting), *(f"`{shown(word)}`" for word in each.setting.words)])
    if each.setting.tables is not None and each.setting.tables.told_by:
        return f"a list of tables, told apart by `{each.setting.tables.told_by}`"
    if is_list:
        return "a list of addresses" if each.default else f"a list of texts like `{each.setting.item}`"
    return "`true`, `false`" if isinstance(each.default, bool) else "text"


def main() -> None:
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
