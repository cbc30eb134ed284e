"""The machine that fails on demand: a program on it sees the faults, and finds after a power cut what it synced."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq.testing.powerloss import Machine, compile_shim

YEAR_S = 365.25 * 86_400


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def machine(tmp_path: Path, disk: Path, shim: Path) -> Iterator[Machine]:
    (tmp_path / "room").mkdir()
    made = Machine(disk, tmp_path / "room", loses_power=True, shim=shim)
    yield made
    made.close()


def run(machine: Machine, program: str) -> str:
    """Runs a program in the disk's folder; it ends as if it had been killed."""
    source = "import errno, os, sqlite3, time\n" + textwrap.dedent(program) + "\nos._exit(0)"
    environment = {**os.environ, **machine.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=machine.disk, env=environment, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def cut(machine: Machine, program: str, *, keeps_some: bool = False) -> dict[str, bytes]:
    """The files that are there when the power came back."""
    run(machine, program)
    machine.cut_power(keeps_some=keeps_some)
    return {
        str(path.relative_to(machine.disk)): path.read_bytes() for path in machine.disk.rglob("*") if path.is_file()
    }


WRITE = """
folder = os.open(".", os.O_RDONLY)
def write(name, data, flags=0, sync=os.fsync):
    file = os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o600)
    os.write(file, data)
    if sync:
        sync(file)
    return file
"""


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("write('a', b'one'); os.fsync(folder)", {"a": b"one"}),
        ("write('a', b'one', sync=os.fdatasync); os.fdatasync(folder)", {"a": b"one"}),
        ("write('a', b'one', os.O_DSYNC, sync=None); os.fsync(folder)", {"a": b"one"}),
        ("write('a', b'one', sync=None); os.fsync(folder)", {"a": b""}),
        ("write('a', b'one')", {}),
        ("write('a', b'one', sync=lambda file: os.sync())", {}),
        ("file = write('a', b'one'); os.fsync(folder); os.write(file, b'two')", {"a": b"one"}),
        ("file = write('a', b'one'); os.fsync(folder); os.pwrite(file, b'two', 0)", {"a": b"one"}),
        (
            "file = write('a', b'one'); os.fsync(folder); os.pwrite(file, b'two', 5); os.fsync(file)",
            {"a": b"one\0\0two"},
        ),
        (
            "file = write('a', b'one'); os.fsync(folder); os.writev(file, [b't', b'wo']); os.fsync(file)",
            {"a": b"onetwo"},
        ),
        ("file = write('a', b'one'); os.fsync(folder); os.ftruncate(file, 1)", {"a": b"one"}),
        ("file = write('a', b'one'); os.fsync(folder); os.ftruncate(file, 1); os.fsync(file)", {"a": b"o"}),
        (
            "file = write('a', b'one'); os.fsync(folder); os.ftruncate(file, 1); os.ftruncate(file, 3); os.fsync(file)",
            {"a": b"o\0\0"},
        ),
        ("write('a', b'one'); os.fsync(folder); os.rename('a', 'b')", {"a": b"one"}),
        ("write('a', b'one'); os.fsync(folder); os.rename('a', 'b'); os.fsync(folder)", {"b": b"one"}),
        ("write('a', b'one'); os.fsync(folder); os.unlink('a')", {"a": b"one"}),
        ("write('a', b'one'); os.fsync(folder); os.unlink('a'); os.fsync(folder)", {}),
        ("write('a', b'one'); os.fsync(folder); os.unlink('a'); write('a', b'two')", {"a": b"one"}),
        ("os.mkdir('d'); write('d/a', b'one'); os.fsync(os.open('d', os.O_RDONLY))", {}),
        ("os.mkdir('d'); write('d/a', b'one'); os.fsync(os.open('d', os.O_RDONLY)); os.fsync(folder)", {"d/a": b"one"}),
    ],
)
def test_after_a_power_cut_there_is_what_was_synced(machine: Machine, program: str, found: dict[str, bytes]) -> None:
    assert cut(machine, WRITE + program) == found


def test_what_was_there_before_is_there_after_every_cut(machine: Machine, disk: Path) -> None:
    (disk / "deep").mkdir()
    (disk / "deep/old").write_bytes(b"old")
    for _ in range(2):
        assert cut(machine, WRITE + "write('new', b'n', sync=None)") == {"deep/old": b"old"}


def test_what_an_earlier_process_left_is_synced_by_the_next(machine: Machine) -> None:
    run(machine, WRITE + "write('a', b'one', sync=None)")
    assert cut(machine, WRITE + "os.fsync(os.open('a', os.O_RDONLY)); os.fsync(folder)") == {"a": b"one"}


def test_blocks_that_were_not_synced_may_be_there_nevertheless(machine: Machine) -> None:
    program = WRITE + "file = write('a', b's' * 65536); os.fsync(folder); os.pwrite(file, b'w' * 65536, 0)"
    found = cut(machine, program, keeps_some=True)["a"]
    blocks = {found[at : at + 4096] for at in range(0, len(found), 4096)}
    assert blocks == {b"s" * 4096, b"w" * 4096}


SQLITE = """
def open_(level):
    db = sqlite3.connect("db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={level}")
    db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, filler BLOB)")
    return db
"""


def rows(machine: Machine) -> int:
    count = run(machine, SQLITE + "print(open_('FULL').execute('SELECT count(*) FROM t').fetchone()[0])")
    return int(count)


@pytest.mark.parametrize("keeps_some", [False, True])
@pytest.mark.parametrize(("level", "least", "most"), [("FULL", 300, 300), ("OFF", 0, 299)])
def test_sqlite_loses_commits_only_if_it_does_not_sync(
    machine: Machine, level: str, least: int, most: int, keeps_some: bool
) -> None:
    program = f"""
db = open_({level!r})
for n in range(300):
    db.execute("INSERT INTO t (filler) VALUES (zeroblob(3000))")
"""
    cut(machine, SQLITE + "open_('FULL')")
    cut(machine, SQLITE + program, keeps_some=keeps_some and level == "FULL")
    assert least <= rows(machine) <= most


# -- faults that come and go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "sync_fails"), [("EIO", True), ("ENOSPC", False)])
def test_a_disk_that_fails_takes_no_writes_until_it_works_again(
    machine: Machine, tmp_path: Path, error: str, sync_fails: bool
) -> None:
    program = """
    def error(call, *arguments):
        try:
            call(*arguments)
        except OSError as problem:
            return errno.errorcode[problem.errno]
        return ""
    file = os.open("a", os.O_RDWR | os.O_CREAT)
    elsewhere = os.open(OUTSIDE, os.O_RDWR | os.O_CREAT)
    print(error(os.write, file, b"x"), error(os.pwrite, file, b"x", 0), error(os.ftruncate, file, 0),
          error(os.posix_fallocate, file, 0, 1), error(os.fsync, file), error(os.write, elsewhere, b"x"), sep=",")
    """.replace("OUTSIDE", repr(str(tmp_path / "elsewhere")))
    machine.fail_writes("EIO" if error == "EIO" else "ENOSPC")
    assert run(machine, program).split(",") == [error] * 4 + [error if sync_fails else "", ""]
    machine.fail_writes("")
    assert run(machine, program) == ",,,,,"


@pytest.mark.parametrize("years", [10, -10])
def test_the_wall_clock_jumps_and_the_others_go_on(machine: Machine, years: int) -> None:
    program = """
    db = sqlite3.connect(":memory:")
    print(time.time(), db.execute("SELECT unixepoch()").fetchone()[0], time.monotonic())
    """
    machine.step_clock(years * YEAR_S)
    ours, sqlites, monotonic = map(float, run(machine, program).split())
    assert abs(ours - time.time() - years * YEAR_S) < 60
    assert abs(sqlites - ours) < 60
    assert abs(monotonic - time.monotonic()) < 60


def test_a_power_cut_is_a_new_boot(machine: Machine) -> None:
    program = "print(open('/proc/sys/kernel/random/boot_id').read().strip(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    before = run(machine, program).split()
    again = run(machine, program).split()
    machine.cut_power()
    after = run(machine, program).split()
    assert before[0] == again[0] != after[0]
    assert float(again[1]) >= float(before[1])
    assert 10 <= float(after[1]) < 60
