"""`fastmq passwd`, and mosquitto_passwd on the same files."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastmq.auth import hashes, password_file

FASTMQ = [sys.executable, "-m", "fastmq", "passwd"]


def passwd(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*FASTMQ, *map(str, words)], input=stdin, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def users(path: Path) -> dict[str, str]:
    return password_file.read(path)


def test_users_come_change_and_go(tmp_path: Path) -> None:
    path = tmp_path / "users"
    assert passwd("-c", path, "ada", stdin="secret\n").returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert hashes.verify(users(path)["ada"], b"secret")
    assert users(path)["ada"].startswith("$argon2id$")
    path.chmod(0o640)
    path.write_text("# first\n" + path.read_text() + "\n# last")
    assert passwd("-b", path, "bob", "hunter2", "-H", "sha512-pbkdf2", "-I", "1000").returncode == 0
    assert users(path)["bob"].startswith("$7$1000$")
    assert passwd(path, "ada", stdin="other\r\n").returncode == 0
    assert hashes.verify(users(path)["ada"], b"other")
    lines = path.read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["# first", "ada", "", "# last", "bob"]
    assert passwd("-D", path, "ada").returncode == 0
    assert list(users(path)) == ["bob"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["users"]


def test_passwords_in_the_clear_are_hashed(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# comment\nada:sec:ret\nbob:$6$c2FsdA==$" + "A" * 86 + "==\n")
    done = passwd("-U", path, "-H", "sha512")
    assert (done.returncode, done.stdout) == (0, f"{path}: 1 passwords hashed\n")
    assert hashes.verify(users(path)["ada"], b"sec:ret")
    assert path.read_text().startswith("# comment\nada:$6$")


def test_mosquitto_reads_ours_and_we_read_theirs(tmp_path: Path) -> None:
    path = tmp_path / "users"
    theirs = ["mosquitto_passwd", "-b", "-c", str(path), "ada", "secret"]
    assert subprocess.run(theirs, capture_output=True, timeout=60).returncode == 0
    assert passwd("-b", "-H", "sha512-pbkdf2", path, "bob", "hunter2").returncode == 0
    assert hashes.verify(users(path)["ada"], b"secret")
    again = ["mosquitto_passwd", "-b", str(path), "eve", "x"]
    assert subprocess.run(again, capture_output=True, timeout=60).returncode == 0
    assert subprocess.run(["mosquitto_passwd", "-D", str(path), "ada"], capture_output=True, timeout=60).returncode == 0
    assert list(users(path)) == ["bob", "eve"]
    assert hashes.verify(users(path)["bob"], b"hunter2")


@pytest.mark.parametrize(
    ("words", "stdin", "code", "says"),
    [
        (["none", "ada"], "x\n", 1, "No such file or directory"),
        (["f", "-D", "nobody"], "", 1, "there is no user nobody"),
        (["f", "a:b"], "x\n", 1, "a user name must have characters, no colon"),
        (["f", "#a"], "x\n", 1, "no # at its start"),
        (["f", ""], "x\n", 1, "a user name must have characters"),
        (["f", "ada"], "\n", 1, "an empty password is none"),
        (["f", "ada"], "", 1, "an empty password is none"),
        (["f"], "", 2, "Missing argument 'USER'"),
        (["f", "ada", "secret"], "", 2, "needs -b"),
        (["-b", "f", "ada"], "", 2, "-b needs the password"),
        (["-U", "f", "ada"], "", 2, "-U takes a file"),
        (["-D", "-c", "f", "ada"], "", 2, "-D goes with neither"),
        (["-H", "md5", "f", "ada"], "", 2, "'md5' is not one of"),
        (["-U", "bad"], "", 1, "bad:1: must be USER:PASSWORD"),
        (["/dev/null/x", "-c", "ada"], "x\n", 1, "Not a directory"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], stdin: str, code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("ada:$6$c2FsdA==$" + "A" * 86 + "==\n")
    (tmp_path / "bad").write_text("no colon\n")
    before = (tmp_path / "f").read_bytes()
    done = passwd(*words, stdin=stdin)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert (tmp_path / "f").read_bytes() == before
    assert "secret" not in done.stderr


@contextmanager
def small_files(bytes_max: int) -> Iterator[None]:
    """The system refuses to write more into a file."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("ada:x\n")
    with small_files(10), pytest.raises(OSError, match="too large"):
        password_file.write(path, "b" * 1000)
    assert path.read_text() == "ada:x\n"
    assert os.listdir(tmp_path) == ["users"]
