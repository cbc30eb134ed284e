"""Real servers that brokers ask: PostgreSQL, MariaDB, Redis, OpenLDAP. Each on a free port, in a folder of its own.

A server that Debian's package runs under a user of its own is run so here, too, when the tests run as root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.brokerproc import HOST, free_port

START_TIMEOUT_S = 60.0
PASSWORD = "s3cret"


def program(*names: str) -> str:
    """Where a server's program is."""
    for name in names:
        found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/lib/postgresql/15/bin")
        if found:
            return found
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{names[0]}"))
    assert places, f"{names[0]} is missing; run tests/provision.sh"
    return str(places[-1])


class Server:
    """A process that listens on a port, and can be stopped, frozen and started again."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, port: int, user: str = "") -> None:
        self.name, self.port, self.folder = name, port, folder
        self._command, self._user = list(command), user if os.geteuid() == 0 else ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                user=self._user or None, group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            assert self._process.poll() is None, f"{self.name} ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"{self.name} does not listen:\n{self.log()}"
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        if self._process is not None:
            for pid in self._family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        """The process and its children: PostgreSQL has one for each connection."""
        assert self._process is not None
        parent = str(self._process.pid)
        stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
        children = [text for text in stats if text.rpartition(")")[2].split()[1] == parent]
        return [self._process.pid, *(int(text.partition(" ")[0]) for text in children)]


@contextlib.contextmanager
def folder_of(user: str) -> Iterator[Path]:
    """A folder that belongs to this user."""
    with tempfile.TemporaryDirectory(prefix="fastmq-server-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user and os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        yield folder


def run(command: Sequence[str], folder: Path, user: str = "", stdin: str = "") -> str:
    as_user = user if user and os.geteuid() == 0 else None
    done = subprocess.run(
        list(command), input=stdin, capture_output=True, text=True, cwd=folder, timeout=120, user=as_user,
        group=pwd.getpwnam(as_user).pw_gid if as_user else None,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def postgresql(schema: str) -> Iterator[tuple[Server, str]]:
    """A server with one database, and its address."""
    user = "postgres"
    with folder_of(user) as folder:
        words = folder / "password"
        words.write_text(PASSWORD)
        words.chmod(0o644)
        data = str(folder / "data")
        run(
            [program("initdb"), "-D", data, "-U", "mqtt", "-A", "scram-sha-256", f"--pwfile={words}", "-N"],
            folder,
            user,
        )
        port = free_port()
        command = [program("postgres"), "-D", data, "-p", str(port), "-h", HOST, "-k", str(folder), "-F"]
        with running(Server("postgresql", command, folder, port, user)) as server:
            url = f"postgresql://mqtt:{PASSWORD}@{HOST}:{port}/postgres"
            deadline = time.monotonic() + START_TIMEOUT_S
            while True:  # it listens before it is ready
                try:
                    run([program("psql"), url, "-v", "ON_ERROR_STOP=1", "-q"], folder, user, schema)
                    break
                except AssertionError as error:
                    if "starting up" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield server, url


@contextlib.contextmanager
def mariadb(schema: str) -> Iterator[tuple[Server, str]]:
    """A server with one database, and its address."""
    user = "mysql"
    with folder_of(user) as folder:
        init = folder / "init.sql"
        init.write_text(
            "CREATE DATABASE mqtt CHARACTER SET utf8mb4;\n"
            f"CREATE USER 'mqtt'@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON mqtt.* TO 'mqtt'@'%';\n"
            f"USE mqtt;\n{schema}"
        )
        init.chmod(0o644)
        data, port = str(folder / "data"), free_port()
        as_user = [f"--user={user}"] if os.geteuid() == 0 else []
        options = ["--no-defaults", f"--datadir={data}", "--skip-test-db", "--auth-root-authentication-method=normal"]
        run([program("mariadb-install-db"), *options, *as_user], folder)
        command = [
            program("mariadbd"), "--no-defaults", f"--datadir={data}", f"--port={port}", f"--bind-address={HOST}",
            f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--init-file={init}",
        ]  # fmt: skip
        with running(Server("mariadb", command, folder, port, user)) as server:
            yield server, f"mysql://mqtt:{PASSWORD}@{HOST}:{port}/mqtt"


@contextlib.contextmanager
def redis(commands: Sequence[Sequence[str]]) -> Iterator[tuple[Server, str]]:
    """A server with a password, these commands worked off, and its address."""
    with folder_of("") as folder:
        port = free_port()
        command = [
            program("redis-server"),
            "--port",
            str(port),
            "--bind",
            HOST,
            "--requirepass",
            PASSWORD,
            "--save",
            "",
        ]
        server = Server("redis", command, folder, port)
        with running(server):
            for each in commands:
                redis_do(server, *each)
            yield server, f"redis://:{PASSWORD}@{HOST}:{port}/0"


def redis_do(server: Server, *words: str) -> str:
    """What Redis answers to a command."""
    to = ["-p", str(server.port), "-a", PASSWORD, "--no-auth-warning"]
    return run([program("redis-cli"), *to, *words], server.folder)


SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.pem
TLSVerifyClient never
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw {password}
directory {folder}/db
maxsize 10485760
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""


@contextlib.contextmanager
def mongodb(documents: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[Server, str]]:
    """A server of MongoDB's protocol with these documents by collection, and the address of its database.

    SecantusDB: neither Debian nor PyPI has MongoDB's own. It is made without passwords, then started with them.
    """
    import pymongo

    with folder_of("") as folder:
        port = free_port()
        command = [
            str(Path(sys.executable).with_name("secantusd-py")), "--host", HOST, "--port", str(port),
            "--storage-path", str(folder / "data"), "--sync-on-commit",
        ]  # fmt: skip
        without: pymongo.MongoClient[dict[str, Any]]
        without = pymongo.MongoClient(f"mongodb://{HOST}:{port}/", serverSelectionTimeoutMS=30_000, connect=False)
        with running(Server("mongodb", command, folder, port)), without:
            without["mqtt"].command("createUser", "mqtt", pwd=PASSWORD, roles=["readWrite"])
            for name, each in documents.items():
                without["mqtt"][name].insert_many([dict(document) for document in each])
        with running(Server("mongodb", [*command, "--auth"], folder, port)) as server:
            yield server, f"mongodb://mqtt:{PASSWORD}@{HOST}:{port}/mqtt"


@contextlib.contextmanager
def slapd(entries: str) -> Iterator[tuple[Server, str, Path]]:
    """A directory with these entries (LDIF), its address, and a folder with ca.pem and its ldaps:// address."""
    from tests.brokerdoors import issue

    with folder_of("") as folder:
        issue(folder)
        (folder / "db").mkdir()
        config = folder / "slapd.conf"
        config.write_text(SLAPD.format(folder=folder, password=PASSWORD))
        run([program("slapadd"), "-f", str(config)], folder, stdin=entries)
        port = free_port()
        secure = free_port()
        urls = f"ldap://{HOST}:{port}/ ldaps://{HOST}:{secure}/"
        server = Server("slapd", [program("slapd"), "-f", str(config), "-h", urls, "-d", "0"], folder, port)
        with running(server):
            (folder / "ldaps").write_text(f"ldaps://localhost:{secure}")
            yield server, f"ldap://localhost:{port}", folder
