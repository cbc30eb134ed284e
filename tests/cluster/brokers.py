"""Brokers of two workers, as a test sees them from outside: their processes, and who has which client."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fastmq.config.place import VARIABLE, Place
from tests.brokerproc import BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.wireclient import Client, ConnectionEnded


@contextmanager
def workers(count: int = 2, settings: Mapping[str, Any] | None = None, **options: Any) -> Iterator[BrokerProcess]:
    """A broker of so many; it must end cleanly."""
    with ended_cleanly(start(count, settings, **options)) as broker:
        yield broker


def start(count: int = 2, settings: Mapping[str, Any] | None = None, **options: Any) -> BrokerProcess:
    return start_fastmq(settings, options=["--workers", str(count), *options.pop("options", ())], **options)


def processes(broker: BrokerProcess) -> dict[int, int]:
    """Index -> process id of its workers."""
    found = {}
    for child in Path(f"/proc/{broker.pid}/task/{broker.pid}/children").read_text().split():
        with suppress(KeyError, FileNotFoundError, ProcessLookupError):  # it begins or ends
            found[place_of(int(child))["index"]] = int(child)
    return found


def place_of(pid: int) -> dict[str, Any]:
    """The place that the parent gave to a worker."""
    variables = dict(each.partition("=")[::2] for each in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    found: dict[str, Any] = json.loads(variables[VARIABLE])
    return found


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_gone(*pids: int, timeout_s: float = 10.0) -> None:
    await_condition(lambda: not any(map(is_running, pids)), timeout_s, f"{pids} are gone")


def await_restart(broker: BrokerProcess, index: int, pid: int, timeout_s: float = 10.0) -> int:
    """Waits until another process than `pid` is that worker, and returns its id."""
    await_condition(lambda: processes(broker).get(index, pid) != pid, timeout_s, f"worker {index} is started again")
    return processes(broker)[index]


def worker_of(broker: BrokerProcess, client_id: str) -> int:
    """The worker that has this client, as the log has it."""
    found = broker.await_log(rf"client connected client={re.escape(client_id)} .*worker=(\d+)")
    return int(found[1])


def one_at_each(
    broker: BrokerProcess, stack: ExitStack, count: int = 2, version: int = 5, prefix: str = "c"
) -> dict[int, Client]:
    """A connected client at every worker."""
    found: dict[int, Client] = {}
    for number in range(100):
        client = joined(broker, stack, name := f"{prefix}{number}", version)
        found.setdefault(worker_of(broker, name), client)
        if len(found) == count:
            return found
    raise AssertionError(f"100 clients are at {sorted(found)} only")


def joined(broker: BrokerProcess, stack: ExitStack, name: str, version: int = 5, **options: Any) -> Client:
    client = Client((broker.host, broker.port), version)
    stack.callback(client.close)
    assert client.connect(name, **options).code == 0
    return client


def code_of(broker: BrokerProcess, name: str, **options: Any) -> int:
    """What a client hears that connects and goes."""
    client = Client((broker.host, broker.port))
    try:
        return client.connect(name, **options).code
    finally:
        client.close()


def is_gone(client: Client) -> bool:
    try:
        client.ping()
    except (ConnectionEnded, OSError):
        return True
    return False


def kill_left(pids: Sequence[int]) -> None:
    """For the end of tests that kill a parent."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


# -- where clients are -------------------------------------------------------------------------------------------------


def named(index: int, prefix: str = "c", count: int = 2) -> str:
    """A client identifier whose home is that worker."""
    place = Place(count=count)
    return next(name for n in range(1000) if place.home((name := f"{prefix}-{n}").encode()) == index)


def at(broker: BrokerProcess, stack: ExitStack, index: int, prefix: str, version: int = 5, **options: Any) -> Client:
    """A connected client whose session is at that worker."""
    return joined(broker, stack, named(index, prefix), version, **options)


def port_of(client: Client) -> int:
    """The client's own port."""
    below: Any = client._socket
    while not hasattr(below, "getsockname"):
        below = below._below
    return int(below.getsockname()[1])


def door_of(broker: BrokerProcess, client: Client) -> int:
    """The worker that has the socket of a client; its session may be at another one."""
    inode = inode_of(broker, client)
    for index, pid in processes(broker).items():
        if f"socket:[{inode}]" in open_files(pid):
            return index
    raise AssertionError("no worker has the client's socket")


def inode_of(broker: BrokerProcess, client: Client) -> str:
    """Which socket is the broker's end of a client's connection."""
    ends = f":{broker.port:04X}", f":{port_of(client):04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return next(row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1]))


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(each))
    return found


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
