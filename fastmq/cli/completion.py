"""`fastmq completion bash`: the shell script that completes commands and options."""

from typing import Final

import click
from click.shell_completion import get_completion_class

VARIABLE: Final = "_FASTMQ_COMPLETE"
"""The variable through which the script asks `fastmq` for completions; click's name for it."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands in SHELL.

    \b
    bash:  echo 'eval "$(fastmq completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(fastmq completion zsh)"' >> ~/.zshrc
    fish:  fastmq completion fish > ~/.config/fish/completions/fastmq.fish
    """
    completes = get_completion_class(shell)
    assert completes is not None  # click has these three
    click.echo(completes(ctx.find_root().command, {}, "fastmq", VARIABLE).source())
