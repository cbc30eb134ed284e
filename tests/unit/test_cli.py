"""The command line: what it prints, what it refuses, and that it starts at once."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import fastmq
from fastmq.cli import COMMANDS, main
from fastmq.config.schema import declared

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environment, prog_name="fastmq")


def python(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"fastmq {fastmq.__version__}\n")


def test_help_lists_every_command_and_imports_none() -> None:
    code = "import sys; from fastmq.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    output = python("-c", code)
    for name, entry in COMMANDS.items():
        assert f"  {name} " in output
        assert entry.module not in output.split()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_page_of_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: fastmq {name}" in result.output


def test_a_mistyped_command_gets_a_suggestion() -> None:
    result = run("serv")
    assert result.exit_code == 2
    assert "No such command 'serv'. Did you mean 'serve'?" in result.output


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "wrong.toml"], "wrong.toml:2: mqtt.maximum_qos: must be one of 0, 1, 2, not 3"),
        (["--config", "none.toml"], "none.toml: cannot read the settings: No such file or directory"),
        (["--set", "mqtt.maximum_qos=3"], "--set: mqtt.maximum_qos: must be one of 0, 1, 2, not 3"),
        (["--set", "maximum_qos=1"], "--set: maximum_qos: no such setting; did you mean mqtt.maximum_qos?"),
        (["--set", "mqtt.maximum_qos"], "--set: mqtt.maximum_qos: write it as section.key=value"),
        (
            ["--listen", "quic://a:1"],
            "--listen: listen[0]: 'quic://a:1': quic:// is not supported; this version listens on "
            "tcp://, tls://, ws://, wss://, unix://",
        ),
    ],
)
def test_a_wrong_setting_ends_it_with_code_2(command: str, arguments: list[str], expected: str) -> None:
    Path("wrong.toml").write_text("[mqtt]\nmaximum_qos = 3\n")
    result = run(command, *arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, expected + "\n", "")


def test_check_prints_every_setting_and_where_it_came_from() -> None:
    Path("f.toml").write_text("[mqtt]\nmaximum_qos = 1\n")
    result = run("check", "-c", "f.toml", "--listen", "tcp://[::1]:1", "--listen", "tcp://a:2", "--log-level", "debug")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in result.stdout.splitlines()}
    assert list(rows) == list(declared())
    assert " ".join(rows["listen"].split()) == '["tcp://[::1]:1", "tcp://a:2"] --listen'
    assert rows["mqtt.maximum_qos"].split() == ["1", "f.toml:2"]
    assert rows["log.level"].split() == ['"debug"', "--log-level"]
    assert rows["mqtt.packet_max_bytes"].split() == ["1048576", "default"]


def test_on_a_terminal_check_draws_a_table() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fastmq", "check", "--set", "shared.strategy=sticky"]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=theirs, cwd=ROOT, env=environment) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 65_536):
                seen += part
    os.close(ours)
    assert process.returncode == 0
    (row,) = [line for line in seen.decode().splitlines() if "shared.strategy" in line]
    assert '"sticky"' in row
    assert "--set" in row


def test_check_speaks_json() -> None:
    result = run("check", "--json", FASTMQ_QUEUE__MESSAGES_MAX="5", FASTMQ_CONFIG="")
    assert result.exit_code == 0
    table = json.loads(result.stdout)
    assert list(table) == list(declared())
    assert table["queue.messages_max"] == {"value": 5, "default": 1000, "origin": "FASTMQ_QUEUE__MESSAGES_MAX"}
    assert table["listen"]["value"] == ["tcp://127.0.0.1:1883"]


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (["cluster.name=a/b"], "cluster.name"),
        (["cluster.name=x", "cluster.join=10.0.0.7:port"], "cluster.join"),
        (["store.engine=jetstream"], "cluster.name is missing"),
        (["store.engine=jetstream", "cluster.name=x"], "jetstream.urls is empty"),
        (["store.engine=jetstream", "cluster.name=x", "jetstream.urls=http://a"], "jetstream.urls: 'http://a'"),
        (["store.engine=jetstream", "cluster.name=x", "jetstream.serve=true", "jetstream.listen=a:b"], "jetstream.l"),
    ],
    ids=lambda each: each[-1] if isinstance(each, list) else "",
)
def test_check_says_which_settings_do_not_go_together(settings: list[str], wrong: str) -> None:
    result = run("check", *(word for each in settings for word in ("--set", each)))
    assert result.exit_code == 2
    assert wrong in result.stderr
    assert result.stdout == ""


def test_the_file_may_be_named_by_the_environment() -> None:
    Path("f.toml").write_text("[log]\nformat = 'json'\n")
    table = json.loads(run("check", "--json", FASTMQ_CONFIG="f.toml").stdout)
    assert table["log.format"]["origin"] == "f.toml:2"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_fastmq(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_FASTMQ_COMPLETE={shell}_complete" in result.stdout


def test_completion_knows_the_commands() -> None:
    result = run(_FASTMQ_COMPLETE="bash_complete", COMP_WORDS="fastmq ch", COMP_CWORD="1")
    assert result.stdout.split() == ["plain,check"]


def test_it_starts_at_once() -> None:
    """The best of five, since this measures the program and not the machine's other work."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        python("-m", "fastmq", "--version")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.15


def test_public_names_are_lazy_and_real() -> None:
    code = "import sys, fastmq; print(*sys.modules)"
    assert not {"uvloop", "asyncio", "fastmq._message"} & set(python("-c", code).split())
    assert {"Broker", "Message", "__version__"} <= set(dir(fastmq))
    assert all(hasattr(fastmq, name) for name in fastmq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Brocker'"):
        fastmq.Brocker  # noqa: B018
