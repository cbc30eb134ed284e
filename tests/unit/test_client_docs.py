"""docs/howto/pub-sub.md knows every option of the two commands, and its program runs."""

import re
from pathlib import Path

import click
import pytest

from fastmq.cli import pub, sub
from fastmq.cli.output import compile_format
from fastmq.client.reconnect import Reconnect

PAGE = (Path(__file__).parent.parent.parent / "docs/howto/pub-sub.md").read_text()


@pytest.mark.parametrize("command", [pub.command, sub.command], ids=["pub", "sub"])
def test_every_option_is_described(command: click.Command) -> None:
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    assert len(options) > 20
    missing = [each.opts for each in options if not any(f"`{name}" in PAGE for name in each.opts)]
    assert missing == []


def test_every_format_that_is_described_exists() -> None:
    section = PAGE.split("### Formats")[1].split("## MQTT 5")[0]
    described = set(re.findall(r"`((?:%[a-zA-Z%])|(?:\\[a-z0])|(?:@[N@]))`", section))
    assert len(described) > 25
    for each in described:
        compile_format(each)


def test_the_program_compiles_and_uses_what_there_is() -> None:
    program = PAGE.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(compile(program.replace("asyncio.run(main())", ""), "pub-sub.md", "exec"), names)
    assert callable(names["main"])
    assert names["Reconnect"] is Reconnect
