"""The same `acl_file` for Debian's mosquitto and for fastmq: who may write and read what is the same."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, ended_cleanly, start_fastmq, start_mosquitto
from tests.wireclient import Client, ConnectionEnded

FILE = """\
# clients without a name
topic read public/#
topic write in

user root
topic readwrite #

user ada
topic readwrite own/ada/#
topic deny own/ada/secret/#
topic read own/ada/secret/open
topic write w/+/x
topic deny public/x

user bob
topic own/bob
topic read own/ada
topic deny p/#

pattern readwrite p/%u/#
pattern read c/%c
pattern deny p/ada/secret
pattern write %c-%u/q
"""

USERS = ("root", "ada", "bob", "eve", None, "+", "a/b")
TOPICS = (
    "public", "public/x", "public/x/y", "in", "own/ada", "own/ada/x", "own/ada/secret", "own/ada/secret/open",
    "own/bob", "own/bob/x", "w/1/x", "w/1/y", "p/ada", "p/ada/x", "p/ada/secret", "p/bob", "p/eve/x", "p/x/y",
    "c/ada-1", "c/bob-1", "c/nobody-1", "ada-1-ada/q", "bob-1-bob/q", "ada-1-bob/q", "p/a/b/x", "p/+/x"[:2] + "z",
)  # fmt: skip


def client(broker: BrokerProcess, clients: ExitStack, user: str | None, id: str = "") -> Client:
    made = Client((broker.host, broker.port), 4)
    clients.callback(made.close)
    assert made.connect(id or f"{user or 'nobody'}-1", username=user).code == 0
    return made


@contextmanager
def running(kind: str, folder: Path) -> Iterator[BrokerProcess]:
    path = folder / "acl"
    path.write_text(FILE)
    folder.chmod(0o755)  # mosquitto becomes a user of its own before it reads this one
    started = (
        start_mosquitto({}, folder, [f"acl_file {path}"])
        if kind == "mosquitto"
        else start_fastmq({"acl.file": str(path)})
    )
    with ended_cleanly(started) as broker:
        yield broker


def written(broker: BrokerProcess, clients: ExitStack) -> set[tuple[str | None, str]]:
    """(user, topic) for all that arrive at one who may read everything."""
    root = client(broker, clients, "root", "reader")
    root.subscribe(("#", 1))
    for user in USERS:
        writer = client(broker, clients, user)
        for topic in TOPICS:
            try:
                writer.publish(topic, str(user).encode())
            except ConnectionEnded:  # mosquitto 2.0.11 cuts the connection of whom a `deny` line speaks of
                writer = client(broker, clients, user)
    return {(message.payload.decode(), message.topic) for message in root.arrived()}


def read(broker: BrokerProcess, clients: ExitStack) -> set[tuple[str | None, str]]:
    """(user, topic) for all that arrive at those who subscribe to everything and to each topic."""
    readers = {user: client(broker, clients, user) for user in USERS}
    for reader in readers.values():
        reader.subscribe(("#", 1))
        for topic in TOPICS:
            reader.subscribe((topic, 1))
    root = client(broker, clients, "root", "writer")
    for topic in TOPICS:
        root.publish(topic, b"x", qos=1)
    return {(str(user), message.topic) for user, reader in readers.items() for message in reader.arrived()}


@pytest.mark.parametrize("look", [written, read])
def test_both_brokers_read_the_file_alike(look: object) -> None:
    found = []
    for kind in ("mosquitto", "fastmq"):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastmq-test-"))
            broker = stack.enter_context(running(kind, Path(folder)))
            found.append(look(broker, stack.enter_context(ExitStack())))  # type: ignore[operator]
    theirs, ours = found
    assert len(theirs) > len(TOPICS)
    assert len(theirs) < len(list(itertools.product(USERS, TOPICS)))
    assert ours == theirs, {"only mosquitto": theirs - ours, "only fastmq": ours - theirs}
