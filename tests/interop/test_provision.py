"""The script that installs what the tests need: quick when all is there, loud when something is not."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
TOOLS = (
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "head",
    "id",
    "mktemp",
    "printf",
    "rm",
    "sh",
    "sha256sum",
    "tail",
    "tee",
)


def provision(**environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(TESTS / "provision.sh")]
    return subprocess.run(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15
    )


def test_it_has_nothing_to_do_the_second_time() -> None:
    started = time.monotonic()
    done = provision()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 5


def test_it_fails_loudly_without_a_package_tool(tmp_path: Path) -> None:
    for tool in TOOLS:
        for folder in ("/usr/bin", "/bin"):
            if Path(folder, tool).exists():
                (tmp_path / tool).symlink_to(Path(folder, tool))
                break
    done = provision(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "provision: these must be installed by hand, for there is no apt-get here" in done.stderr
    assert "mosquitto-clients" in done.stderr


def test_it_names_what_apt_get_could_not_install(tmp_path: Path) -> None:
    for tool in (*TOOLS, "gcc", "make", "valgrind", "mosquitto_pub", "mosquitto_sub", "python3", "chmod"):
        for folder in ("/usr/bin", "/bin"):
            if Path(folder, tool).exists():
                (tmp_path / tool).symlink_to(Path(folder, tool))
                break
    failing = tmp_path / "apt-get"
    failing.write_text('#!/bin/sh\necho "E: the mirror is down" >&2\nexit 100\n')
    failing.chmod(0o755)
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)
    done = provision(PATH=str(tmp_path), PYTHON="python3")
    assert done.returncode == 1
    assert "E: the mirror is down" in done.stderr
    assert "provision: apt-get could not install:" in done.stderr
    assert "nodejs" in done.stderr


def test_the_lock_of_the_npm_packages_names_no_place_to_fetch_from() -> None:
    lock = (TESTS / "interop" / "node" / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert "registry." not in lock
